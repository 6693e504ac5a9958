"""What a re-ranker is: from a gallery's descriptors to a function of queries, and what that gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from retrieval.ranking.neighbours import Floats

Parameters = Mapping[str, int | float]


Arrays = dict[str, np.ndarray]

SIFT, XFEAT = "sift", "xfeat"  # kinds of local features


class Moved(NamedTuple):
    """Search again with these descriptors (Q, D), in these (N, D): by inner product, ties by ascending id."""

    queries: Floats
    gallery: Floats


class Reordered(NamedTuple):
    """The first n answers of each query in a new order: ``ids`` (Q, n) int64, and what the re-ranker found of each, ``scores``
    (Q, n), greater is better. All other images follow as before."""

    ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]


Outcome = Moved | Reordered


Online = Callable[[Floats], Outcome]


def _compute(name: str, parameters: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
    return compute()


@dataclass(frozen=True)
class Context:
    """What a re-ranker may use besides descriptors.

    ``keep(name, parameters, compute)`` returns ``compute()``, arrays by name, or what it gave before for the same gallery.
    ``matches(kind, query, ids)`` compares local features of a kind, SIFT or XFEAT, of the query with this number with those of
    gallery images: how many points of each agree in one geometry (len(ids),). Only "verify" and "xfeat" need it.
    """

    keep: Callable[[str, Mapping[str, Any], Callable[[], Arrays]], Arrays] = _compute
    matches: Callable[[str, int, npt.NDArray[np.int64]], npt.NDArray[np.integer[Any]]] | None = None


@dataclass(frozen=True)
class Method:
    """A re-ranker as data. ``offline``: whether it prepares something from the whole gallery, once. ``sizes``: parameters that
    say how many neighbours are followed; unless one is named, links that may be chance are left out. ``unit``: of its scores."""

    name: str
    summary: str
    defaults: Parameters
    prepare: Callable[[Floats, Parameters, Context], Online]
    offline: bool = False
    sizes: tuple[str, ...] = ()
    unit: str = ""

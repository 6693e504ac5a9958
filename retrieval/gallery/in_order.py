"""Rankings for many pictures, in the pictures' order: how they are found is given, not known here."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from retrieval.describe.extraction import Described, describe_all
from retrieval.errors import ImageError
from retrieval.gallery.answers import Match, QueryResult, one_box

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrieval.describe.model import Model
    from retrieval.gallery.adding import Picture


def answered_in_order(
    images: Sequence[Picture],
    bbox: Sequence[float] | None,
    model: Model,
    find: Callable[[int, np.ndarray], list[Match]],
    *,
    load: Callable[[int], np.ndarray] | None = None,
    first: np.ndarray | None = None,
    min_score: float | None = None,
    min_probability: float | None = None,
) -> Iterator[QueryResult]:
    """One result for each of ``images``, in order, each as soon as it is there. ``find`` gives the matches of the picture of this
    number for its descriptor (D,); ``load`` (default: the model's own) its pixels; ``first``: the descriptor of the first one,
    where it is there already. Matches below ``min_score`` or
    ``min_probability`` are left out and counted. A picture that cannot be read gives a result with an ``error``, and the others
    go on. Raises UsageError for a box beside several pictures."""
    box = one_box(bbox, len(images))
    least = -np.inf if min_score is None else min_score
    likely = 0.0 if min_probability is None else min_probability
    done: dict[int, QueryResult] = {}
    position = 0
    load = load or (lambda i: model.load(images[i], bbox))
    begun = [] if first is None else [Described(0, first)]
    for described in chain(begun, describe_all(range(len(begun), len(images)), load, model.engine)):
        source = images[described.item]
        name = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
        matches: list[Match] = []
        error = described.error
        if described.descriptor is not None:
            try:
                matches = find(described.item, described.descriptor)
            except ImageError as trouble:  # gone since the network got it
                error = trouble
        kept = [match for match in matches if match.score >= least and (match.probability or 0.0) >= likely]
        done[described.item] = QueryResult(name, box, kept, error, len(matches) - len(kept))
        while position in done:
            yield done.pop(position)
            position += 1

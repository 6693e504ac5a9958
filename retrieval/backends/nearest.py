"""The best entries of a back end for a query: as many candidates are fetched as it takes to be sure of scores and ties."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from retrieval.backends.base import Backend
from retrieval.backends.scores import ordered
from retrieval.gallery.nearest import margin

_EFFORT = 128  # where none was tuned
_MOST_CANDIDATES = 10_000
_OWN_COPIES = 3  # of the picture that asks, and itself, which are looked for at first


def best_of(
    backend: Backend, query: npt.NDArray[np.float32], k: int, below: str | None = None, without: str | None = None
) -> list[tuple[str, float]]:
    """Names and scores of the ``k`` best for a query (D,), equal scores by name; ``below`` a name, where all are looked at.
    ``without``: the content hash of entries to be left out."""
    count = k if without is None else k + _OWN_COPIES
    while True:
        found = _nearest(backend, query, count, below)
        if without is None:
            return found
        seen = backend.seen([name for name, _ in found])
        left = [(name, score) for name, score in found if name not in seen or seen[name].hash != without]
        if len(left) >= k or len(found) < count:
            return left[:k]
        count *= 4


def _nearest(backend: Backend, query: npt.NDArray[np.float32], k: int, below: str | None) -> list[tuple[str, float]]:
    wanted, exact = 2 * k + 20, below is not None
    effort = int(backend.description.get("effort", _EFFORT))
    while True:
        if exact or wanted > _MOST_CANDIDATES:
            exact = True
            found = backend.exact(query[None], wanted, below)[0]
        else:
            found = backend.nearest(query, wanted, max(effort, wanted))
        ranked = ordered(query, found)
        if exact and found.all:
            return ranked[:k]
        # Scores that tie with the k-th may also lie beyond the candidates: look further until one is lower.
        if len(ranked) >= k and ranked[k - 1][1] > ranked[-1][1] + margin(len(query)):
            return ranked[:k]
        exact = exact or found.all  # an index that gives fewer than were asked for may have starved
        wanted *= 1 if found.all else 4

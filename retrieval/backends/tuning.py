"""How hard an engine's index has to look: measured against looking at every vector, and kept with the gallery."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from retrieval.backends.base import Backend, Candidates
from retrieval.backends.scores import ordered

RECALL = 0.98
_EFFORTS = (64, 128, 256, 512, 1000)
_QUERIES, _K = 60, 10


def tune(backend: Backend, recall: float = RECALL) -> tuple[float, int]:
    """Measure with 60 queries that are no members, and keep the least effort that reaches ``recall``@10 (else the greatest).
    Returns the recall and the effort.

    A query is a stored vector, which is then no answer to it, moved along the difference of two others, 0.5 to 1.25 long.
    """
    own = backend.sample(3 * _QUERIES)
    count = len(own.names) // 3
    units = own.vectors / np.maximum(np.linalg.norm(own.vectors, axis=1, keepdims=True), 1e-12)
    ways = units[count : 2 * count] - units[2 * count : 3 * count]
    ways *= np.linspace(0.5, 1.25, count)[:, None] / np.maximum(np.linalg.norm(ways, axis=1, keepdims=True), 1e-12)
    queries = (units[:count] + ways).astype(np.float32)
    asked = list(zip(own.names, queries, strict=False))
    exact = backend.exact(queries, 4 * _K)
    truths = [_first(name, query, found) for (name, query), found in zip(asked, exact, strict=True)]
    share, effort = 1.0, _EFFORTS[0]
    for effort in _EFFORTS:
        hits = [
            len(truth & _first(name, query, backend.nearest(query, _K + 1, effort)))
            for (name, query), truth in zip(asked, truths, strict=True)
        ]
        share = sum(hits) / sum(map(len, truths)) if truths else 1.0
        if share >= recall:
            break
    backend.describe({"effort": effort, "recall": share, "queries": count})
    return share, effort


def _first(own: str, query: npt.NDArray[np.float32], found: Candidates) -> set[str]:
    """The first ten that are not the vector that a query began at."""
    return set([name for name, _ in ordered(query, found) if name != own][:_K])

"""Scores of candidates, computed on our side: cosines in float64, equal ones by name."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from retrieval.backends.base import Candidates


def ordered(query: npt.NDArray[np.float32], found: Candidates) -> list[tuple[str, float]]:
    """Names and cosines in float64, row by row as in a folder's gallery; equal scores by name."""
    wide = query.astype(np.float64)
    block = found.vectors.astype(np.float64)
    lengths = np.maximum(np.sqrt((block * block).sum(axis=1)), 1e-12) * (float(np.linalg.norm(wide)) or 1.0)
    scores = np.clip((block * wide).sum(axis=1) / lengths, -1.0, 1.0).tolist()
    return sorted(zip(found.names, scores, strict=True), key=lambda pair: (-pair[1], pair[0].encode()))


class Best:
    """The ``k`` nearest to a query so far. ``all``: nothing was left out."""

    def __init__(self, query: npt.NDArray[np.float32], k: int) -> None:
        self.query, self.k = np.asarray(query, np.float64), k
        self.names: list[str] = []
        self.vectors: npt.NDArray[np.float32] = np.zeros((0, len(query)), np.float32)
        self._scores = np.zeros(0)
        self.all = True

    def add(self, names: list[str], vectors: npt.NDArray[np.float32]) -> None:
        lengths = np.maximum(np.linalg.norm(vectors.astype(np.float64), axis=1), 1e-12)
        scores = np.concatenate([self._scores, (vectors @ self.query) / lengths])
        kept = np.argsort(-scores, kind="stable")[: self.k]
        self.all &= len(kept) == len(scores)
        every = self.names + names
        self.names = [every[i] for i in kept]
        self.vectors = np.concatenate([self.vectors, vectors])[kept]
        self._scores = scores[kept]

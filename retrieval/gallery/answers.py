"""What a query is answered with: matches, their scores in float64, and ties broken by ascending id."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrieval.errors import ImageError, UsageError
from retrieval.gallery.search import candidates
from retrieval.gallery.store.vectors import VectorStore
from retrieval.ranking.evidence import LIKELY, SAME


@dataclass(frozen=True)
class Match:
    """One answer: ``score`` is the cosine similarity in [-1, 1]; ``path`` opens as printed from the current folder, or is the
    key under which a program added the picture; ``metadata`` is what it added with it.

    Where the gallery has a local index: ``probability`` that it shows the same thing, ``verdict`` ("same", "likely", "similar" or
    None), ``fused`` the log-odds that the order follows, ``local`` the similarity of local features in [0, 1], ``inliers`` how
    many of these agree in one pose. None where it was not computed.

    ``copies``: paths of the copies that were folded into this answer, by rank.
    """

    rank: int
    score: float
    id: int
    path: str
    metadata: dict[str, Any] | None = None
    local: float | None = None
    fused: float | None = None
    inliers: int | None = None
    probability: float | None = None
    verdict: str | None = None
    copies: tuple[str, ...] = ()


@dataclass(frozen=True)
class QueryResult:
    """The ranking for one query picture; ``query`` is its path, "" for one in memory. ``error``: why there is none.
    ``filtered``: how many of the first k were left out by a least score or probability."""

    query: str
    bbox: tuple[float, float, float, float] | None
    matches: list[Match] = field(default_factory=list)
    error: ImageError | None = None
    filtered: int = 0

    @property
    def found(self) -> bool | None:
        """Whether a match shows the same thing, for sure or likely; None where no verdict was given."""
        if not any(match.probability is not None for match in self.matches):
            return None
        return any(match.verdict in (SAME, LIKELY) for match in self.matches)


def one_box(bbox: Sequence[float] | None, pictures: int) -> tuple[float, float, float, float] | None:
    """A query's box (x1, y1, x2, y2) as numbers. Raises UsageError for a box beside several ``pictures``."""
    if bbox is None:
        return None
    if pictures != 1:
        raise UsageError("a box goes with one picture, not with a list")
    return float(bbox[0]), float(bbox[1]), float(bbox[2]), float(bbox[3])


def nearest(vector: np.ndarray, k: int, source: candidates.Source, store: VectorStore) -> tuple[np.ndarray, np.ndarray]:
    """Ids and scores of the ``k`` best, by descending score, then ascending id."""
    stage = 0
    while True:
        found = source.candidates(vector, k, stage)
        scores = cosines(vector, store, found.rows)
        order = np.lexsort((found.ids, -scores))
        # Scores that tie with the k-th may also lie beyond the candidates: look further until one is lower.
        if found.all or (len(order) >= k and scores[order[k - 1]] > scores[order[-1]] + 1e-6):
            return found.ids[order[:k]], scores[order[:k]]
        stage += 1


def nearest_rows(
    vector: np.ndarray, k: int, ids: np.ndarray, rows: np.ndarray, store: VectorStore
) -> tuple[np.ndarray, np.ndarray]:
    """The same among these pictures alone, all of which are looked at: ``ids`` and their ``rows``, both int64 (N,)."""
    scores = cosines(vector, store, rows)
    order = np.lexsort((ids, -scores))[:k]
    return ids[order], scores[order]


def cosines(vector: np.ndarray, store: VectorStore, rows: np.ndarray) -> np.ndarray:
    """Cosine similarities in float64, row by row, so that equal vectors get equal scores."""
    query = vector.astype(np.float64)
    length = float(np.linalg.norm(query)) or 1.0
    out = np.empty(len(rows))
    for begin in range(0, len(rows), 4096):
        block = store.take(rows[begin : begin + 4096], check=True).astype(np.float64)
        norms = np.sqrt((block * block).sum(axis=1))
        out[begin : begin + 4096] = (block * query).sum(axis=1) / (np.maximum(norms, 1e-12) * length)
    return np.clip(out, -1.0, 1.0)

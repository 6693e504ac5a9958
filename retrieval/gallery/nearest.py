"""The best of a gallery's vectors for one query: scores in float64, and ties broken by ascending id."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from retrieval.errors import UsageError
from retrieval.gallery.given import real_numbers
from retrieval.gallery.search import candidates
from retrieval.gallery.store.vectors import VectorStore


def checked_queries(vectors: npt.ArrayLike, dim: int) -> np.ndarray:
    """Descriptors to be searched for, float32 (Q, D). Raises UsageError for another shape and for what is not finite."""
    queries = real_numbers(vectors, np.float32, f"descriptors are numbers, a row for each query, not {vectors!r:.60}")
    if queries.ndim != 2 or queries.shape[1] != dim:
        hint = "One alone is searched as vector[None]." if queries.shape == (dim,) else ""
        raise UsageError(f"descriptors of shape (Q, {dim}) are needed, not {queries.shape}", hint)
    if not np.isfinite(queries).all():
        raise UsageError("the query's descriptor is not finite")
    return queries


def nearest(vector: np.ndarray, k: int, source: candidates.Source, store: VectorStore) -> tuple[np.ndarray, np.ndarray]:
    """Ids and scores of the ``k`` best, by descending score, then ascending id."""
    stage = 0
    while True:
        found = source.candidates(vector, k, stage)
        scores = cosines(vector, store, found.rows)
        order = np.lexsort((found.ids, -scores))
        # Scores that tie with the k-th may also lie beyond the candidates: look further until one is lower.
        if found.all or (len(order) >= k and scores[order[k - 1]] > scores[order[-1]] + margin(len(vector))):
            return found.ids[order[:k]], scores[order[:k]]
        stage += 1


def margin(dim: int) -> float:
    """Twice what a cosine of ``dim`` values in float32, by which candidates are chosen, may be wrong by, and more: 2.7e-7 was
    seen with 2,048 values, 7.5e-7 with 43,008."""
    return 1e-6 * math.sqrt(max(1.0, dim / 8192))


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

"""Re-ranking with k-reciprocal neighbours (Zhong et al., CVPR 2017): two images are alike if their neighbourhoods are.

Works without labels on a whole (small) gallery or on the first answers of each query. Descriptors are rows of unit
length, and the distance of two is d = 1 - cosine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import UsageError, whole_number
from retrieval.ranking.neighbours import Floats, top_k


def reciprocal_distances(
    queries: Floats, gallery: Floats, k1: int = 20, k2: int = 6, lambda_: float = 0.3
) -> npt.NDArray[np.float32]:
    """Distances (Q, N) float32 of the queries (Q, D) to the gallery (N, D): (1 - lambda) d_Jaccard + lambda d (eq. 12).

    Queries and gallery are encoded together by :func:`reciprocal_encoding`, so a query's result depends on the others.
    With sparse encodings v (rows sum to 1), d_Jaccard(a, b) = 1 - sum min(v_a, v_b) / sum max(v_a, v_b) (eq. 10).
    Defaults are the paper's. Cost: neighbours of all (Q + N)^2 D, then the encodings' common entries; memory Q N.
    """
    if not 0 <= lambda_ <= 1:
        raise UsageError(f"lambda lies between 0 (Jaccard distance alone) and 1 (the original one), not {lambda_}")
    queries, gallery = np.asarray(queries, np.float32), np.asarray(gallery, np.float32)
    count = len(queries)
    encoding = reciprocal_encoding(np.concatenate([queries, gallery]), k1, k2)
    columns = encoding[count:].tocsc()  # by feature: which gallery images have it, and how strongly
    distances = np.empty((count, len(gallery)), np.float32)
    for i in range(count):
        own = slice(encoding.indptr[i], encoding.indptr[i + 1])
        common = np.zeros(len(gallery))
        for feature, weight in zip(encoding.indices[own], encoding.data[own], strict=True):
            part = slice(columns.indptr[feature], columns.indptr[feature + 1])
            common[columns.indices[part]] += np.minimum(weight, columns.data[part])
        distances[i] = (1 - lambda_) * (1 - common / (2 - common)) + lambda_ * (1 - queries[i] @ gallery.T)
    return distances


def rerank_shortlists(
    queries: Floats, gallery: Floats, ids: npt.NDArray[np.integer[Any]], k1: int = 20, k2: int = 6, lambda_: float = 0.3
) -> npt.NDArray[np.int64]:
    """Re-order each query's first answers ``ids`` (Q, K) by the reciprocal distance within {query, its K answers}.

    Returns the same ids (Q, K) int64, nearest first; equal distances keep their order. K should be several times k1
    (100 and more). Ids of -1 (missing) stay last. Cost: K^2 D a query, whatever the gallery's size.
    """
    if ids.ndim != 2 or len(ids) != len(queries):
        raise UsageError(f"shortlists of shape {ids.shape} for {len(queries)} queries", "Give one row for each query")
    result = np.full(ids.shape, -1, np.int64)
    for i, answers in enumerate(ids):
        answers = answers[answers >= 0]
        if len(answers):
            distances = reciprocal_distances(queries[i : i + 1], gallery[answers], k1, k2, lambda_)[0]
            result[i, : len(answers)] = answers[np.argsort(distances, kind="stable")]
    return result


def reciprocal_encoding(vectors: Floats, k1: int = 20, k2: int = 6) -> Any:
    """Encode each vector (N, D) by its reciprocal neighbours: a scipy CSR matrix (N, N) whose rows sum to 1.

    R(p, k) holds those of p's k nearest that have p among their k nearest (p itself included). R(q, k1/2) of each member
    q joins R(p, k1) where at least two thirds of it are in R(p, k1) already (eq. 5). Members g get the weight
    exp(-d(p, g)) (eq. 7); the encoding of p is then averaged over its k2 nearest, p included (eq. 11).
    """
    k1, k2 = whole_number("k1", k1), whole_number("k2", k2)
    vectors = np.asarray(vectors, np.float32)
    n = len(vectors)
    ids, _ = top_k(vectors, vectors, max(k1 + 1, k2))
    # Each vector is its own first neighbour, even where copies of it with smaller ids come before.
    own = np.arange(n)[:, None]
    others = np.take_along_axis(ids, np.argsort(ids == own, axis=1, kind="stable"), axis=1)[:, :-1]
    nearest = np.concatenate([own, others], axis=1)
    full, half = _reciprocal(nearest[:, : k1 + 1]), _reciprocal(nearest[:, : round(k1 / 2) + 1])
    overlap = full.multiply(full @ half.T).tocsr()  # (p, q): how much of R(q, k1/2) lies in R(p, k1), for q in R(p, k1)
    overlap.data = (3 * overlap.data >= 2 * half.sum(axis=1)[overlap.indices]).astype(np.float64)
    encoding = (full + overlap @ half).tocsr()
    for p in range(n):
        row = slice(encoding.indptr[p], encoding.indptr[p + 1])
        weights = np.exp(vectors[encoding.indices[row]] @ vectors[p] - 1)
        encoding.data[row] = weights / weights.sum()
    return _pattern(nearest[:, :k2]) @ encoding / min(k2, nearest.shape[1])


def _reciprocal(nearest: npt.NDArray[np.int64]) -> Any:
    """R as a 0/1 matrix (N, N): ones where each is among the other's given neighbours."""
    pattern = _pattern(nearest)
    return pattern.multiply(pattern.T).tocsr()


def _pattern(nearest: npt.NDArray[np.int64]) -> Any:
    """A 0/1 matrix (N, N) with ones at each row's neighbours (N, k)."""
    from scipy.sparse import csr_array

    n, k = nearest.shape
    return csr_array((np.ones(n * k), nearest.ravel(), np.arange(0, n * k + 1, k)), (n, n))

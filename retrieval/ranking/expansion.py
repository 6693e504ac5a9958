"""Query expansion and database augmentation: descriptors are moved towards their nearest neighbours, without labels.

All descriptors are rows of unit length. Neighbours come as ids (Q, K) and similarities (Q, K), best first, from
:func:`retrieval.ranking.neighbours.top_k` or any index; an id of -1 marks a missing one. The expanded queries are then
searched again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import DatasetError, UsageError, whole_number

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.integer[Any]]
_GATHERED_VALUES = 1 << 24  # numbers of neighbour vectors held at once: 64 MiB


def average_query_expansion(queries: Floats, gallery: Floats, ids: Integers, k: int = 10) -> npt.NDArray[np.float32]:
    """Average query expansion (Chum et al., "Total recall", ICCV 2007): q' = L2(q + sum of its k nearest neighbours).

    ``queries`` (Q, D), ``gallery`` (N, D), ``ids`` (Q, K) with K >= k. Returns float32 (Q, D) of unit length. The paper
    averages answers that geometry has verified; here the first k are taken as they come, so k should be small.
    Cost: k D additions a query and a second search.
    """
    ids = _neighbours(queries, gallery, ids, k)
    return _moved(queries, gallery, ids, (ids >= 0).astype(np.float32))


def alpha_query_expansion(
    queries: Floats, gallery: Floats, ids: Integers, similarities: Floats, k: int = 50, alpha: float = 3.0
) -> npt.NDArray[np.float32]:
    """Weighted query expansion (Radenovic, Tolias and Chum, TPAMI 2019): q' = L2(q + sum of s_i^alpha g_i), i <= k.

    s_i is the similarity of the i-th neighbour, at least 0; the query itself has weight 1. With alpha = 0 this is
    :func:`average_query_expansion` where similarities are positive; a greater alpha trusts only close neighbours, so k
    matters little. Defaults are the paper's. Shapes, result and cost are those of the average.
    """
    ids = _neighbours(queries, gallery, ids, k)
    return _moved(queries, gallery, ids, _weights(ids, similarities, k, alpha))


def augment_database(
    gallery: Floats, ids: Integers, similarities: Floats, k: int = 10, alpha: float = 3.0
) -> npt.NDArray[np.float32]:
    """Database augmentation (Arandjelovic and Zisserman, CVPR 2012) with weights as in alpha query expansion.

    Each gallery vector becomes L2(g + sum of s_i^alpha g_i) over its k nearest *other* gallery vectors, all from the
    unchanged gallery. ``ids`` and ``similarities`` (N, K) are the neighbours of the gallery in itself with K >= k + 1;
    each vector's own id among them is skipped. alpha = 0 gives plain averages. Returns float32 (N, D) of unit length.
    Cost: the neighbours of the whole gallery (once, N^2 D by brute force); searching costs nothing more.
    """
    own = np.arange(len(gallery))[:, None]
    if len(ids) != len(gallery):
        raise UsageError(f"neighbours of {len(ids)} vectors for a gallery of {len(gallery)}")
    if ids.shape[1] < min(whole_number("k", k) + 1, len(gallery)):
        raise UsageError(f"{ids.shape[1]} neighbours are too few for k = {k}", "Search for k + 1: each finds itself")
    # Others first (stable, so best first), the vector itself last. It is absent where k + 1 copies of it come before.
    order = np.argsort(ids == own, axis=1, kind="stable")[:, :k]
    chosen = np.take_along_axis(ids, order, axis=1)
    chosen = np.where(chosen == own, -1, chosen)
    near = np.take_along_axis(similarities, order, axis=1)
    return alpha_query_expansion(gallery, gallery, chosen, near, chosen.shape[1], alpha)


def _neighbours(queries: Floats, gallery: Floats, ids: Integers, k: int) -> Integers:
    if ids.ndim != 2 or len(ids) != len(queries):
        raise UsageError(f"neighbours of shape {ids.shape} for {len(queries)} queries", "Give one row for each query")
    if ids.shape[1] < min(whole_number("k", k), len(gallery)):
        raise UsageError(f"k = {k} neighbours are wanted, but {ids.shape[1]} are given")
    ids = ids[:, :k]
    if ids.size and (ids.min() < -1 or ids.max() >= len(gallery)):
        raise DatasetError(f"a neighbour's id is not in the gallery of {len(gallery)}")
    return ids


def _weights(ids: Integers, similarities: Floats, k: int, alpha: float) -> npt.NDArray[np.float32]:
    if similarities.ndim != 2 or len(similarities) != len(ids) or similarities.shape[1] < ids.shape[1]:
        raise UsageError(f"similarities of shape {similarities.shape} for neighbours of shape {ids.shape}")
    if alpha < 0:
        raise UsageError(f"alpha must not be negative: {alpha} would prefer distant neighbours")
    near = np.maximum(similarities[:, :k].astype(np.float64), 0.0)
    return np.where(ids >= 0, near**alpha, 0.0).astype(np.float32)


def _moved(
    queries: Floats, gallery: Floats, ids: Integers, weights: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    moved = np.array(queries, dtype=np.float32)
    step = max(1, _GATHERED_VALUES // max(1, ids.shape[1] * moved.shape[1]))
    for start in range(0, len(moved), step):
        part = slice(start, start + step)
        vectors = np.asarray(gallery[np.maximum(ids[part], 0)], dtype=np.float32)
        moved[part] += np.einsum("qk,qkd->qd", weights[part], vectors)
    # Protocol of the field: the small constant keeps a zero vector zero.
    return moved / (np.linalg.norm(moved, axis=1, keepdims=True) + np.float32(1e-6))

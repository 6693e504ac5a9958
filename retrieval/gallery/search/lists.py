"""Inverted lists of one shard, for each query as far as they can hold an answer.

Angles obey the triangle inequality: a picture at the angle t from a query, in a list whose centre is at the angle c from the
query, lies at least c - t from that centre. So once the nearest lists have given k pictures, the farthest of them at the angle
t, a better one can only be in a list whose centre is at most t + ``reach`` from the query, if no picture lies farther than
``reach`` from its list's centre. A far smaller reach will do: in many dimensions a picture's way from its centre leads towards
the query by a small part only. The least reach that finds what was asked for is measured on the gallery (``operating.py``). A
query whose answers are close by, as most are, then looks at few lists, one without a counterpart at many.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from retrieval.gallery.search.kind import layers

FIRST = 8  # lists that every query looks at; that 4 or 16 are worse was not seen
FURTHER = 2  # times the effort that a query looks at, at most


def can_be_told(index: Any) -> bool:
    """Whether the lists of this FAISS index can be looked at in two steps: not behind a table of ids, which they do not know."""
    import faiss

    *around, inner = layers(index)
    known = isinstance(inner, faiss.IndexIVFScalarQuantizer | faiss.IndexIVFFlat | faiss.IndexIVFPQ)
    return known and all(isinstance(layer, faiss.IndexPreTransform) for layer in around)


def within_reach(
    index: Any, queries: np.ndarray, wanted: int, k: int, most: int, reach: float, shown: Any = None
) -> np.ndarray:
    """Ids (Q, wanted) int64 in the order of the index's own scores, -1 where it found fewer: of the :data:`FIRST` lists and of
    those, ``most`` in all, that may hold better ones than the k-th found there. ``queries``: float32 (Q, D), ``reach``: radians,
    ``shown``: a FAISS selector of ids."""
    import faiss

    *around, inner = layers(index)
    for layer in around:
        for step in range(layer.chain.size()):
            queries = faiss.downcast_VectorTransform(layer.chain.at(step)).apply(queries)
    centres, lists = inner.quantizer.search(queries, min(most, inner.nlist))
    scores, ids = _looked(inner, queries, wanted, centres[:, :FIRST], lists[:, :FIRST], shown)
    lengths = np.maximum(np.sqrt(np.einsum("qd,qd->q", queries, queries)), np.float32(1e-12))
    # Where there is no k-th, its score is the least that a float32 can be: nothing to be divided.
    angles = np.arccos(np.clip(scores[:, k - 1], -lengths, lengths) / lengths) + reach
    further = centres[:, FIRST:] >= (np.cos(np.minimum(angles, np.pi)) * lengths)[:, None]
    count = int(further.sum(axis=1).max(initial=0))
    if count:
        behind = slice(FIRST, FIRST + count)
        lists = np.where(further[:, :count], lists[:, behind], -1)
        more = _looked(inner, queries, wanted, centres[:, behind], lists, shown)
        scores, ids = (np.concatenate(both, axis=1) for both in zip((scores, ids), more, strict=True))
        ids = np.take_along_axis(ids, np.argsort(-scores, axis=1, kind="stable")[:, :wanted], axis=1)
    return ids


def _looked(
    index: Any, queries: np.ndarray, wanted: int, centres: np.ndarray, lists: np.ndarray, shown: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The best scores and ids (Q, wanted) in these lists (Q, L), -1 for none, whose centres have these scores (Q, L)."""
    import faiss

    library: Any = faiss
    scores = np.empty((len(queries), wanted), np.float32)
    ids = np.empty((len(queries), wanted), np.int64)
    queries, centres = np.ascontiguousarray(queries), np.ascontiguousarray(centres)
    lists = np.ascontiguousarray(lists)
    arrays = [library.swig_ptr(array) for array in (lists, centres, scores, ids)]
    parameters = library.SearchParametersIVF(nprobe=lists.shape[1], sel=shown)
    # The wrapper of the same name takes no parameters.
    index.search_preassigned_c(len(queries), library.swig_ptr(queries), wanted, *arrays, False, parameters)
    return scores, ids

"""One shard asked: how many candidates it gives for the best k, and how hard it is looked through for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval.gallery.search import kind as ann_kind
from retrieval.gallery.search import lists
from retrieval.gallery.search.note import ShardNote

K = 10  # how many best ones a note's figures are measured for
_BEYOND_K = 16  # candidates beyond k at least, so that ties at the border are seen; each costs the look at its entry


@dataclass(frozen=True)
class Effort:
    """How hard to look for the best ``k``: ``most``, inverted lists to visit or graph nodes to keep; with ``reach`` in radians,
    lists as far as :mod:`lists` says, :data:`lists.FURTHER` times as many at most."""

    k: int
    most: int
    reach: float | None = None


def least(k: int) -> int:
    """How few candidates for the best ``k`` are enough, however good they are."""
    return k + max(_BEYOND_K, k // 4)


def shortlist(note: ShardNote, k: int) -> int:
    """How many candidates to take for the best ``k``: the note's, measured for :data:`K`, and growing slower than k does."""
    result: int = max(least(k), round(note.shortlist * max(1.0, k / K) ** 0.5))
    return result


def effort_for(note: ShardNote, k: int, stage: int = 0) -> Effort:
    """How hard to look for the best ``k``; ``most`` is 1 where the kind knows no effort. Fewer than :data:`K` are looked for as
    so many: the reach is measured from the last of these. At a later stage it is not enough that nothing better can be expected:
    what scores as much is looked for."""
    k = max(k, K)
    most = max(1, round((note.effort or 1) * (k / K) ** 0.5)) * 4**stage
    return Effort(k, most, note.reach if stage == 0 else None)


def search(index: Any, queries: np.ndarray, wanted: int, effort: Effort, shown: Any = None) -> np.ndarray:
    """Ids (Q, wanted) int64 in the order of the index's own scores, -1 where it found fewer.

    ``effort`` is cut to what there is; ``shown``: a FAISS selector of ids.
    """
    import faiss

    library: Any = faiss  # its type stubs lack half of the parameters
    queries = np.ascontiguousarray(queries, np.float32)
    if effort.reach is not None and wanted >= effort.k:
        with threads(1 if len(queries) == 1 else None):
            most = lists.FURTHER * effort.most
            return lists.within_reach(index, queries, wanted, effort.k, most, effort.reach, shown)
    inner = ann_kind.core(index)
    if isinstance(inner, faiss.IndexIVF):
        parameters = library.SearchParametersIVF(nprobe=min(effort.most, inner.nlist), sel=shown)
        if isinstance(faiss.downcast_index(index), faiss.IndexPreTransform):
            parameters = library.SearchParametersPreTransform(index_params=parameters)
    elif isinstance(inner, faiss.IndexHNSW):
        parameters = library.SearchParametersHNSW(
            efSearch=min(max(effort.most, wanted), max(index.ntotal, 1)), sel=shown
        )
    else:
        parameters = library.SearchParameters(sel=shown)
    with threads(1 if len(queries) == 1 else None):
        _, ids = index.search(queries, wanted, params=parameters)
    result: np.ndarray = ids
    return result


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """FAISS on so many threads, None: as many as before. It splits queries between threads: for one query the others are
    woken and waited for, in vain, which on a busy machine takes several times as long as the search."""
    import faiss

    before = faiss.omp_get_max_threads()
    if count is not None:
        faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)

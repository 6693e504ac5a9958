"""Ranks of chosen images by counting what beats them: a million scores are looked at once and never sorted.

An image beats another if its inner product with the query is greater, or equal with a smaller id. Ranks are those of a
full sort of exact (float64) scores; see :mod:`retrieval.ranking.neighbours` for why float32 scores do not suffice.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from retrieval.errors import DatasetError, UsageError
from retrieval.ranking.neighbours import (
    block_rows,
    exact_pairs,
    exact_similarities,
    gallery_block,
    query_block,
    rounding_bound,
)

Floats = npt.NDArray[np.floating[Any]]
Ids = Sequence[int] | npt.NDArray[np.integer[Any]]
RankLists = list[npt.NDArray[np.int64]]
_QUERIES_AT_ONCE = 256
# 64 MiB of float32: the workers hand each other Python's lock less often than with small blocks.
_BLOCK_VALUES = 1 << 24
_CELLS = 1 << 16
_LENGTH_STEP = 1.01


def positive_ranks_from_scores(
    query_vectors: Floats,
    gallery_vectors: Floats,
    positives: Sequence[Ids],
    junk: Sequence[Ids],
    block: int | None = None,
) -> tuple[RankLists, RankLists]:
    """Where each query's positives and junk stand in its full ranking of the gallery, from 0 (junk still counted).

    ``query_vectors`` (Q, D) and ``gallery_vectors`` (N, D) are float16, float32 or float64 (used as float32); the
    gallery may be a memory map. ``positives`` and ``junk`` list Q sets of gallery ids. Returns two lists of Q int64
    arrays, in the order of the ids given. Ties go to the smaller id; the result does not depend on ``block``, the number
    of gallery rows taken at once (default: 64 MiB of float32).

    Cost: the product of the two matrices and a look at each score; memory: a block and its scores for each processor (four
    at most). Raises UsageError for shapes that do not fit, DatasetError for ids out of range or listed twice, and for descriptors
    with NaN or infinite values.
    """
    queries = query_block(query_vectors, gallery_vectors)
    if not len(queries) == len(positives) == len(junk):
        raise UsageError(f"{len(queries)} queries, but {len(positives)} lists of positives, {len(junk)} of junk")
    size = len(gallery_vectors)
    wanted = [_checked(i, p, j, size) for i, (p, j) in enumerate(zip(positives, junk, strict=True))]
    rows = block_rows(gallery_vectors, block, _BLOCK_VALUES)
    ranks: RankLists = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        stop = start + _QUERIES_AT_ONCE
        ranks += _count(queries[start:stop], gallery_vectors, wanted[start:stop], rows)
    split = [len(p) for p in positives]
    return [r[:n] for r, n in zip(ranks, split, strict=True)], [r[n:] for r, n in zip(ranks, split, strict=True)]


def _checked(query: int, positives: Ids, junk: Ids, size: int) -> npt.NDArray[np.int64]:
    ids = np.concatenate([id_array(positives, query), id_array(junk, query)])
    if ids.size and (ids.min() < 0 or ids.max() >= size):
        raise DatasetError(f"query {query}: id {ids[(ids < 0) | (ids >= size)][0]} is not in a gallery of {size}")
    if len(np.unique(ids)) != len(ids):
        raise DatasetError(f"query {query}: an id is listed twice among its positives and junk")
    return ids


def id_array(ids: Ids, query: int) -> npt.NDArray[np.int64]:
    """Gallery ids as int64; UsageError, naming the query, where they are not a list of whole numbers."""
    array = np.asarray(ids)
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(f"query {query}: ids are whole numbers, not {array.dtype} of shape {array.shape}")
    return array.astype(np.int64)


def _count(
    queries: npt.NDArray[np.float32], gallery: Floats, wanted: RankLists, rows: int
) -> list[npt.NDArray[np.int64]]:
    size = len(gallery)
    bars = [_Bars(q, _take(gallery, ids), ids, size) for q, ids in zip(queries, wanted, strict=True)]

    workers = min(4, os.cpu_count() or 1, -(-size // rows))

    def tally(worker: int) -> RankLists:
        totals = [np.zeros(len(ids) + 1, np.int64) for ids in wanted]
        room = np.empty((min(rows, size), gallery.shape[1]), np.float32)
        products = np.empty((len(queries), len(room)), np.float32)
        for start in range(worker * rows, size, workers * rows):
            vectors, largest = gallery_block(gallery, start, start + rows, room)
            scores = np.matmul(queries, vectors.T, out=products[:, : len(vectors)])
            work = _Work(len(vectors))
            unsettled = []
            for bar, row, total in zip(bars, scores, totals, strict=True):
                counts, close = bar.tally(row, vectors.shape[1], largest, work)
                total += counts
                unsettled.append(close)
            exact = exact_pairs(queries, vectors, unsettled)
            for bar, values, close, total in zip(bars, exact, unsettled, totals, strict=True):
                total += bar.settle(values, close + start)
        return totals

    # While one worker reads, converts or counts a block, another multiplies, on its share of the processors.
    share = max(1, (os.cpu_count() or 1) // workers)
    with threadpool_limits(share, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        totals = [sum(parts) for parts in zip(*pool.map(tally, range(workers)), strict=True)]
    return [bar.ranks(total) for bar, total in zip(bars, totals, strict=True)]


def _take(gallery: Floats, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    return np.asarray(gallery[ids], dtype=np.float32)


class _Bars:
    """The exact scores of one query's wanted images, as bars for all others to clear.

    Bars are ordered from the easiest to the hardest to beat (score ascending, then id descending), so an image that
    beats b of them beats the first b, and the rank of bar j is the number of images that beat more than j.
    """

    def __init__(
        self, query: npt.NDArray[np.float32], vectors: npt.NDArray[np.float32], ids: npt.NDArray[np.int64], size: int
    ) -> None:
        scores = exact_similarities(query, vectors, np.arange(len(ids)))
        self.order = np.lexsort((-ids, scores))
        self.query = query
        self.length = float(np.linalg.norm(query.astype(np.float64)))
        self.scores = scores[self.order]
        self.size = size
        # Equal scores share the position of their first bar; with the id this is an ascending integer key.
        self.keys = np.searchsorted(self.scores, self.scores) * size + (size - 1 - ids[self.order])
        self.grids: dict[int, _Grid] = {}

    def tally(
        self, scores: npt.NDArray[np.float32], dim: int, largest: float, work: _Work
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """How many of a block's images surely beat exactly 0, 1, ... bars, int64 (bars + 1,), and the rows left open.

        ``scores`` are float32 products with vectors of ``dim`` values, whose greatest length is ``largest``.
        """
        bars = len(self.scores)
        if bars == 0:
            return np.array([len(scores)]), np.zeros(0, np.int64)
        # A grid serves all blocks of about the same length (all of them, for unit vectors).
        step = math.ceil(math.log(largest, _LENGTH_STEP) - 0.1)
        grid = self.grids.get(step)
        if grid is None:
            tolerance = rounding_bound(dim) * self.length * _LENGTH_STEP ** (step + 0.1)
            grid = self.grids[step] = _Grid(self.scores, tolerance)
        beaten = grid.look_up(scores, work)
        counts = np.bincount(beaten, minlength=bars + 1)[: bars + 1]
        unsure = np.flatnonzero(beaten > bars)
        value = scores[unsure]
        surely = beaten[unsure].astype(np.int64) - (bars + 1)
        further = np.flatnonzero(value > grid.high.take(surely))
        surely[further] = np.searchsorted(grid.high, value[further])
        near = (surely < bars) & (value >= grid.low.take(surely, mode="clip"))
        return counts + np.bincount(surely[~near], minlength=bars + 1), unsure[near]

    def settle(self, scores: npt.NDArray[np.float64], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many images of these exact scores and gallery ids beat exactly 0, 1, ... bars: int64 (bars + 1,)."""
        return np.bincount(self._beaten(scores, ids), minlength=len(self.scores) + 1)

    def _beaten(self, scores: npt.NDArray[np.float64], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        beaten = np.searchsorted(self.scores, scores)
        tied = np.flatnonzero(self.scores.take(beaten, mode="clip") == scores)
        beaten[tied] = np.searchsorted(self.keys, beaten[tied] * self.size + (self.size - 1 - ids[tied]))
        return beaten

    def ranks(self, counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Ranks in the order of the ids given, from the summed tallies."""
        ranks = np.empty(len(self.order), np.int64)
        ranks[self.order] = self.size - np.cumsum(counts[:-1])
        return ranks


class _Grid:
    """A table from float32 scores to the number of bars surely beaten, for all but those within rounding of a bar.

    Scores fall into equal cells. The cell never decreases in the score, so a score in a cell outside all of a bar's
    window is outside the window too, whatever the rounding of the cell's arithmetic.
    """

    def __init__(self, bars: npt.NDArray[np.float64], tolerance: float) -> None:
        self.low = (bars - tolerance).astype(np.float32)
        self.high = (bars + tolerance).astype(np.float32)
        self.origin = self.low[0]
        self.scale = np.float32(_CELLS / max(float(self.high[-1]) - float(self.low[0]), 1e-30))
        work = _Work(len(bars))
        first, last = self._cells(self.low, work).copy(), self._cells(self.high, work).copy()
        open_windows = np.zeros(_CELLS + 3, np.int64)
        np.add.at(open_windows, first, 1)
        np.add.at(open_windows, last + 1, -1)
        beaten = np.searchsorted(last, np.arange(_CELLS + 2))
        beaten[np.cumsum(open_windows)[:-1] > 0] += len(bars) + 1
        small: type[np.signedinteger[Any]] = np.int16 if len(bars) < 1 << 13 else np.int32
        self.table: npt.NDArray[np.signedinteger[Any]] = beaten.astype(small)  # it stays in the cache

    def look_up(self, scores: npt.NDArray[np.float32], work: _Work) -> npt.NDArray[np.signedinteger[Any]]:
        """The number of bars surely beaten by each score; plus bars + 1 where rounding leaves the next ones open."""
        return self.table.take(self._cells(scores, work), mode="clip")

    def _cells(self, scores: npt.NDArray[np.float32], work: _Work) -> npt.NDArray[np.int64]:
        """From 0 (below all windows) to _CELLS + 1."""
        np.subtract(scores, self.origin, out=work.scaled)
        np.multiply(work.scaled, self.scale, out=work.scaled)
        np.add(work.scaled, 1, out=work.scaled)
        np.clip(work.scaled, 0, _CELLS + 1, out=work.scaled)
        np.copyto(work.cells, work.scaled, casting="unsafe")
        return work.cells


class _Work:
    """Room for the intermediate values of n scores, used again for each query."""

    def __init__(self, n: int) -> None:
        self.scaled = np.empty(n, np.float32)
        self.cells = np.empty(n, np.int64)

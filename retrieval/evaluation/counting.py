"""Ranks of chosen images by counting what beats them: a million scores are looked at once and never sorted.

An image beats another if its inner product with the query is greater, or equal with a smaller id. Ranks are those of a
full sort of exact (float64) scores; see :mod:`retrieval.ranking.neighbours` for why float32 scores do not suffice.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
_CELLS = 1 << 16  # at most, from the lowest to the highest bar
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


def _count(queries: npt.NDArray[np.float32], gallery: Floats, wanted: RankLists, rows: int) -> RankLists:
    size = len(gallery)
    bars = _Bars(queries, gallery, wanted)
    workers = min(4, os.cpu_count() or 1, -(-size // rows))

    def tally(worker: int) -> npt.NDArray[np.int64]:
        counts = np.zeros(bars.slots, np.int64)
        room = np.empty((min(rows, size), gallery.shape[1]), np.float32)
        products = np.empty((len(queries), len(room)), np.float32)
        for start in range(worker * rows, size, workers * rows):
            vectors, largest = gallery_block(gallery, start, start + rows, room)
            grid = bars.grid(largest)
            scores = np.matmul(grid.queries, vectors.T, out=products[:, : len(vectors)])
            near = grid.tally(scores, counts)
            exact = exact_pairs(queries, vectors, near.query, near.row)
            bars.settle(near, exact, near.row + start, counts)
        return counts

    # While one worker reads, converts or counts a block, another multiplies, on its share of the processors.
    share = max(1, (os.cpu_count() or 1) // workers)
    with threadpool_limits(share, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        counts = np.sum(list(pool.map(tally, range(workers))), axis=0)
    return bars.ranks(counts, size)


@dataclass
class _Near:
    """Images of a block whose scores rounding leaves open, and between which bars they lie: four int64 arrays of one length.

    All of the query's bars before ``first`` are beaten; that at ``last`` and those after it are not.
    """

    query: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    last: npt.NDArray[np.int64]


class _Bars:
    """The exact scores of each query's wanted images, as bars for all other images to clear.

    A query's bars are ordered from the easiest to the hardest to beat (score ascending, then id descending), so an image
    that beats b of them beats the first b, and the rank of bar j is the number of images that beat more than j. The bars
    of all queries stand in one row, and so do the counts of images: for each query a slot for 0, 1, ... all bars beaten.
    """

    def __init__(self, queries: npt.NDArray[np.float32], gallery: Floats, wanted: RankLists) -> None:
        self.queries = queries
        self.lengths = np.linalg.norm(queries.astype(np.float64), axis=1)
        self.starts = np.cumsum([0] + [len(ids) for ids in wanted])
        self.slots = int(self.starts[-1]) + len(queries)
        self.orders: RankLists = []
        self.scores = np.empty(self.starts[-1])
        self.ids = np.empty(self.starts[-1], np.int64)
        for i, (query, ids) in enumerate(zip(queries, wanted, strict=True)):
            vectors = np.asarray(gallery[ids], dtype=np.float32)
            scores = exact_similarities(query, vectors, np.arange(len(ids)))
            order = np.lexsort((-ids, scores))
            self.orders.append(order)
            self.scores[self.of(i)], self.ids[self.of(i)] = scores[order], ids[order]
        self._grids: dict[int, _Grid] = {}
        self._making = threading.Lock()

    def of(self, query: int) -> slice:
        """Where a query's bars stand; its slots begin ``query`` places later, and are one more."""
        return slice(int(self.starts[query]), int(self.starts[query + 1]))

    def grid(self, largest: float) -> _Grid:
        """The grid for a block whose greatest length is ``largest``. One serves all blocks of about the same: all, for unit
        vectors."""
        step = math.ceil(math.log(largest, _LENGTH_STEP) - 0.1)
        with self._making:
            if step not in self._grids:
                self._grids[step] = _Grid(self, _LENGTH_STEP ** (step + 0.1))
            return self._grids[step]

    def settle(
        self, near: _Near, scores: npt.NDArray[np.float64], ids: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
    ) -> None:
        """Count images by their exact scores and gallery ids, bisecting the bars between which they lie."""
        first, last = near.first, near.last
        while len(left := np.flatnonzero(first < last)):
            middle = (first[left] + last[left]) // 2
            score, bar = scores[left], self.scores[middle]
            beats = (score > bar) | ((score == bar) & (ids[left] < self.ids[middle]))
            first[left[beats]] = middle[beats] + 1
            last[left[~beats]] = middle[~beats]
        counts += np.bincount(first + near.query, minlength=self.slots)

    def ranks(self, counts: npt.NDArray[np.int64], size: int) -> RankLists:
        """Ranks in a gallery of ``size`` images, each query's in the order of its ids given."""
        found: RankLists = []
        for i, order in enumerate(self.orders):
            ranks = np.empty(len(order), np.int64)
            ranks[order] = size - np.cumsum(counts[self.starts[i] + i : self.starts[i + 1] + i])
            found.append(ranks)
        return found


class _Grid:
    """For each query a table from float32 scores to the number of bars surely beaten, but for scores close to a bar.

    Scores fall into cells of length 1: each query is scaled, exactly, by the power of two that spreads its bars over many.
    The cell never decreases in the score, so a score in a cell outside all of a bar's window is outside the window too,
    whatever the rounding of the cell's arithmetic.
    """

    def __init__(self, bars: _Bars, longest: float) -> None:
        """For vectors no longer than ``longest``."""
        self.bars = bars
        reach = longest * bars.lengths
        tolerance = rounding_bound(bars.queries.shape[1]) * reach
        whose = np.repeat(np.arange(len(reach)), np.diff(bars.starts))
        # Bars that no image of the block comes near, such as long vectors' where all of these are short or zero, move
        # close to what it reaches: so far out, cells have numbers that no integer holds.
        scores = np.clip(bars.scores, -2 * reach[whose], 2 * reach[whose])
        scale = np.array([_scale(scores[bars.of(i)], t) for i, t in enumerate(tolerance)])
        self.queries = (bars.queries * scale[:, None]).astype(np.float32)
        low = ((scores - tolerance[whose]) * scale[whose]).astype(np.float32)
        high = ((scores + tolerance[whose]) * scale[whose]).astype(np.float32)
        self.windows = [(low[bars.of(i)], high[bars.of(i)]) for i in range(len(scale))]
        self.tables = [_table(*windows) for windows in self.windows]

    def tally(self, scores: npt.NDArray[np.float32], counts: npt.NDArray[np.int64]) -> _Near:
        """Add to ``counts`` the images of a block that surely beat exactly 0, 1, ... bars; returns the others.

        ``scores`` (queries, images) are products with :attr:`queries`.
        """
        scaled, cells = np.empty(scores.shape[1], np.float32), np.empty(scores.shape[1], np.int64)
        parts = []
        for i, (row, table, (low, high)) in enumerate(zip(scores, self.tables, self.windows, strict=True)):
            before, bars = self.bars.starts[i], len(low)
            slots = counts[before + i : before + i + bars + 1]
            if not bars:
                slots += len(row)
                continue
            beaten = table.take(_cells(row, low[:1], scaled, cells), mode="clip")
            slots += np.bincount(beaten, minlength=bars + 2)[:-1]
            rows = np.flatnonzero(beaten > bars)
            values = row[rows]
            first, last = np.searchsorted(high, values), np.searchsorted(low, values, side="right")
            parts.append((np.full(len(rows), i), rows, first + before, last + before))
        query, rows, first, last = (
            (np.concatenate(x) for x in zip(*parts, strict=True)) if parts else np.zeros((4, 0), int)
        )
        sure = first == last
        counts += np.bincount(first[sure] + query[sure], minlength=len(counts))
        return _Near(*(x[~sure] for x in (query, rows, first, last)))


def _scale(bars: npt.NDArray[np.float64], tolerance: float) -> float:
    span = np.ptp(bars) + 2 * tolerance if len(bars) else 0.0
    return 2.0 ** math.floor(math.log2(_CELLS / span)) if span else 1.0


def _table(low: npt.NDArray[np.float32], high: npt.NDArray[np.float32]) -> npt.NDArray[np.signedinteger[Any]]:
    """By cell, the number of windows (ascending, from low to high) that lie below it; one more than there are where it meets
    a window. The first cell, 0, stands for all scores below the windows, and the last for all above."""
    room = np.empty(len(low), np.float32), np.empty(len(low), np.int64)
    begin = _cells(low, low[:1], *room).copy()
    end = _cells(high, low[:1], *room) + 1
    size = int(end[-1]) + 1 if len(low) else 1
    ended = np.cumsum(np.bincount(end, minlength=size))
    ended[np.cumsum(np.bincount(begin, minlength=size)) > ended] = len(low) + 1
    return ended.astype(np.int16 if len(low) < 1 << 14 else np.int32)  # small: it stays in the cache


def _cells(
    scores: npt.NDArray[np.float32],
    origin: npt.NDArray[np.float32],
    scaled: npt.NDArray[np.float32],
    cells: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """The cells of scores, 1 for ``origin`` (1,); written into ``cells`` by way of ``scaled``. Those below may be negative."""
    np.subtract(scores, origin, out=scaled)
    np.add(scaled, 1, out=scaled)
    np.copyto(cells, scaled, casting="unsafe")
    return cells

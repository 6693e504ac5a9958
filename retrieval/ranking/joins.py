"""All pairs of similar vectors, of one set or between two, without a matrix of all similarities.

Up to some tens of billions of products every pair is looked at, block by block. Beyond, vectors are cut into cells (spherical
k-means) and each is compared with those in the cells nearest to it, cell by cell, so that the work stays a product of
matrices: pairs that are much alike nearly always lie in cells that are neighbours. Products in float32 only choose pairs; the
similarity that is told, and the order, are computed in float64 from the two vectors alone, so results repeat.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from retrieval.errors import UsageError, whole_number
from retrieval.ranking.neighbours import Floats, exact_pairs, gallery_block, query_block, rounding_bound

Ids = npt.NDArray[np.int64]

_EXHAUSTIVE = 1 << 37  # multiplications: 10,000 vectors of 1,280 numbers
_QUERIES, _ROWS = 1024, 4096  # of one block: 16 MiB of similarities
_HELD = 1 << 22  # pairs that wait before the nearest are chosen among them
_PER_CELL = 256
_PROBES = 8
_SAMPLE_PER_CELL, _ROUNDS = 48, 8
_SETTLED = 1 << 16  # pairs scored exactly at once


class Pairs(NamedTuple):
    """Pairs ``first[i]``, ``second[i]``, int64 (P,), by ascending first and second, with their ``cosine``, float64 (P,)."""

    first: Ids
    second: Ids
    cosine: npt.NDArray[np.float64]


def similar_pairs(
    vectors: Floats,
    other: Floats | None = None,
    *,
    least: float,
    k: int | None = None,
    cells: int | None = None,
    probes: int = _PROBES,
) -> Pairs:
    """Pairs of unit vectors whose inner product is ``least`` or more.

    ``vectors`` (N, D), ``other`` (M, D): float16 or float32, memory maps too. Without ``other``, pairs of different rows of
    ``vectors``, each once, ``first < second``; with it, ``first`` counts rows of ``vectors`` and ``second`` of ``other``.
    ``k``: only pairs of which one is among the ``k`` nearest of the other (of ``first``, between two sets), equal ones by
    ascending row. ``cells``: into how many cells the vectors are cut, 0 for none; default: none up to 2^37 products, which
    finds every pair. With cells, each vector is compared with the ``probes`` nearest ones.
    Memory: a few blocks and the pairs found. Raises UsageError for shapes that do not fit, DatasetError for NaN.
    """
    own = other is None
    gallery = vectors if other is None else other
    if np.ndim(vectors) != 2 or np.ndim(gallery) != 2 or np.shape(vectors)[1] != np.shape(gallery)[1]:
        raise UsageError(f"vectors of shapes {np.shape(vectors)} and {np.shape(gallery)} cannot be paired")
    if not np.isfinite(least) or (cells is not None and cells < 0):
        raise UsageError("the least similarity must be a number, and cells 0 or more")
    k = None if k is None else whole_number("k", k)
    if not len(vectors) or not len(gallery):
        return _nothing()
    if cells is None:
        exhaustive = len(vectors) * len(gallery) * vectors.shape[1] <= _EXHAUSTIVE
        cells = 0 if exhaustive else max(2, len(gallery) // _PER_CELL)
    found = _Nearest(vectors, gallery, least, k, own)
    if cells:
        blocks = _cell_blocks(vectors, gallery, min(cells, len(gallery)), whole_number("probes", probes), own)
    else:
        blocks = _all_blocks(len(vectors), len(gallery), skip_below=own and k is None)
    for rows, columns in blocks:
        found.look(rows, columns)
    return found.pairs()


def _nothing() -> Pairs:
    return Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


class _Nearest:
    """Collects pairs above the least similarity; of a row with more than ``k``, those that may be among its nearest."""

    def __init__(self, vectors: Floats, gallery: Floats, least: float, k: int | None, own: bool) -> None:
        self.vectors, self.gallery, self.k, self.own = vectors, gallery, k, own
        self.least = least
        self.slack = 4 * rounding_bound(vectors.shape[1])  # of float32 products of unit vectors, generously
        self.floor = np.full(len(vectors), least - self.slack, np.float32)
        self.parts: list[tuple[Ids, Ids, npt.NDArray[np.float32]]] = []
        self.held, self.most = 0, _HELD
        self.room = np.empty((min(_ROWS, len(gallery)), vectors.shape[1]), np.float32)
        self.kept: tuple[bytes | None, npt.NDArray[np.float32]] = (None, self.room)

    def look(self, rows: Ids, columns: Ids) -> None:
        """Compare these rows with these of the gallery."""
        queries = self._queries(rows)
        for start in range(0, len(columns), _ROWS):
            chosen = columns[start : start + _ROWS]
            block = self._block(chosen)
            similar = queries @ block.T
            hit = similar >= self.floor[rows][:, None]
            if self.own:
                hit &= rows[:, None] != chosen[None] if self.k is not None else rows[:, None] < chosen[None]
            row, column = np.nonzero(hit)
            if len(row):
                self.parts.append((rows[row], chosen[column], similar[row, column]))
                self.held += len(row)
                if self.k is not None and self.held > self.most:
                    self._prune()

    def _queries(self, rows: Ids) -> npt.NDArray[np.float32]:
        key = rows.tobytes()
        if self.kept[0] != key:
            self.kept = key, query_block(self.vectors[_span(rows)], self.gallery)
        return self.kept[1]

    def _block(self, columns: Ids) -> npt.NDArray[np.float32]:
        return gallery_block(self.gallery[_span(columns)], 0, len(columns), self.room)[0]

    def _prune(self) -> None:
        assert self.k is not None
        row, column, similar = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        order = np.lexsort((-similar, row))
        row, column, similar = row[order], column[order], similar[order]
        starts = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
        counts = np.diff(np.r_[starts, len(row)])
        full = counts >= self.k
        last = similar[starts[full] + self.k - 1]  # as near as the k-th
        self.floor[row[starts[full]]] = np.maximum(self.floor[row[starts[full]]], last - self.slack)
        keep = similar >= self.floor[row]
        self.parts = [(row[keep], column[keep], similar[keep])]
        self.held = int(keep.sum())
        self.most = max(_HELD, 2 * self.held)

    def pairs(self) -> Pairs:
        if not self.parts:
            return _nothing()
        if self.k is not None:
            self._prune()
        row, column, _ = (np.concatenate(part) for part in zip(*self.parts, strict=True))
        cosine = np.empty(len(row))
        for start in range(0, len(row), _SETTLED):
            part = slice(start, start + _SETTLED)
            rows, at = np.unique(row[part], return_inverse=True)
            columns, there = np.unique(column[part], return_inverse=True)
            mine = np.asarray(self.vectors[rows], np.float32)
            cosine[part] = exact_pairs(mine, np.asarray(self.gallery[columns], np.float32), at, there)
        order = np.lexsort((column, -cosine, row))
        row, column, cosine = row[order], column[order], cosine[order]
        keep = cosine >= self.least
        row, column, cosine = row[keep], column[keep], cosine[keep]
        if self.k is not None and len(row):
            starts = np.flatnonzero(np.r_[True, row[1:] != row[:-1]])
            place = np.arange(len(row)) - np.repeat(starts, np.diff(np.r_[starts, len(row)]))
            near = place < self.k
            row, column, cosine = row[near], column[near], cosine[near]
        if self.own:
            row, column = np.minimum(row, column), np.maximum(row, column)
        both, once = np.unique(np.stack([row, column], 1), axis=0, return_index=True)
        return Pairs(both[:, 0].copy(), both[:, 1].copy(), np.clip(cosine[once], -1, 1))


def _span(rows: Ids) -> slice | Ids:
    """Neighbouring rows as a slice, which copies nothing."""
    contiguous = len(rows) > 0 and rows[-1] - rows[0] == len(rows) - 1
    return slice(int(rows[0]), int(rows[-1]) + 1) if contiguous else rows


def _all_blocks(count: int, others: int, skip_below: bool) -> Iterator[tuple[Ids, Ids]]:
    for first in range(0, count, _QUERIES):
        rows = np.arange(first, min(first + _QUERIES, count))
        for start in range(0, others, _ROWS):
            if not skip_below or start + _ROWS > first:
                yield rows, np.arange(start, min(start + _ROWS, others))


def _cell_blocks(vectors: Floats, gallery: Floats, cells: int, probes: int, own: bool) -> Iterator[tuple[Ids, Ids]]:
    """For each cell, its members in the gallery, and the vectors that look into it."""
    centres = _centres(gallery, cells)
    looks = _nearest_cells(vectors, centres, min(probes, cells))
    home = looks[:, 0] if own else _nearest_cells(gallery, centres, 1)[:, 0]
    members = _by_cell(home[:, None], cells)
    lookers = _by_cell(looks, cells)
    for inside, outside in zip(members, lookers, strict=True):
        if len(inside):
            for start in range(0, len(outside), _QUERIES):
                yield outside[start : start + _QUERIES], inside


def _by_cell(cells_of: Ids, cells: int) -> list[Ids]:
    """For each cell the rows, ascending, that name it; (N, any) cells of each row."""
    flat = cells_of.ravel()
    order = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[order], np.arange(cells + 1))
    rows = order // cells_of.shape[1]
    return [rows[bounds[c] : bounds[c + 1]] for c in range(cells)]


def _centres(gallery: Floats, cells: int) -> npt.NDArray[np.float32]:
    """Spherical k-means (Dhillon and Modha, 2001) on a sample that is spread evenly; a cell that runs empty keeps its centre."""
    chosen = np.unique(np.linspace(0, len(gallery) - 1, min(len(gallery), cells * _SAMPLE_PER_CELL)).astype(np.int64))
    sample = query_block(gallery[chosen], gallery)
    centres = sample[np.linspace(0, len(sample) - 1, cells).astype(np.int64)].copy()
    for _ in range(_ROUNDS):
        order = np.argsort(home := _nearest_cells(sample, centres, 1)[:, 0], kind="stable")
        filled, starts = np.unique(home[order], return_index=True)
        sums = np.add.reduceat(sample[order], starts, axis=0)
        centres[filled] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return centres


def _nearest_cells(vectors: Floats, centres: npt.NDArray[np.float32], probes: int) -> Ids:
    """The cells nearest to each vector, int64 (N, probes), nearest first."""
    out = np.empty((len(vectors), probes), np.int64)
    for start in range(0, len(vectors), _ROWS):
        similar = query_block(vectors[start : start + _ROWS], centres) @ centres.T
        if probes == 1:
            out[start : start + _ROWS, 0] = similar.argmax(axis=1)
            continue
        best = np.argpartition(similar, -probes, axis=1)[:, -probes:]
        order = np.argsort(-np.take_along_axis(similar, best, 1), axis=1, kind="stable")
        out[start : start + _ROWS] = np.take_along_axis(best, order, 1)
    return out

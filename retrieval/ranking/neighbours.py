"""Exact nearest neighbours by inner product, in blocks, with ties in a fixed order.

A product of float32 matrices rounds differently from place to place: the same vector stored twice can get two scores.
So float32 products only choose candidates, generously; what is close is decided by :func:`exact_similarities`, whose
result depends on the two vectors alone. Equal scores are ordered by ascending id.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import DatasetError, UsageError, whole_number

Floats = npt.NDArray[np.floating[Any]]
_QUERIES_AT_ONCE = 256
_BLOCK_VALUES = 1 << 23  # numbers in one float32 block of gallery vectors: 32 MiB
_EXACT_VALUES = 1 << 16  # numbers in one float64 step: stays in the cache
_PAIR_VALUES = 1 << 18  # more for pairs, which two threads settle at once: they wait for each other less often
_HALF_INFINITY = 2.0**16  # what float16 infinity becomes in _widen; the largest number is 65504
_HALF_PLACES = np.int32(-0x70002000)  # sign, and the 15 bits below 2^28
_HALF_SCALE = np.float32(2.0**112)
_WIDENED_VALUES = 1 << 17  # numbers converted in one step: stays in the cache


def top_k(
    queries: Floats, gallery: Floats, k: int, block: int | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The k gallery vectors with the greatest inner product with each query, best first, equal ones by ascending id.

    ``queries`` (Q, D) and ``gallery`` (N, D) are float16, float32 or float64 (used as float32); the gallery may be a
    memory map. Returns ids (Q, min(k, N)) int64 and similarities of the same shape, float32.
    ``block`` is the number of gallery rows taken at once (default: 32 MiB worth) and does not change the result.
    Cost: Q N D multiplications. Raises UsageError for shapes that do not fit, DatasetError for NaN or infinite values.
    """
    queries = query_block(queries, gallery)
    k = whole_number("k", k)
    n, count = len(gallery), len(queries)
    k, rows = min(k, n), block_rows(gallery, block)
    ids = np.zeros((count, k), np.int64)
    similarities = np.zeros((count, k), np.float32)
    for first in range(0, count, _QUERIES_AT_ONCE):
        chunk = queries[first : first + _QUERIES_AT_ONCE]
        norms = np.linalg.norm(chunk.astype(np.float64), axis=1)
        best = [(np.zeros(0, np.int64), np.zeros(0)) for _ in chunk]
        room = np.empty((min(rows, n), queries.shape[1]), np.float32)
        for start in range(0, n, rows):
            vectors, largest = gallery_block(gallery, start, start + rows, room)
            scores = chunk @ vectors.T
            tolerance = rounding_bound(vectors.shape[1]) * norms * largest
            floor = np.full(len(chunk), -np.inf)
            if len(vectors) > k:
                # At least k vectors truly reach kth - tolerance; what scores below kth - 2 tolerance cannot.
                floor = np.partition(scores, -k, axis=1)[:, -k] - 2 * tolerance
            for i, (found, values) in enumerate(best):
                if len(values) == k:
                    floor[i] = max(floor[i], values[-1] - tolerance[i])
                candidates = np.flatnonzero(scores[i] >= floor[i])
                found = np.concatenate([found, candidates + start])
                values = np.concatenate([values, exact_similarities(chunk[i], vectors, candidates)])
                order = np.lexsort((found, -values))[:k]
                best[i] = found[order], values[order]
        for i, (found, values) in enumerate(best):
            ids[first + i], similarities[first + i] = found, values
    return ids, similarities


def exact_similarities(query: Floats, vectors: Floats, rows: npt.NDArray[np.integer]) -> npt.NDArray[np.float64]:
    """Inner products of a float32 query (D,) with the given rows of ``vectors`` (N, D), float64 (len(rows),).

    Products of float32 numbers are exact in float64 and are added in one fixed order, so equal vectors have equal scores
    wherever they are stored. (A matrix product would not do: its order of additions depends on the place.)
    """
    query = query.astype(np.float64)
    result = np.empty(len(rows))
    step = max(1, _EXACT_VALUES // max(1, len(query)))
    products = np.empty((min(step, len(rows)), len(query)))
    for start in range(0, len(rows), step):
        chosen = rows[start : start + step]
        part = products[: len(chosen)]
        part[...] = vectors[chosen]  # converting first: twice as fast as a product of two kinds
        np.multiply(part, query, out=part)
        np.add.reduce(part, axis=1, out=result[start : start + step])
    return result


def exact_pairs(
    queries: npt.NDArray[np.float32],
    vectors: npt.NDArray[np.float32],
    query: npt.NDArray[np.int64],
    row: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """:func:`exact_similarities` of pairs: of ``queries[query[i]]`` (Q, D) with ``vectors[row[i]]`` (N, D), to the bit.

    Faster for many queries: memory is walked through once.
    """
    order = np.argsort(row, kind="stable")
    row, query = row[order], query[order]
    double = queries.astype(np.float64)
    result = np.empty(len(row))
    step = max(1, _PAIR_VALUES // max(1, vectors.shape[1]))
    chosen = np.empty((min(step, len(row)), vectors.shape[1]), np.float32)
    products = np.empty(chosen.shape)
    factors = np.empty(chosen.shape)
    for start in range(0, len(row), step):
        size = len(row[start : start + step])
        part, factor = products[:size], factors[:size]
        np.take(vectors, row[start : start + step], axis=0, out=chosen[:size], mode="clip")
        np.take(double, query[start : start + step], axis=0, out=factor, mode="clip")
        part[...] = chosen[:size]
        np.multiply(part, factor, out=part)
        np.add.reduce(part, axis=1, out=result[start : start + step])
    settled = np.empty(len(row))
    settled[order] = result
    return settled


def rounding_bound(dim: int) -> float:
    """How far a float32 inner product of ``dim`` terms may lie from the exact one, for vectors of length 1.

    The worst case is dim x 2^-24, but errors of both signs cancel and grow as the square root (Higham and Mary, "A new
    approach to probabilistic rounding error analysis", 2019). Three times that root, plus two for rounding the result,
    covers even products of constant vectors, whose errors tend to one sign, with the blocked summation of BLAS.
    """
    return (min(dim, 3 * math.sqrt(dim)) + 2) * 2.0**-24


def block_rows(vectors: Floats, block: int | None, values: int = _BLOCK_VALUES) -> int:
    """Rows to take at once: ``block``, or as many as hold ``values`` numbers (default: 32 MiB of float32)."""
    if block is None:
        return max(1, values // max(1, vectors.shape[1]))
    if block < 1:
        raise UsageError(f"the block must have at least one row, not {block}")
    return block


def query_block(queries: Floats, gallery: Floats) -> npt.NDArray[np.float32]:
    """The queries as float32 (Q, D), checked against the gallery's shape and for values that are not finite."""
    shapes = f"queries of shape {np.shape(queries)} and a gallery of shape {np.shape(gallery)}"
    if np.ndim(queries) != 2 or np.ndim(gallery) != 2 or np.shape(queries)[1] != np.shape(gallery)[1]:
        raise UsageError(f"{shapes} do not fit", "Both hold one descriptor a row, of the same dimension")
    if 0 in np.shape(gallery):
        raise UsageError(f"nothing to search in: {shapes}")
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    _largest_norm(queries, 0, "query")
    return queries


def gallery_block(
    vectors: Floats, start: int, stop: int, room: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], float]:
    """Rows start to stop (or to the end) as float32, copied into ``room``, and the greatest length among them."""
    rows = vectors[start:stop]
    block = room[: len(rows)]
    if rows.dtype != np.float16:
        np.copyto(block, rows, casting="same_kind")
        return block, _largest_norm(block, start, "gallery")
    _widen(rows, block)
    largest = _largest_norm(block, start, "gallery")
    if largest >= _HALF_INFINITY:  # maybe only long, maybe not finite
        np.copyto(block, rows)
        largest = _largest_norm(block, start, "gallery")
    return block, largest


def _widen(half: npt.NDArray[np.float16], block: npt.NDArray[np.float32]) -> None:
    """Copy finite float16 numbers into a float32 block, four times as fast as numpy's own conversion.

    Sign, exponent and fraction move to their float32 places; a product with 2^112 makes up for the other exponent bias,
    exactly, for subnormal numbers too. Infinity becomes 2^16, and NaN something larger.
    """
    bits = np.asarray(half).view(np.int16)
    step = max(1, _WIDENED_VALUES // half.shape[1])
    for start in range(0, len(half), step):
        part = block[start : start + step]
        moved = part.view(np.int32)
        moved[...] = bits[start : start + step]  # the sign fills the upper half
        np.left_shift(moved, 13, out=moved)
        np.bitwise_and(moved, _HALF_PLACES, out=moved)
        np.multiply(part, _HALF_SCALE, out=part)


def _largest_norm(rows: npt.NDArray[np.float32], start: int, what: str) -> float:
    squares = np.einsum("nd,nd->n", rows, rows)  # not finite where any value is not
    largest = float(squares.max(initial=0.0))
    if not math.isfinite(largest):
        row = int(np.flatnonzero(~np.isfinite(squares))[0])
        raise DatasetError(
            f"{what} descriptor {start + row} (counting from 0) holds NaN, infinite or far too large values",
            "Extract it again, or leave it out",
        )
    # The floor keeps tolerances above the underflow of float32 products.
    return max(math.sqrt(largest), 1e-18)

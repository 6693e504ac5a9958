"""What the surroundings of a point look like: their main direction, and their gradients in 4 x 4 cells of 8 directions."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.ranking.sift.room import room

CELLS, BINS = 4, 8
_CELL = 3.0  # of a cell's side, in scales of the point
_STEP = 0.75  # between samples, in scales
_SAMPLES = 20  # a side: five cells, since the outermost share half a cell with what is beyond them
_TURNS = 36  # parts of a turn among which the main direction is sought
_TURN_SAMPLES = 13  # a side: 4.5 scales to each
_TURN_SPREAD = 1.5  # scales
_SECOND = 0.8  # of the greatest, from which on another direction counts as well
_AT_ONCE = 1 << 14  # spots that are sampled: OpenCV counts them in 15 bits
_LARGEST = 0.2  # of a vector of length 1: the greatest value, against single strong edges


@dataclass(frozen=True)
class Spots:
    """N places in images that lie one below the other: ``x``, ``y`` and ``scale`` float32 (N,) in an image's pixels; ``first``,
    ``height`` and ``width`` int64 (N,): the row where the image begins, and its size."""

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    first: npt.NDArray[np.int64]
    height: npt.NDArray[np.int64]
    width: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, which: npt.NDArray[np.int64]) -> Spots:
        return Spots(*(getattr(self, field.name)[which] for field in fields(self)))


def orient(images: npt.NDArray[np.float32], spots: Spots) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Main directions of spots in ``images`` (R, W): the number of each spot, int64 (M,), ascending, and an angle in radians,
    float32 (M,), clockwise from the right; where several are strong, each (Lowe, IJCV 2004, section 5)."""
    still = np.zeros(len(spots), np.float32)
    dx, dy = _gradients(_sampled(images, spots, still, _TURN_SAMPLES + 2))
    strength, angle = _polar(dx, dy)
    strength *= _window(_TURN_SAMPLES, _TURN_SPREAD / _STEP)
    angle *= _TURNS / (2 * np.pi)
    nearest = np.rint(angle, out=angle).astype(np.int64)
    nearest += (_TURNS + 1) * np.arange(len(spots))[:, None]
    counts = np.bincount(nearest.ravel(), strength.ravel(), (_TURNS + 1) * len(spots)).reshape(len(spots), _TURNS + 1)
    counts[:, 0] += counts[:, _TURNS]  # a whole turn is none
    counts = counts[:, :_TURNS]
    one, two = (np.roll(counts, i, 1) + np.roll(counts, -i, 1) for i in (1, 2))
    smooth = (6 * counts + 4 * one + two) / 16
    before, after = np.roll(smooth, 1, 1), np.roll(smooth, -1, 1)
    peak = (smooth > before) & (smooth > after) & (smooth >= _SECOND * smooth.max(axis=1, keepdims=True))
    number, bin_ = np.nonzero(peak)
    left, middle, right = before[peak], smooth[peak], after[peak]
    offset = 0.5 * (left - right) / (left - 2 * middle + right)
    return number, ((bin_ + offset) * (2 * np.pi / _TURNS)).astype(np.float32)


def describe(images: npt.NDArray[np.float32], spots: Spots, angles: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Float32 (N, 128), length 1, of spots seen along ``angles``: (row, column, direction), columns along the angle, directions
    clockwise from it (Lowe, IJCV 2004, section 6)."""
    dx, dy = _gradients(_sampled(images, spots, angles, _SAMPLES + 2))
    strength, angle = _polar(dx, dy)
    strength *= _window(_SAMPLES, CELLS / 2 * _CELL / _STEP)
    angle *= BINS / (2 * np.pi)
    found = np.empty((BINS, len(spots), CELLS * CELLS), np.float32)
    # Of its strength a sample gives each direction what its angle is nearer than one bin: strength - |angle - bin| strength.
    apart, share = room("apart", angle.shape), room("share", angle.shape)
    np.minimum(angle, BINS - angle, out=share)  # of the first: a whole turn is none
    share *= strength
    np.multiply(angle, strength, out=apart)
    for b in range(BINS):
        if b:
            apart -= strength
            np.abs(apart, out=share)
        np.subtract(strength, share, out=share)
        np.maximum(share, np.float32(0), out=share)
        np.matmul(share, _cells(), out=found[b])
    vectors = found.transpose(1, 2, 0).reshape(len(spots), -1)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    np.minimum(vectors, _LARGEST, out=vectors)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return vectors


def _sampled(
    images: npt.NDArray[np.float32], spots: Spots, angles: npt.NDArray[np.float32], side: int
) -> npt.NDArray[np.float32]:
    """Squares (N, side, side) around spots, turned, a step between samples; beyond an image's border its last pixel goes on."""
    import cv2

    reach = (np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)) * np.float32(_STEP)
    along, across = ((f(angles) * spots.scale)[:, None, None] for f in (np.cos, np.sin))
    first, farthest = spots.first.astype(np.float32), 0.75 * side * _STEP * spots.scale
    places = []
    for name, column, row, here, size, begin in (
        ("columns", along, -across, spots.x, spots.width, np.zeros_like(first)),
        ("rows", across, along, spots.y, spots.height, first),
    ):
        values = room(name, (len(spots), side, side))
        np.add(column * reach + (here + begin)[:, None, None], row * reach[:, None], out=values)
        near = np.flatnonzero((here < farthest) | (here > size - 1 - farthest))
        least, most = begin[near, None, None], (begin + size - 1)[near, None, None]
        values[near] = np.clip(values[near], least, most.astype(np.float32))
        places.append(values.reshape(len(spots), side * side))
    squares = np.empty((len(spots), side * side), np.float32)
    for some in range(0, len(spots), _AT_ONCE):
        part = slice(some, some + _AT_ONCE)
        cv2.remap(images, places[0][part], places[1][part], cv2.INTER_LINEAR, dst=squares[part])
    return squares.reshape(len(spots), side, side)


def _gradients(squares: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    dx = squares[:, 1:-1, 2:] - squares[:, 1:-1, :-2]
    dy = squares[:, 2:, 1:-1] - squares[:, :-2, 1:-1]
    return dx.reshape(len(squares), -1), dy.reshape(len(squares), -1)


def _polar(
    dx: npt.NDArray[np.float32], dy: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    import cv2

    found: tuple[Any, Any] = cv2.cartToPolar(dx, dy)
    return found


@functools.cache
def _window(side: int, spread: float) -> npt.NDArray[np.float32]:
    at = np.arange(side) - (side - 1) / 2
    one = np.exp(-0.5 * (at / spread) ** 2)
    return np.outer(one, one).ravel().astype(np.float32)


@functools.cache
def _cells() -> npt.NDArray[np.float32]:
    """How much of a sample goes to each cell, float32 (samples, cells): linearly less with the distance from its centre."""
    at = (np.arange(_SAMPLES) - (_SAMPLES - 1) / 2) * (_STEP / _CELL)
    centres = np.arange(CELLS) - (CELLS - 1) / 2
    one = np.maximum(1 - np.abs(at[:, None] - centres), 0)
    table = np.einsum("ya,xb->yxab", one, one).reshape(_SAMPLES**2, CELLS**2)
    return np.ascontiguousarray(table, np.float32)

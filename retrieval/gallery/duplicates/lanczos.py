"""Grey pictures brought to another size by Lanczos's filter in float32, a band of rows at a time.

The figures are those of Pillow's resize() of a picture of floats, but for the last bits. That goes from pixel to pixel; here a
block of output columns, or rows, is one product of matrices.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]

_REACH = 3  # of the filter, in pixels of the smaller picture
_BLOCK = 32  # columns, or rows, of a product
_BAND = 256  # rows

_Block: TypeAlias = tuple[int, int, int, int, Floats]
"""Of the output from, to; of the input from, to; weights, float32 (input, output)."""


def resized(pixels: npt.NDArray[Any], width: int, height: int) -> Floats:
    """float32 (height, width) of uint8 or float32 (H, W); the filter is as wide as the change of size where it makes smaller."""
    out = np.empty((height, width), np.float32)
    for top, band in bands(pixels, width, height):
        out[top : top + len(band)] = band
    return out


def bands(pixels: npt.NDArray[Any], width: int, height: int) -> Iterator[tuple[int, Floats]]:
    """The rows of :func:`resized`, some at a time, with the place of the first."""
    across = _blocks(pixels.shape[1], width)
    down = _blocks(pixels.shape[0], height)
    step = _BAND // _BLOCK
    for first in range(0, len(down), step):
        some = down[first : first + step]
        begin, end = some[0][2], some[-1][3]
        rows = np.asarray(pixels[begin:end], np.float32)
        if width != pixels.shape[1]:
            between = np.empty((len(rows), width), np.float32)
            for left, right, low, high, weights in across:
                between[:, left:right] = rows[:, low:high] @ weights
            rows = between
        if height != pixels.shape[0]:
            rows = np.concatenate([weights.T @ rows[low - begin : high - begin] for _, _, low, high, weights in some])
        yield some[0][0], rows


def _blocks(before: int, after: int) -> list[_Block]:
    """How ``after`` pixels are made of ``before`` ones."""
    if before == after:
        return [
            (a, min(a + _BLOCK, after), a, min(a + _BLOCK, after), np.empty((0, 0), np.float32))
            for a in range(0, after, _BLOCK)
        ]
    step = before / after
    wide = max(1.0, step)
    centres = (np.arange(after) + 0.5) * step
    low = np.maximum(0, (centres - _REACH * wide + 0.5).astype(np.int64))
    high = np.minimum(before, (centres + _REACH * wide + 0.5).astype(np.int64))
    found = []
    for begin in range(0, after, _BLOCK):
        end = min(begin + _BLOCK, after)
        first, last = int(low[begin]), int(high[end - 1])
        places = np.arange(first, last)[:, None]
        x = (places - centres[begin:end] + 0.5) / wide
        weights = np.where(np.abs(x) < _REACH, np.sinc(x) * np.sinc(x / _REACH), 0.0)
        weights *= (places >= low[begin:end]) & (places < high[begin:end])
        found.append((begin, end, first, last, (weights / weights.sum(axis=0)).astype(np.float32)))
    return found

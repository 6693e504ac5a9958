"""The geometry that is asked of a picture: its longest side, a box in it, its orientation; checked at once, applied later."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from PIL import Image

from retrieval.errors import BoxError
from retrieval.pictures import colour

INTERPOLATIONS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}

_DRAFT = 3  # a JPEG decoded at a fraction keeps at least this many times the target's longest side

_Box: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Picture:
    """``array``: uint8 (H, W, 3), RGB, C-contiguous; ``width``, ``height``: the whole original's, as seen."""

    array: np.ndarray
    width: int
    height: int


def fitted_size(width: int, height: int, longest: int) -> tuple[int, int]:
    """Size of a ``width`` x ``height`` picture with its longest side brought down to ``longest`` (never up).

    The shorter side is the neighbouring integer that keeps width / height best, as ``Image.thumbnail`` has
    it, and at least 1.
    """
    if longest >= max(width, height):
        return width, height
    aspect = width / height
    if width <= height:
        exact = longest * aspect
        short = min((math.floor(exact), math.ceil(exact)), key=lambda n: abs(aspect - n / longest))
        return max(short, 1), longest
    exact = longest / aspect
    short = min((math.floor(exact), math.ceil(exact)), key=lambda n: abs(aspect - longest / n) if n else 0)
    return longest, max(short, 1)


class Rule:
    """What is asked of the picture's geometry; checked at once, applied when the pixels are there."""

    def __init__(self, size: int | None, interpolation: str, bbox: Sequence[float] | None) -> None:
        try:
            self.size = None if size is None else operator.index(size)
        except TypeError:
            raise BoxError(f"size must be a whole number of pixels, not {size!r}") from None
        if self.size is not None and (self.size < 1 or isinstance(size, bool)):
            raise BoxError(f"size must be at least 1 pixel, not {size!r}")
        if interpolation not in INTERPOLATIONS:
            choice = ", ".join(INTERPOLATIONS)
            raise BoxError(f"unknown interpolation {interpolation!r}", f"Choose one of {choice}.")
        self.filter = INTERPOLATIONS[interpolation]
        try:
            self.bbox = None if bbox is None else tuple(float(v) for v in bbox)
        except (TypeError, ValueError, OverflowError):
            raise BoxError(f"a box is four numbers x1, y1, x2, y2, not {bbox!r}") from None
        if self.bbox is not None and len(self.bbox) != 4:
            raise BoxError(f"a box is four numbers x1, y1, x2, y2, not {len(self.bbox)}")

    def crop(self, whole: tuple[int, int]) -> _Box | None:
        """The box in whole pixels inside the picture; None for the whole picture."""
        if self.bbox is None:
            return None
        width, height = whole
        box = "({:g}, {:g}, {:g}, {:g})".format(*self.bbox)
        have = f"the picture has {width} x {height} pixels"
        if not all(map(math.isfinite, self.bbox)):
            raise BoxError(f"the box {box} is not four finite numbers; {have}")
        x1, y1, x2, y2 = map(round, self.bbox)
        if x1 >= x2 or y1 >= y2:
            raise BoxError(f"the box {box} is empty; {have}", "Give x1 < x2 and y1 < y2.")
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        if x1 >= x2 or y1 >= y2:
            raise BoxError(f"the box {box} lies outside the picture; {have}")
        return None if (x1, y1, x2, y2) == (0, 0, width, height) else (x1, y1, x2, y2)

    def draft(self, longest: int) -> int:
        """By which power of two a JPEG may be decoded smaller (1, 2, 4 or 8)."""
        if self.size is None:
            return 1
        return next((s for s in (8, 4, 2) if longest // s >= _DRAFT * self.size), 1)

    def apply(
        self,
        image: Image.Image,
        turn: int,
        stored: tuple[int, int],
        extent: tuple[float, float] | None = None,
    ) -> Picture:
        """Decoded pixels to the result.

        ``turn``: orientation still to be applied; ``stored``: the original's size before that; ``extent``:
        how much of the decoded pixels the picture fills, where it was decoded smaller.
        """
        width, height = stored if turn < 5 else stored[::-1]
        box = self.crop((width, height))
        shape = (width, height)
        longest = self.size
        cut = None
        if box is not None:
            shape = (box[2] - box[0], box[3] - box[1])
            cut = _stored_box(box, turn, width, height)
            if longest is not None:
                longest = max(1, longest * max(shape) // max(width, height))
        target = shape if longest is None else fitted_size(*shape, longest)
        if target == shape:
            extent = None
        # A turned picture's rows are what is seen as columns: in the order in which the turned one would be resized.
        size = target if turn < 5 else target[::-1]
        image = colour.resized(image, cut, size, self.filter, rows_first=turn >= 5, extent=extent)
        return Picture(colour.pixels(image, turn), width, height)


def size_within(bbox: Sequence[float], whole: tuple[int, int]) -> tuple[int, int] | None:
    """Width and height of what of a box lies in the picture of size ``whole``; None where all of it does. Raises BoxError."""
    x1, y1, x2, y2 = Rule(None, "lanczos", bbox).crop(whole) or (0, 0, *whole)
    return None if [x1, y1, x2, y2] == [round(edge) for edge in bbox] else (x2 - x1, y2 - y1)


def _stored_box(box: _Box, turn: int, width: int, height: int) -> _Box:
    """A box in the picture as it is seen (``width`` x ``height``) -> the same pixels before turning."""
    x1, y1, x2, y2 = box
    if turn in (2, 3, 6, 7):
        x1, x2 = width - x2, width - x1
    if turn in (3, 4, 7, 8):
        y1, y2 = height - y2, height - y1
    return (x1, y1, x2, y2) if turn < 5 else (y1, x1, y2, x2)

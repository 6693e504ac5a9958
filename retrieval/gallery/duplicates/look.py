"""One picture as it is looked at to say whether it is worth keeping: every pixel, decoded once, and what was found on them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrieval.gallery.duplicates.header import Header, header_of
from retrieval.gallery.duplicates.thumbnails import inner_box
from retrieval.gallery.duplicates.traces import blockiness, is_colourful, lost_colours, middle, middle_of
from retrieval.pictures import imaging
from retrieval.pictures.colour import as_stored

Pixels: TypeAlias = npt.NDArray[np.uint8]
Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom."""

_GREY = 16  # levels between two channels
_HELD = 4

T = TypeVar("T")


class Once(Generic[T]):
    """A property that is computed when it is first asked for, under the lock ``turn`` of its object: threads that share an object
    wait for each other, others do not. (Of functools' own, up to Python 3.11, one thread at a time computes for any object.)"""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, one: Any, owner: type) -> T:
        with one.turn:
            if self._name not in one.__dict__:
                one.__dict__[self._name] = self._compute(one)
            found: T = one.__dict__[self._name]
            return found

    def __set__(self, one: Any, value: T) -> None:  # with it Python asks here first, and the lock is always taken
        raise AttributeError(self._name)


class Look:
    """What is compared of the picture at ``path``; read once, when it is asked for. Raises ImageError then. Several threads may
    share it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.turn = threading.RLock()
        self._small: dict[tuple[Box, tuple[int, int], bool], Pixels] = {}

    @Once
    def header(self) -> Header:
        return header_of(self.path)

    @Once
    def whole(self) -> Pixels:
        """Every pixel, upright, uint8 (H, W, 3)."""
        return imaging.load_picture(self.path, size=None).array

    @Once
    def levels(self) -> Pixels:
        """Of grey, uint8 (H, W)."""
        import cv2

        return np.asarray(cv2.cvtColor(self.whole, cv2.COLOR_RGB2GRAY), np.uint8)

    @Once
    def boxes(self) -> tuple[Box, ...]:
        """All of it; then what lies within plain borders, where there are any."""
        height, width = self.levels.shape
        return tuple(dict.fromkeys([(0, 0, width, height), inner_box(self.levels)]))

    def small(self, box: Box, size: tuple[int, int], rough: bool = False) -> Pixels:
        """Of a box, YCrCb, uint8 (h, w, 3), by Lanczos's filter, as wide as the change of size: what most programs make small
        copies with. ``rough``: from a picture that is halved first. The last are held: many copies have one size."""
        key = (box, size, rough)
        with self.turn:
            if key not in self._small:
                while len(self._small) >= _HELD:
                    del self._small[next(iter(self._small))]
                left, top, right, bottom = box
                self._small[key] = _small(self.whole[top:bottom, left:right], size, rough)
            return self._small[key]

    @Once
    def colourful(self) -> bool:
        return is_colourful(self.whole)

    @Once
    def grey(self) -> bool:
        """Whether there is no colour at all, not even on a small part."""
        import cv2

        small = self.whole
        if min(small.shape[:2]) > 1:
            small = np.asarray(cv2.resize(small, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)
        # Most photos have colours on a few lines; then the others need no look.
        return _most_colour(small[::16]) <= _GREY and _most_colour(small) <= _GREY

    @Once
    def middle(self) -> Pixels:
        """Of the picture as it is stored, where JPEG's blocks begin."""
        turn = self.header.turn
        return middle_of(self.path) if turn is None else middle(as_stored(self.whole, turn))

    @Once
    def lost_colours(self) -> bool:
        return lost_colours(self.middle)

    @Once
    def blockiness(self) -> float:
        return blockiness(self.middle)


def _small(pixels: Pixels, size: tuple[int, int], rough: bool) -> Pixels:
    import cv2

    if rough and min(pixels.shape[1] - 2 * size[0], pixels.shape[0] - 2 * size[1]) >= 0:
        height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
        whole = pixels[: 2 * height, : 2 * width]
        pixels = np.asarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    if pixels.shape[1::-1] != size:
        pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2YCrCb), np.uint8)


def _most_colour(pixels: Pixels) -> int:
    """Levels between two channels of uint8 (H, W, 3), where they are most."""
    import cv2

    red, green, blue = cv2.split(pixels)
    most, least = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    return int(cv2.subtract(most, least).max())


def same_pixels(one: Look, two: Look) -> bool:
    """Whether two pictures are equal in every pixel and are stored the same way up."""
    import cv2

    a, b = one.whole, two.whole
    if a.shape != b.shape or one.header.turn is None or one.header.turn != two.header.turn:
        return False
    return np.array_equal(a[::64], b[::64]) and cv2.norm(a, b, cv2.NORM_INF) == 0

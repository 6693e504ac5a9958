"""An image at all scales: octaves of Gaussian-blurred images."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from retrieval.ranking.sift.room import room

STEPS = 3  # scales to an octave: what is doubled in so many steps
IMAGES = STEPS + 3  # of an octave
FINEST = 1.0  # pixels: the blur of the first image
UNIT = 128  # of 255 greys' images: whole numbers of 16 bits take half as long to go through as float32
_CAMERA = 0.5  # pixels: the blur that an image is assumed to have
_LEAST = 12  # pixels of the shortest side that are worth another octave
_TRUNCATED = 3.0  # where a kernel ends, in its standard deviations


@dataclass(frozen=True)
class Octave:
    """One size of the image: a pixel is ``pixel`` pixels of the image, and has the same centre. ``row``: where its images
    begin."""

    height: int
    width: int
    pixel: int
    row: int


@dataclass(frozen=True)
class ScaleSpace:
    """``blurred``, int16 (R, W), greys times ``UNIT``: images of all octaves one below the other, the i-th of each at
    ``FINEST * 2**(i / STEPS)`` of its pixels. The next space of a thread is made in the same memory."""

    octaves: list[Octave]
    blurred: npt.NDArray[np.int16]

    def image(self, octave: Octave, number: int) -> npt.NDArray[np.int16]:
        """The one of that ``number``, int16 (height, width)."""
        first = octave.row + number * octave.height
        return self.blurred[first : first + octave.height, : octave.width]

    def looks(self) -> npt.NDArray[np.float32]:
        """``blurred`` in float32, which is sampled in a third of the time; only the images that points belong to."""
        found = room("looks", self.blurred.shape)
        for octave in self.octaves:
            rows = slice(octave.row + octave.height, octave.row + (STEPS + 1) * octave.height)
            found[rows, : octave.width] = self.blurred[rows, : octave.width]
        return found


def build_scale_space(grey: npt.NDArray[np.uint8]) -> ScaleSpace:
    """Of an image, uint8 (H, W) (Lowe, IJCV 2004, section 3)."""
    import cv2

    octaves = _octaves(*grey.shape)
    last = octaves[-1]
    space = ScaleSpace(octaves, room("blurred", (last.row + IMAGES * last.height, grey.shape[1]), np.int16))
    before = np.multiply(grey, UNIT, dtype=np.int16)
    for octave in octaves:
        images = [space.image(octave, i) for i in range(IMAGES)]
        if octave.pixel == 1:
            cv2.GaussianBlur(before, *_kernel((FINEST**2 - _CAMERA**2) ** 0.5), dst=images[0])
        else:
            images[0][:] = before[::2, ::2]
        for i, deviation in enumerate(_increments()):
            cv2.GaussianBlur(images[i], *_kernel(deviation), dst=images[i + 1])
        before = images[STEPS]
    return space


def _octaves(height: int, width: int) -> list[Octave]:
    octaves = [Octave(height, width, 1, 0)]
    while min((last := octaves[-1]).height, last.width) >= 2 * _LEAST:
        row = last.row + IMAGES * last.height
        octaves.append(Octave((last.height + 1) // 2, (last.width + 1) // 2, 2 * last.pixel, row))
    return octaves


@functools.cache
def _increments() -> list[float]:
    """By how much each image of an octave is blurred to become the next."""
    deviations = [FINEST * 2 ** (i / STEPS) for i in range(IMAGES)]
    return [(b * b - a * a) ** 0.5 for a, b in pairwise(deviations)]


def _kernel(deviation: float) -> tuple[tuple[int, int], float]:
    side = 2 * int(np.ceil(_TRUNCATED * deviation)) + 1
    return (side, side), deviation

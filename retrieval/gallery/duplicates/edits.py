"""Is a copy worth keeping beside a better one of its size? One that was edited may be what its owner wants, or the original."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from retrieval.errors import ImageError
from retrieval.pictures import imaging
from retrieval.pictures.geometry import Picture

Pixels = npt.NDArray[np.uint8]

_SIDE = 512
AS_LARGE = 0.9  # of the pixels of the larger: no worth telling apart
_BLUR = 2.0  # pixels: what compression changes is finer
# Grey levels. JPEG of quality 8 changes 2.7 and 12, writing across a picture 0.2 and 69 (medians of 68 photos).
_MEAN, _MOST = 3.0, 16.0
_COLOURFUL = 6  # levels between two channels
_MIDDLE = 1024  # pixels
_FEW, _FEW_GREYS = 256, 32
_FLAT = 0.9  # of neighbours that are equal; in photos of 16 colours 0.3 to 0.85


class Look:
    """What is compared of the picture at ``path``; read once, when it is asked for. Raises ImageError then."""

    def __init__(self, path: str) -> None:
        self.path = path

    @cached_property
    def small(self) -> Picture:
        return imaging.load_picture(self.path, size=_SIDE)

    @cached_property
    def lost_colours(self) -> bool:
        return lost_colours(middle_of(self.path))


def worth_keeping(copy: Look, best: Look) -> str | None:
    """Why the picture ``copy`` says something that ``best`` does not, though it is the lesser copy; None: nothing."""
    try:
        one, two = copy.small, best.small
        if is_colourful(one.array) and not is_colourful(two.array):
            return "it has colours"
        if one.width * one.height < AS_LARGE * two.width * two.height:
            return None
        if copy.lost_colours != best.lost_colours:
            return "they differ in their number of colours"
    except ImageError:
        return "it cannot be read"
    alike = abs(one.array.shape[0] * two.array.shape[1] / (one.array.shape[1] * two.array.shape[0]) - 1) < 0.02
    return "it looks different" if alike and _differ(one.array, two.array) else None


def is_colourful(pixels: Pixels) -> bool:
    """Whether an RGB picture, uint8 (H, W, 3), is more than shades of grey (of JPEG's rounding apart)."""
    small = pixels[:: max(1, len(pixels) // 256), :: max(1, pixels.shape[1] // 256)].astype(np.int16)
    apart = np.ptp(small, axis=2)
    return bool(np.quantile(apart, 0.99) > _COLOURFUL)


def lost_colours(pixels: Pixels) -> bool:
    """Whether an RGB picture, uint8 (H, W, 3), at its own size, has so few colours that a palette may hold them, and is no
    drawing, whose areas are flat."""
    codes = pixels.astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)
    few = min(_FEW if is_colourful(pixels) else _FEW_GREYS, codes.size // 64)
    return len(np.unique(codes)) <= few and bool((codes[:, 1:] == codes[:, :-1]).mean() < _FLAT)


def middle_of(path: str) -> Pixels:
    """At most 1,024 x 1,024 pixels in the middle of a picture as it is stored, uint8 (H, W, 3), from a multiple of 8 on, where
    JPEG's blocks begin. Raises ImageError."""
    pixels = imaging.load_picture(path, size=None, exif=False).array
    top, left = (max(0, (length - _MIDDLE) // 16 * 8) for length in pixels.shape[:2])
    return pixels[top : top + _MIDDLE, left : left + _MIDDLE]


def _differ(one: Pixels, two: Pixels) -> bool:
    import cv2

    size = one.shape[1], one.shape[0]
    ours, theirs = (cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32) for pixels in (one, two))
    laid = theirs if ours.shape == theirs.shape else cv2.resize(theirs, size, interpolation=cv2.INTER_AREA)
    apart = np.abs(cv2.GaussianBlur(ours - laid, (0, 0), _BLUR))
    return bool(apart.mean() > _MEAN or apart.max() > _MOST)

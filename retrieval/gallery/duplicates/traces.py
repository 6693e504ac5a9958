"""What the pixels of one picture tell of what was done to it: colours that were lost, JPEG's blocks."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from retrieval.pictures import imaging

Pixels = npt.NDArray[np.uint8]

_COLOURFUL = 6  # levels between two channels
_MIDDLE = 1024  # pixels
_FEW, _FEW_GREYS = 256, 32
_FLAT = 0.9  # of neighbours that are equal; in photos of 16 colours 0.3 to 0.85


def is_colourful(pixels: Pixels) -> bool:
    """Whether an RGB picture, uint8 (H, W, 3), is more than shades of grey (of JPEG's rounding apart)."""
    small = pixels[:: max(1, len(pixels) // 256), :: max(1, pixels.shape[1] // 256)].astype(np.int16)
    apart = np.ptp(small, axis=2)
    return bool(np.quantile(apart, 0.99) > _COLOURFUL)


def lost_colours(pixels: Pixels) -> bool:
    """Whether an RGB picture, uint8 (H, W, 3), at its own size, has so few colours that a palette may hold them, and is no
    drawing, whose areas are flat."""
    most = min(_FEW, pixels[..., 0].size // 64)
    if len(np.unique(_codes(pixels[::16]))) > most:  # most photos have more on a few lines
        return False
    codes = _codes(pixels)
    few = min(_FEW if is_colourful(pixels) else _FEW_GREYS, codes.size // 64)
    return len(np.unique(codes)) <= few and bool((codes[:, 1:] == codes[:, :-1]).mean() < _FLAT)


def _codes(pixels: Pixels) -> npt.NDArray[np.uint32]:
    """One number a colour, uint32 (H, W)."""
    red, green, blue = (pixels[..., i].astype(np.uint32) for i in range(3))
    codes: npt.NDArray[np.uint32] = red | green << np.uint32(8) | blue << np.uint32(16)
    return codes


def middle_of(path: str) -> Pixels:
    """The :func:`middle` of a picture as it is stored. Raises ImageError."""
    return middle(imaging.load_picture(path, size=None, exif=False).array)


def middle(pixels: Pixels) -> Pixels:
    """At most 1,024 x 1,024 pixels in the middle of a picture as it is stored, uint8 (H, W, 3), from a multiple of 8 on, where
    JPEG's blocks begin. A copy: the rest may go."""
    top, left = (max(0, (length - _MIDDLE) // 16 * 8) for length in pixels.shape[:2])
    return pixels[top : top + _MIDDLE, left : left + _MIDDLE].copy()


def blockiness(pixels: Pixels) -> float:
    """Of an RGB picture, uint8 (H, W, 3): how much more neighbours differ across the edges of JPEG's blocks than within; about 1
    where it never was one."""
    import cv2

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    found = []
    for turned in (grey, grey.T):
        steps = np.abs(np.diff(turned[:, : turned.shape[1] // 8 * 8], axis=1)).mean(axis=0)
        if len(steps) < 15:
            return 1.0
        found.append(float(steps[7::8].mean() + 1e-3) / float(np.delete(steps, np.s_[7::8]).mean() + 1e-3))
    return min(found)

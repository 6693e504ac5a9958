"""How two grey pictures of one size differ close by: window by window, over a letter, over all.

One is uint8; the other one too, or float32 where it was resized. Sums are those of whole numbers where both are uint8. A band of
rows is looked at at a time, which stays in the processor's cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from retrieval.gallery.duplicates import lanczos

Pixels: TypeAlias = npt.NDArray[np.uint8]
Numbers: TypeAlias = npt.NDArray[Any]
"""uint8 or float32 (H, W)."""

_WINDOWS = 16  # along the longer side
_TEXTURE = 4.0  # grey levels
_GRAIN = 0.5  # levels of noise that say nothing
_LETTER = 12  # pixels
_BAND = 128  # rows


class Windows(NamedTuple):
    """Of two grey pictures, by windows. ``detail``: how much of what is fine the first has for that of the second, where
    both have some texture; ``apart``: how far they are apart, root mean square; ``noise``: by how much the second deviates more
    where the first is flat."""

    detail: npt.NDArray[np.float64]
    apart: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float64]


def windows(one: Pixels, two: Numbers) -> Windows:
    import cv2

    side = max(8, max(one.shape) // _WINDOWS)
    detail, apart, noise = [], [], []
    for top in range(0, max(1, one.shape[0] - side + 1), side):
        bands = _alike(one[top : top + side], two[top : top + side])
        fine = [_laplacian(grey, top, top + side) for grey in (one, two)]
        for left in range(0, max(1, one.shape[1] - side + 1), side):
            ours, theirs = (band[:, left : left + side] for band in bands)
            root = float(np.sqrt(ours.size))
            apart.append(cv2.norm(ours, theirs, cv2.NORM_L2) / root)
            varied, variation = (float(cv2.meanStdDev(window)[1][0, 0]) for window in (ours, theirs))
            if min(varied, variation) > _TEXTURE:
                a, b = (cv2.norm(laplacian[:, left : left + side], cv2.NORM_L2) / root for laplacian in fine)
                detail.append((a + _GRAIN) / (b + _GRAIN))
            elif varied <= _TEXTURE:
                noise.append(variation - varied)
    return Windows(np.array(detail), np.array(apart), np.array(noise))


def mean_square(one: Pixels, two: Numbers) -> float:
    """Of the difference, over all."""
    import cv2

    found = 0.0
    for top in range(0, len(one), _BAND):
        found += cv2.norm(*_alike(one[top : top + _BAND], two[top : top + _BAND]), cv2.NORM_L2SQR)
    return found / one.size


def has_spot(one: Pixels, two: Numbers, most: float) -> bool:
    """Whether both are further apart than ``most`` somewhere, root mean square over the size of a letter."""
    import cv2

    for top in range(0, len(one), _BAND):
        begin, end = max(0, top - _LETTER), min(len(one), top + _BAND + _LETTER)
        apart = cv2.absdiff(*_alike(one[begin:end], two[begin:end]))
        if apart.max() <= most:  # a mean is no more than the most
            continue
        blurred = cv2.blur(np.square(apart, dtype=np.float32), (_LETTER, _LETTER))
        if float(np.sqrt(blurred[top - begin : top - begin + _BAND].max())) > most:
            return True
    return False


def detail_beyond(larger: Pixels, laid: Numbers) -> float:
    """What a picture has beyond a smaller one of the same, float32 or uint8 (h, w): the standard deviation of the difference
    when that one is enlarged."""
    import cv2

    total = squares = 0.0
    for top, band in lanczos.bands(laid, larger.shape[1], larger.shape[0]):
        mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(larger[top : top + len(band)] - band))
        total += mean * band.size
        squares += (deviation**2 + mean**2) * band.size
    mean = total / larger.size
    return float(np.sqrt(max(0.0, squares / larger.size - mean**2)))


def _alike(one: Pixels, two: Numbers) -> tuple[Numbers, Numbers]:
    """Both uint8, or both float32."""
    return (one, two) if two.dtype == np.uint8 else (one.astype(np.float32), two)


def _laplacian(grey: Numbers, top: int, bottom: int) -> Numbers:
    """Of these rows of a picture, int16 of uint8 and float32 of float32."""
    import cv2

    begin = max(0, top - 1)
    found = cv2.Laplacian(grey[begin : bottom + 1], cv2.CV_16S if grey.dtype == np.uint8 else cv2.CV_32F)
    return np.asarray(found[top - begin : bottom - begin])

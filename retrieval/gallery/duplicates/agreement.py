"""Do two aligned grey pictures show the same pixels? What tells an altered copy from another photo of the same scene.

Both are laid onto one canvas, that of the coarser one, and compared window by window: the correlation of a window knows no
brightness and no contrast, and another shot of a scene differs in what is small: parallax, leaves, people, noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]
Mapping = npt.NDArray[np.float64]

_WINDOWS = 12  # along the canvas's longer side
_LEAST_WINDOW = 5  # pixels
_TEXTURE = 4.0  # grey levels that a window varies by, where there is something to compare
_TEXTURE_SHARE = 0.12  # of the canvas's own deviation
_SAME_WINDOW = 0.95  # correlation
_COVER, _FEWEST, _TEXTURED = 0.8, 8, 0.4
_MIDDLE, _SAME = 0.87, 0.4


@dataclass(frozen=True)
class Agreement:
    """``cover``: how much of the picture that is covered more lies within the other one, 0..1. ``windows``: how many have
    texture in both; ``textured``: their share of those that have some in one. Of the windows, ``middle`` is the median
    correlation and ``same`` the share with a correlation of 0.95 or more."""

    cover: float
    windows: int
    textured: float
    middle: float
    same: float

    @property
    def copies(self) -> bool:
        """Whether these are the same pixels, altered. Turntable pictures a few degrees apart reach a median of 0.9 here and
        there; text or a sticker over a copy changes some windows and leaves the others as they were."""
        enough = self.cover >= _COVER and self.windows >= _FEWEST and self.textured >= _TEXTURED
        return enough and (self.middle >= _MIDDLE or self.same >= _SAME)


NONE = Agreement(0.0, 0, 0.0, 0.0, 0.0)


def agreement(a: Grey, b: Grey, mapping: Mapping) -> Agreement:
    """How two grey pictures agree, uint8 (H, W) each; ``mapping`` (3, 3) leads from pixels of ``a`` to pixels of ``b``."""
    import cv2

    scale = _scale(mapping, a.shape)
    if not 1e-3 < scale < 1e3:
        return NONE
    if scale < 1:  # b shows less: it is the canvas
        a, b = b, a
        mapping = np.asarray(np.linalg.inv(mapping), np.float64)
        scale = 1 / max(scale, 1e-9)
    height, width = a.shape
    soft = b if scale < 1.2 else cv2.GaussianBlur(b, (0, 0), 0.45 * scale)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP  # the mapping leads from the canvas to b
    laid = cv2.warpPerspective(soft, mapping, (width, height), flags=flags).astype(np.float32)
    inside = cv2.warpPerspective(np.full(b.shape, 255, np.uint8), mapping, (width, height), flags=flags) > 250
    covered = float(inside.sum()) * scale**2 / b.size  # of b: what of it lies on the canvas
    return Agreement(min(1.0, max(float(inside.mean()), covered)), *_windows(a.astype(np.float32), laid, inside))


def _windows(
    a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]
) -> tuple[int, float, float, float]:
    import cv2

    side = max(_LEAST_WINDOW, round(max(a.shape) / _WINDOWS)) | 1
    if min(a.shape) < side or not inside.any():
        return 0, 0.0, 0.0, 0.0
    texture = max(_TEXTURE, _TEXTURE_SHARE * float(min(a[inside].std(), b[inside].std()))) ** 2
    place = slice(side // 2, -(side // 2), max(1, side // 2))

    def mean(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        averaged = cv2.boxFilter(values, cv2.CV_32F, (side, side), borderType=cv2.BORDER_REPLICATE)
        return np.asarray(averaged[place, place], np.float32)

    whole = mean(inside.astype(np.float32)) > 0.99
    ma, mb = mean(a), mean(b)
    va, vb = np.maximum(mean(a * a) - ma * ma, 0), np.maximum(mean(b * b) - mb * mb, 0)
    both = whole & (np.minimum(va, vb) >= texture)
    count, either = int(both.sum()), int((whole & (np.maximum(va, vb) >= texture)).sum())
    if not count:
        return 0, 0.0, 0.0, 0.0
    correlation = (mean(a * b) - ma * mb)[both] / np.sqrt((va * vb)[both])
    return count, count / either, float(np.median(correlation)), float((correlation >= _SAME_WINDOW).mean())


def _scale(mapping: Mapping, shape: tuple[int, ...]) -> float:
    """Pixels of the second picture for one of the first, at its middle; 0 where the mapping is none."""
    middle = np.array([shape[1] / 2, shape[0] / 2, 1.0])
    depth = float(mapping[2] @ middle)
    if abs(depth) < 1e-9 or not np.isfinite(mapping).all():
        return 0.0
    return math.sqrt(abs(float(np.linalg.det(mapping)) / depth**3))


def is_affine(mapping: Mapping, shape: tuple[int, ...], most: float = 1.5) -> bool:
    """Whether a mapping changes areas alike everywhere in a picture of this shape, up to the factor ``most``: a picture that
    was resized, cropped or turned. A scene from another place seldom is."""
    height, width = shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float64)
    depth = corners @ mapping[2]
    if not np.isfinite(depth).all() or np.ptp(np.sign(depth)):
        return False
    change = np.abs(depth) ** -3.0
    return bool(change.max() <= most * change.min())

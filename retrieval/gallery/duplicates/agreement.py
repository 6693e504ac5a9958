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
_AGREES = 0.7  # correlation of a window


@dataclass(frozen=True)
class Agreement:
    """``cover``: how much of the picture that is covered more lies within the other one, 0..1. ``windows``: how many windows
    have texture in one of them; ``share``: of these, those with a correlation of 0.7 or more; ``middle``: their median."""

    cover: float
    windows: int
    share: float
    middle: float


NONE = Agreement(0.0, 0, 0.0, 0.0)


def agreement(a: Grey, b: Grey, mapping: Mapping) -> Agreement:
    """How two grey pictures agree, uint8 (H, W) each; ``mapping`` (3, 3) leads from pixels of ``a`` to pixels of ``b``."""
    import cv2

    scale = _scale(mapping, a.shape)
    if not 1e-3 < scale < 1e3:
        return NONE
    if scale < 1:  # b shows less: it is the canvas
        a, b = b, a
        mapping = np.linalg.inv(mapping)
        scale = 1 / max(scale, 1e-9)
    height, width = a.shape
    soft = b if scale < 1.2 else cv2.GaussianBlur(b, (0, 0), 0.45 * scale)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP  # the mapping leads from the canvas to b
    laid = cv2.warpPerspective(soft, mapping, (width, height), flags=flags).astype(np.float32)
    inside = cv2.warpPerspective(np.full(b.shape, 255, np.uint8), mapping, (width, height), flags=flags) > 250
    area = float(inside.mean())
    covered = inside.sum() * scale**2 / b.size  # of b: what of it lies on the canvas
    return Agreement(min(1.0, max(area, covered)), *_windows(a.astype(np.float32), laid, inside))


def _windows(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]) -> tuple[int, float, float]:
    import cv2

    side = max(_LEAST_WINDOW, round(max(a.shape) / _WINDOWS)) | 1
    if min(a.shape) < side or not inside.any():
        return 0, 0.0, 0.0
    texture = max(_TEXTURE, _TEXTURE_SHARE * float(min(a[inside].std(), b[inside].std())))

    def mean(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        averaged = cv2.boxFilter(values, cv2.CV_32F, (side, side), borderType=cv2.BORDER_REPLICATE)
        result: npt.NDArray[np.float32] = averaged[side // 2 : -(side // 2) : step, side // 2 : -(side // 2) : step]
        return result

    step = max(1, side // 2)
    whole = mean(inside.astype(np.float32)) > 0.99
    ma, mb = mean(a), mean(b)
    va, vb = np.maximum(mean(a * a) - ma * ma, 0), np.maximum(mean(b * b) - mb * mb, 0)
    used = whole & (np.maximum(va, vb) >= texture**2)
    if not used.any():
        return 0, 0.0, 0.0
    correlation = (mean(a * b) - ma * mb)[used] / np.sqrt(np.maximum(va * vb, 1e-3)[used])
    return int(used.sum()), float((correlation >= _AGREES).mean()), float(np.median(correlation))


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

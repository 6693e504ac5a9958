"""Do two aligned thumbnails show the same pixels? What tells an altered copy from another photo of the same scene.

Both are laid onto one canvas, that of the coarser one, and compared window by window: the correlation of a window knows no
brightness and no contrast, and another shot of a scene differs in what is small: parallax, leaves, people, noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from retrieval.gallery.duplicates.thumbnails import Grey, Thumbnail

Mapping = npt.NDArray[np.float64]
Values = npt.NDArray[np.float32]
Found = Literal["points", "placed", "whole", "searched"]
"""How a mapping was come by: local points agree on it, a few of them ("placed") on a shift, turn and scale, the whole lies on the
whole, or one was searched for in the other."""

_WINDOWS = 12  # along the canvas's longer side
_LEAST_WINDOW = 5  # pixels
_TEXTURE = 4.0  # grey levels that a window varies by, where there is something to compare
_TEXTURE_SHARE = 0.12  # of the canvas's own deviation
_SAME_WINDOW = 0.95  # correlation
_EQUAL = 0.985  # median correlation
_FINE = 1.2  # grey levels
# Chosen on 160 photos in 14 alterations, and on neighbouring views of ten things; measured on others (docs/duplicates.md).
_COVER, _FEWEST, _TEXTURED = 0.8, 8, 0.4
_MIDDLE, _SAME = 0.9, 0.4
_SAME_WHOLE, _UNMOVED, _MIDDLE_MOVED = 0.5, 0.99, 0.925
_ONE_SIZE, _COVER_ONE_SIZE, _SAME_ONE_SIZE = 1.25, 0.92, 0.45
_NEAR, _SURE, _COVER_NEAR, _STEPS = 0.4, 0.97, 0.6, 30
_MOVED, _LEAST_DETAIL = 0.06, 0.8


@dataclass(frozen=True)
class Agreement:
    """``cover``: how much of the picture that is covered more lies within the other one, 0..1. ``windows``: how many have
    texture in both; ``textured``: their share of those that have some in one. Of the windows, ``middle`` is the median
    correlation and ``same`` the share with a correlation of 0.95 or more. ``detail``: the median correlation of what is fine in
    the windows, where those with more of it count for more; ``moved``: how far a corner lies from where the mapping that was
    guessed put it, in diagonals."""

    cover: float
    windows: int
    textured: float
    middle: float
    same: float
    detail: float
    moved: float = 0.0

    @property
    def equal(self) -> bool:
        """Whether other photos hardly ever agree so, but for a few."""
        return self.middle >= _EQUAL

    def copies(self, found: Found, scale: float = 0.0) -> bool:
        """Whether these are the same pixels, altered; ``found`` tells how the mapping was come by, ``scale`` how many pixels
        of the second picture lie along one of the first (0: unknown).

        A reduced picture has lost what is fine, and less of it is quite the same. Of two pictures of one size most windows are,
        and one shows what the other does: a thing before black, photographed again from a few degrees beside, correlates as
        well in the middle, and has moved.
        Turntable pictures a few degrees apart reach a median of 0.9 here and there; text or a sticker over a copy changes some
        windows and leaves the others as they were. Points are evidence of their own. A mapping that was chosen because the
        pictures correlate so is none: dark skirts and round lids lie on each other well. Two lids before one plain ground share
        its shading, in every window and wherever they are moved to lie on each other; what is fine in them they do not share.
        """
        if self.cover < _COVER:
            return False
        if found in ("placed", "searched") and self.moved > _MOVED:
            return False
        if found == "searched":
            return self.windows >= 24 and self.textured >= 0.6 and self.same >= 0.6
        unmoved = self.cover >= _UNMOVED
        one_size = 1 / _ONE_SIZE < scale < _ONE_SIZE
        if one_size and not unmoved and (self.cover < _COVER_ONE_SIZE or self.same < _SAME_ONE_SIZE):
            return False
        if found == "placed":
            return self.windows >= 40 and self.textured >= 0.7 and self.middle >= 0.93 and self.same >= _SAME
        if found == "whole":
            if not self.equal and (self.moved > _MOVED or self.detail < _LEAST_DETAIL):
                return False
            textured = self.textured >= (0.75 if self.windows < 40 else 0.45)
            alike = unmoved and self.textured >= 0.75 and self.middle >= _MIDDLE
            return self.windows >= 20 and (alike or (textured and self.same >= _SAME_WHOLE))
        enough = self.windows >= _FEWEST and self.textured >= _TEXTURED
        return enough and (self.middle >= (_MIDDLE if unmoved else _MIDDLE_MOVED) or self.same >= _SAME)


NONE = Agreement(0.0, 0, 0.0, 0.0, 0.0, 0.0)


def agreement(a: Thumbnail, b: Thumbnail, mapping: Mapping) -> Agreement:
    """How two pictures agree within their borders; ``mapping`` (3, 3) leads from pixels of ``a`` to pixels of ``b``."""
    import cv2

    scale = scale_of(mapping, a.grey.shape)
    if not 1e-3 < scale < 1e3:
        return NONE
    if scale < 1:  # b shows less: it is the canvas
        a, b = b, a
        mapping = np.asarray(np.linalg.inv(mapping), np.float64)
        scale = 1 / max(scale, 1e-9)
    size = a.grey.shape[1], a.grey.shape[0]
    soft = b.grey if scale < 1.2 else cv2.GaussianBlur(b.grey, (0, 0), 0.45 * scale)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP  # the mapping leads from the canvas to b
    laid = cv2.warpPerspective(soft, mapping, size, flags=flags).astype(np.float32)
    own, theirs = _inner(a), _inner(b)
    inside = (own > 0) & (cv2.warpPerspective(theirs, mapping, size, flags=flags) > 250)
    covered = float(inside.sum())
    cover = max(covered / float((own > 0).sum()), covered * scale**2 / float((theirs > 0).sum()))
    return Agreement(min(1.0, cover), *_windows(a.grey.astype(np.float32), laid, inside))


def best_agreement(a: Thumbnail, b: Thumbnail, mapping: Mapping) -> Agreement:
    """:func:`agreement`, and where that is not sure, of the mapping refined: few points place a picture roughly."""
    found = agreement(a, b, mapping)
    if found.middle >= _SURE or not (found.windows >= _FEWEST and found.middle >= _NEAR and found.cover >= _COVER_NEAR):
        return found
    finer = _refined(a, b, mapping)
    if finer is None:
        return found
    again = agreement(a, b, finer)
    return replace(again, moved=_moved(mapping, finer, a.grey.shape)) if again.middle > found.middle else found


def _refined(a: Thumbnail, b: Thumbnail, mapping: Mapping) -> Mapping | None:
    """An affine mapping near this one with which the pictures correlate most (ECC: Evangelidis and Psarakis, PAMI 2008)."""
    import cv2

    start = np.asarray(mapping[:2] / mapping[2, 2], np.float32)
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, _STEPS, 1e-4)
    try:
        _, found = cv2.findTransformECC(a.grey, b.grey, start, cv2.MOTION_AFFINE, stop, _inner(b), 5)
    except cv2.error:  # it went astray
        return None
    return np.vstack([np.asarray(found, np.float64), [0.0, 0.0, 1.0]])


def _moved(one: Mapping, other: Mapping, shape: tuple[int, ...]) -> float:
    """The most that a corner of a picture of this shape lies elsewhere by the other mapping, in diagonals."""
    corners = _corners(shape)
    first, second = corners @ one.T, corners @ other.T
    first, second = first[:, :2] / first[:, 2:], second[:, :2] / second[:, 2:]
    return float(np.hypot(*(first - second).T).max() / np.hypot(*(first[3] - first[0])))


def _corners(shape: tuple[int, ...]) -> Mapping:
    """Of a picture of this shape, homogeneous (4, 3)."""
    height, width = shape
    return np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], np.float64)


def _inner(picture: Thumbnail) -> Grey:
    """255 within the borders, 0 on them: two pictures in equal frames are not alike for that."""
    mask = np.zeros(picture.grey.shape, np.uint8)
    left, top, right, bottom = picture.box
    mask[top:bottom, left:right] = 255
    return mask


def _windows(a: Values, b: Values, inside: npt.NDArray[np.bool_]) -> tuple[int, float, float, float, float]:
    import cv2

    side = max(_LEAST_WINDOW, round(max(a.shape) / _WINDOWS)) | 1
    none = 0, 0.0, 0.0, 0.0, 0.0
    if min(a.shape) < side or not inside.any():
        return none
    texture = max(_TEXTURE, _TEXTURE_SHARE * float(min(a[inside].std(), b[inside].std()))) ** 2
    place = slice(side // 2, -(side // 2), max(1, side // 2))

    def mean(values: Values) -> Values:
        averaged = cv2.boxFilter(values, cv2.CV_32F, (side, side), borderType=cv2.BORDER_REPLICATE)
        return np.asarray(averaged[place, place], np.float32)

    whole = mean(inside.astype(np.float32)) > 0.99
    # A shading that changes evenly is like any other: something finer has to be there, in both, and not at the edge alone,
    # where a blur knows no better.
    fa, fb = _fine_part(a, side), _fine_part(b, side)
    faa, fbb, fab = mean(fa * fa), mean(fb * fb), mean(fa * fb)
    fine = whole & (np.minimum(faa, fbb) >= _FINE**2)
    if fine[2:-2, 2:-2].sum() < _FEWEST:
        return none
    ma, mb = mean(a), mean(b)
    va, vb = np.maximum(mean(a * a) - ma * ma, 0), np.maximum(mean(b * b) - mb * mb, 0)
    both = whole & (np.minimum(va, vb) >= texture)
    count, either = int(both.sum()), int((whole & (np.maximum(va, vb) >= texture)).sum())
    if not count:
        return none
    correlation = (mean(a * b) - ma * mb)[both] / np.sqrt((va * vb)[both])
    detail = _weighted_median(fab[fine] / np.sqrt((faa * fbb)[fine]), np.sqrt(np.minimum(faa, fbb)[fine]))
    return count, count / either, float(np.median(correlation)), float((correlation >= _SAME_WINDOW).mean()), detail


def _fine_part(picture: Values, side: int) -> Values:
    """What is left of the picture without its own blur."""
    import cv2

    return np.asarray(picture - cv2.GaussianBlur(picture, (0, 0), side / 3), np.float32)


def _weighted_median(values: Values, weights: Values) -> float:
    order = np.argsort(values)
    heaped = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(heaped, heaped[-1] / 2)])


def scale_of(mapping: Mapping, shape: tuple[int, ...]) -> float:
    """Pixels of the second picture for one of the first, at its middle; 0 where the mapping is none."""
    middle = np.array([shape[1] / 2, shape[0] / 2, 1.0])
    depth = float(mapping[2] @ middle)
    if abs(depth) < 1e-9 or not np.isfinite(mapping).all():
        return 0.0
    return math.sqrt(abs(float(np.linalg.det(mapping)) / depth**3))


def affine_part(mapping: Mapping, shape: tuple[int, ...]) -> Mapping:
    """The affine mapping that is this one near the middle of a picture of this shape."""
    middle = np.array([shape[1] / 2, shape[0] / 2, 1.0])
    x, y, depth = mapping @ middle
    linear = (mapping[:2, :2] - np.outer([x / depth, y / depth], mapping[2, :2])) / depth
    shift = np.array([x / depth, y / depth]) - linear @ middle[:2]
    return np.asarray(np.vstack([np.column_stack([linear, shift]), [0.0, 0.0, 1.0]]), np.float64)


def is_affine(mapping: Mapping, shape: tuple[int, ...], most: float = 1.5) -> bool:
    """Whether a mapping changes areas alike everywhere in a picture of this shape, up to the factor ``most``: a picture that
    was resized, cropped or turned. A scene from another place seldom is."""
    depth = _corners(shape) @ mapping[2]
    if not np.isfinite(depth).all() or np.ptp(np.sign(depth)):
        return False
    change = np.abs(depth) ** -3.0
    return bool(change.max() <= most * change.min())

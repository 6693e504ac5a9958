"""Is a copy worth keeping beside a better one of its size? One that was edited may be what its owner wants, or the original."""

from __future__ import annotations

import numpy as np

from retrieval.errors import ImageError
from retrieval.gallery.duplicates import lanczos
from retrieval.gallery.duplicates.closeness import detail_beyond, has_spot, mean_square, windows
from retrieval.gallery.duplicates.header import Header
from retrieval.gallery.duplicates.look import Box, Look, Pixels, same_pixels

_SIDE = 512
AS_LARGE = 0.9  # of the pixels of the larger: no worth telling apart
_FRAME = 0.02  # of the ratio of the sides
_WITHOUT = 0.98  # of the picture lies within plain borders: there are none
_BLUR = 2.0  # pixels: what compression changes is finer
# Grey levels. JPEG of quality 8 changes 2.7 and 12, writing across a picture 0.2 and 69 (medians of 68 photos).
_MEAN, _MOST = 3.0, 16.0
_HUES_BLUR = 8.0
_HUES_MEAN, _HUES_MOST = 3.0, 10.0
_CLEARLY = (0.75, 2.0)  # of these, less or more: a look that is not exact is enough
_LITTLE, _MUCH = 1.1, 1.25  # times as much detail, in half of the windows and in a tenth
_BLURRED, _SOFTER = 0.3, 0.75  # between them, sharpening and softening look alike
_BLOCKY, _TRACES = 1.1, 1.08  # JPEG's blocks in the best one, by themselves and for those of the copy
_BLOCKED, _BLOCKS = 1.5, 1.3  # and in the copy, where what is fine in it is blocks
_LARGER = 1.04  # times as many pixels: another size
_PROOF = 0.33  # of the smaller one's finest octave; an enlargement has 0.24 beyond it
_APART = 9.0  # grey levels, root mean square, over all
_PART, _PARTS = 6.0, 3.0  # in a window: so many levels, and so many times the median window's
_SPOT = 40.0  # grey levels, over the size of a letter
_NOISE = 4.0  # grey levels that the best one deviates more where the copy is flat


def worth_keeping(copy: Look, best: Look) -> str | None:
    """Why the picture ``copy`` says something that ``best`` does not, though it is the lesser copy; None: nothing.

    Only what is seen to be no more than ``best`` is nothing: the same frame, the same look, at its own size no detail that is
    not there too, and of two sizes the larger one with more detail. In doubt there is a reason."""
    try:
        if (more := _more_in(copy.header, best.header)) is not None:
            return more
        if same_pixels(copy, best):  # all that follows says nothing then
            return None
        if (copy.colourful and not best.colourful) or (best.grey and not copy.grey):
            return "it has colours"
        laid = _one_on_the_other(copy, best)
        return laid if isinstance(laid, str) else _more_detail(copy, best, *laid)
    except ImageError:
        return "it cannot be read"


def _more_in(copy: Header, best: Header) -> str | None:
    if copy.frames > 1:  # of which the first alone was compared
        return f"it has {copy.frames} frames"
    if copy.transparent:
        return "it is transparent in parts"
    if copy.told - best.told:
        return "its EXIF data say more"
    return "it has 16 bits a colour" if copy.deep and not best.deep else None


def _one_on_the_other(copy: Look, best: Look) -> tuple[Box, Box] | str:
    """What of both shows the same, within borders or without; or why nothing does."""
    framed = False
    for one in copy.boxes:
        for two in best.boxes:
            (width, height), (wide, high) = _size(one), _size(two)
            if abs(height * wide / (width * high) - 1) > _FRAME:
                continue
            framed = True
            if _differ(copy, one, best, two):
                continue
            if width * height >= _WITHOUT * copy.levels.size and wide * high < _WITHOUT * best.levels.size:
                return "it has no border"
            if width * height >= AS_LARGE * wide * high and copy.lost_colours != best.lost_colours:
                return "they differ in their number of colours"
            return one, two
    return "it looks different" if framed else "it is framed differently"


def _more_detail(copy: Look, best: Look, one: Box, two: Box) -> str | None:
    """The box ``one`` of the copy and ``two`` of the best one show the same."""
    ours, theirs = _within(copy.levels, one), _within(best.levels, two)
    laid = theirs if theirs.shape == ours.shape else lanczos.resized(theirs, ours.shape[1], ours.shape[0])
    seen = windows(ours, laid)
    middle, high = np.quantile(seen.detail, (0.5, 0.9)) if len(seen.detail) else (1.0, 1.0)
    blocks = copy.blockiness > max(_BLOCKED, _BLOCKS * best.blockiness)  # they are fine, and no detail
    if (middle > _LITTLE or high > _MUCH) and not blocks:
        return "it has finer detail"
    if _BLURRED < middle < _SOFTER:
        return "one of them is sharpened, or the other is blurred"
    if mean_square(ours, laid) > _APART**2 or has_spot(ours, laid, _SPOT):
        return "it looks different close by"
    if seen.apart.max() > _PART + _PARTS * np.median(seen.apart):
        return "it looks different close by"
    if len(seen.noise) and np.median(seen.noise) > _NOISE:
        return "it has less noise"
    if best.blockiness > max(_BLOCKY, _TRACES * copy.blockiness):
        return "it shows less of JPEG"
    if theirs.size > _LARGER * ours.size:
        # What the larger one has beyond the smaller one's pixels, by what that one has in its own finest octave.
        half = lanczos.resized(ours, max(1, ours.shape[1] // 2), max(1, ours.shape[0] // 2))
        if detail_beyond(theirs, laid) < _PROOF * detail_beyond(ours, half):
            return "the other may be an enlargement of it"
    return None


def _size(box: Box) -> tuple[int, int]:
    left, top, right, bottom = box
    return right - left, bottom - top


def _within(levels: Pixels, box: Box) -> Pixels:
    left, top, right, bottom = box
    return levels[top:bottom, left:right]


def _differ(copy: Look, one: Box, best: Look, two: Box) -> bool:
    """Whether boxes of one frame look different at 512 pixels and coarser; in their colours too, where the copy has any."""
    factor = min(1.0, _SIDE / max(_size(one)))
    width, height = (max(1, round(side * factor)) for side in _size(one))
    if max(_size(one) + _size(two)) >= 4 * _SIDE:
        # Halved first it takes a third of the time. What that lets through of the finest patterns is few levels.
        rough = _apart(copy.small(one, (width, height), True), best.small(two, (width, height), True), not copy.grey)
        if not _CLEARLY[0] < rough < _CLEARLY[1]:
            return rough > 1
    return _apart(copy.small(one, (width, height)), best.small(two, (width, height)), not copy.grey) > 1


def _apart(one: Pixels, two: Pixels, colours: bool) -> float:
    """How far small pictures, YCrCb, uint8 (h, w, 3), are apart; 1 is as far as two that look the same may be."""
    import cv2

    ours, theirs = one.astype(np.float32), two.astype(np.float32)
    apart = np.abs(cv2.GaussianBlur(ours[..., 0] - theirs[..., 0], (0, 0), _BLUR))
    found = [float(apart.mean()) / _MEAN, float(apart.max()) / _MOST]
    if colours:
        hues = np.abs(cv2.GaussianBlur(ours[..., 1:] - theirs[..., 1:], (0, 0), _HUES_BLUR)).max(axis=2)
        found += [float(hues.mean()) / _HUES_MEAN, float(hues.max()) / _HUES_MOST]
    return max(found)

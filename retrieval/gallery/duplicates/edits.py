"""Is a copy worth keeping beside a better one of its size? One that was edited may be what its owner wants, or the original."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrieval.errors import ImageError
from retrieval.gallery.duplicates.header import Header, header_of
from retrieval.gallery.duplicates.thumbnails import inner_box
from retrieval.gallery.duplicates.traces import blockiness, is_colourful, lost_colours, middle_of
from retrieval.pictures import imaging

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_SIDE = 512
AS_LARGE = 0.9  # of the pixels of the larger: no worth telling apart
_FRAME = 0.02  # of the ratio of the sides
_WITHOUT = 0.98  # of the picture lies within plain borders: there are none
_BLUR = 2.0  # pixels: what compression changes is finer
# Grey levels. JPEG of quality 8 changes 2.7 and 12, writing across a picture 0.2 and 69 (medians of 68 photos).
_MEAN, _MOST = 3.0, 16.0
_HUES_BLUR = 8.0
_HUES_MEAN, _HUES_MOST = 3.0, 10.0
_WINDOWS = 16  # along the longer side
_TEXTURE = 4.0  # grey levels
_GRAIN = 0.5  # levels of noise that say nothing
_LITTLE, _MUCH = 1.1, 1.25  # times as much detail, in half of the windows and in a tenth
_BLURRED, _SOFTER = 0.3, 0.75  # between them, sharpening and softening look alike
_BLOCKY, _TRACES = 1.1, 1.08  # JPEG's blocks in the best one, by themselves and for those of the copy
_BLOCKED, _BLOCKS = 1.5, 1.3  # and in the copy, where what is fine in it is blocks
_LARGER = 1.04  # times as many pixels: another size
_PROOF = 0.33  # of the smaller one's finest octave; an enlargement has 0.24 beyond it
_APART = 9.0  # grey levels, root mean square, over all
_PART, _PARTS = 6.0, 3.0  # in a window: so many levels, and so many times the median window's
_LETTER, _SPOT = 12, 40.0  # pixels; grey levels
_NOISE = 4.0  # grey levels that the best one deviates more where the copy is flat
_GREY = 16  # levels between two channels


class Look:
    """What is compared of the picture at ``path``; read once, when it is asked for. Raises ImageError then."""

    def __init__(self, path: str) -> None:
        self.path = path

    @cached_property
    def header(self) -> Header:
        return header_of(self.path)

    @cached_property
    def whole(self) -> Pixels:
        """Every pixel, upright, uint8 (H, W, 3)."""
        return imaging.load_picture(self.path, size=None).array

    @cached_property
    def inner(self) -> Pixels:
        """What lies within plain borders."""
        import cv2

        left, top, right, bottom = inner_box(np.asarray(cv2.cvtColor(self.whole, cv2.COLOR_RGB2GRAY), np.uint8))
        return self.whole[top:bottom, left:right]

    @cached_property
    def colourful(self) -> bool:
        return is_colourful(self.whole)

    @cached_property
    def grey(self) -> bool:
        """Whether there is no colour at all, not even on a small part."""
        import cv2

        small = (
            cv2.resize(self.whole, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            if min(self.whole.shape[:2]) > 1
            else self.whole
        )
        return bool(np.ptp(small.astype(np.int16), axis=2).max() <= _GREY)

    @cached_property
    def middle(self) -> Pixels:
        """Of the picture as it is stored, where JPEG's blocks begin."""
        return middle_of(self.path)

    @cached_property
    def lost_colours(self) -> bool:
        return lost_colours(self.middle)

    @cached_property
    def blockiness(self) -> float:
        return blockiness(self.middle)


def worth_keeping(copy: Look, best: Look) -> str | None:
    """Why the picture ``copy`` says something that ``best`` does not, though it is the lesser copy; None: nothing.

    Only what is seen to be no more than ``best`` is nothing: the same frame, the same look, at its own size no detail that is
    not there too, and of two sizes the larger one with more detail. In doubt there is a reason."""
    try:
        if (more := _more_in(copy.header, best.header)) is not None:
            return more
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


def _one_on_the_other(copy: Look, best: Look) -> tuple[Pixels, Pixels] | str:
    """What of both shows the same, within borders or without; or why nothing does."""
    framed = False
    for one in (copy.whole, copy.inner):
        for two in (best.whole, best.inner):
            if abs(one.shape[0] * two.shape[1] / (one.shape[1] * two.shape[0]) - 1) > _FRAME:
                continue
            framed = True
            if _differ(one, two, colours=not copy.grey):
                continue
            if one.size >= _WITHOUT * copy.whole.size and two.size < _WITHOUT * best.whole.size:
                return "it has no border"
            if one.size >= AS_LARGE * two.size and copy.lost_colours != best.lost_colours:
                return "they differ in their number of colours"
            return one, two
    return "it looks different" if framed else "it is framed differently"


def _more_detail(copy: Look, best: Look, one: Pixels, two: Pixels) -> str | None:
    """``one`` of the copy and ``two`` of the best one show the same."""
    ours, theirs = _grey(one), _grey(two)
    laid = _resized(theirs, ours.shape[1], ours.shape[0])
    windows = _windows(ours, laid)
    shares = windows.detail
    middle, high = np.quantile(shares, (0.5, 0.9)) if len(shares) else (1.0, 1.0)
    blocks = copy.blockiness > max(_BLOCKED, _BLOCKS * best.blockiness)  # they are fine, and no detail
    if (middle > _LITTLE or high > _MUCH) and not blocks:
        return "it has finer detail"
    if _BLURRED < middle < _SOFTER:
        return "one of them is sharpened, or the other is blurred"
    if np.square(ours - laid).mean() > _APART**2 or _spot(ours, laid) > _SPOT:
        return "it looks different close by"
    if windows.apart.max() > _PART + _PARTS * np.median(windows.apart):
        return "it looks different close by"
    if len(windows.noise) and np.median(windows.noise) > _NOISE:
        return "it has less noise"
    if best.blockiness > max(_BLOCKY, _TRACES * copy.blockiness):
        return "it shows less of JPEG"
    if theirs.size > _LARGER * ours.size:
        # What the larger one has beyond the smaller one's pixels, by what that one has in its own finest octave.
        beyond = theirs - _resized(laid, theirs.shape[1], theirs.shape[0])
        half = _resized(ours, max(1, ours.shape[1] // 2), max(1, ours.shape[0] // 2))
        finest = ours - _resized(half, ours.shape[1], ours.shape[0])
        if beyond.std() < _PROOF * finest.std():
            return "the other may be an enlargement of it"
    return None


def _spot(one: Floats, two: Floats) -> float:
    """How far two grey pictures are apart where they are most, root mean square over the size of a letter."""
    import cv2

    return float(np.sqrt(cv2.blur(np.square(one - two), (_LETTER, _LETTER)).max()))


class _Windows(NamedTuple):
    """Of two grey pictures, by windows. ``detail``: how much of what is fine the first has for that of the second, where
    both have some texture; ``apart``: how far they are apart, root mean square; ``noise``: by how much the second deviates more
    where the first is flat."""

    detail: npt.NDArray[np.float64]
    apart: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float64]


def _windows(one: Floats, two: Floats) -> _Windows:
    import cv2

    side = max(8, max(one.shape) // _WINDOWS)
    detail, apart, noise = [], [], []
    fine = [cv2.Laplacian(grey, cv2.CV_32F) for grey in (one, two)]
    for top in range(0, max(1, one.shape[0] - side + 1), side):
        for left in range(0, max(1, one.shape[1] - side + 1), side):
            window = np.s_[top : top + side, left : left + side]
            ours, theirs = float(one[window].std()), float(two[window].std())
            apart.append(float(np.sqrt(np.square(one[window] - two[window]).mean())))
            if min(ours, theirs) > _TEXTURE:
                a, b = (float(np.sqrt(np.square(laplacian[window]).mean())) for laplacian in fine)
                detail.append((a + _GRAIN) / (b + _GRAIN))
            elif ours <= _TEXTURE:
                noise.append(theirs - ours)
    return _Windows(np.array(detail), np.array(apart), np.array(noise))


def _grey(pixels: Pixels) -> Floats:
    import cv2

    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.float32)


def _resized(pixels: npt.NDArray[Any], width: int, height: int) -> npt.NDArray[Any]:
    """By Lanczos's filter, as wide as the change of size: what most programs make small copies with."""
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _differ(one: Pixels, two: Pixels, *, colours: bool) -> bool:
    """Whether two pictures of one frame look different at 512 pixels and coarser; ``colours``: in their colours too."""
    import cv2

    factor = min(1.0, _SIDE / max(one.shape[:2]))
    width, height = (max(1, round(side * factor)) for side in (one.shape[1], one.shape[0]))
    ours, theirs = (
        cv2.cvtColor(_resized(pixels, width, height), cv2.COLOR_RGB2YCrCb).astype(np.float32) for pixels in (one, two)
    )
    apart = np.abs(cv2.GaussianBlur(ours[..., 0] - theirs[..., 0], (0, 0), _BLUR))
    if apart.mean() > _MEAN or apart.max() > _MOST:
        return True
    hues = np.abs(cv2.GaussianBlur(ours[..., 1:] - theirs[..., 1:], (0, 0), _HUES_BLUR)).max(axis=2)
    return colours and bool(hues.mean() > _HUES_MEAN or hues.max() > _HUES_MOST)

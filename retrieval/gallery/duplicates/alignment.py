"""How one thumbnail may lie on another: whole on whole, turned or mirrored, within borders, or as a part that is searched for.

For what needs no local points, and for pictures that have hardly any. Each mapping is a guess for
:func:`retrieval.gallery.duplicates.agreement.agreement` to judge.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from retrieval.gallery.duplicates.agreement import Mapping
from retrieval.gallery.duplicates.thumbnails import OUTLINE, Grey, Thumbnail

_LIKELY = 0.6  # correlation of outlines
_TRIED = 3
_SCALES = tuple(0.93**i for i in range(11))  # sides of a part, of the greatest that fits: 1 to 0.48
_LEAST_PART = 12  # pixels
_PEAK = 0.6
_COARSE = 80

Box = tuple[float, float, float, float]
# The eight ways to lay a unit square on itself, as matrices of homogeneous coordinates: turns, then turns of the mirror image.
_QUARTER = np.array([[0, -1, 1], [1, 0, 0], [0, 0, 1]], np.float64)
_MIRROR = np.array([[-1, 0, 1], [0, 1, 0], [0, 0, 1]], np.float64)


def box_to_box(a: Box, b: Box, unit: npt.NDArray[np.float64] | None = None) -> Mapping:
    """Maps pixels of one box (left, top, right, bottom) onto another; ``unit``: what happens to the unit square between.

    A box ends where its last pixel does, half a pixel beyond its centre."""
    to_unit = np.linalg.inv(_from_unit(a))
    return np.asarray(_from_unit(b) @ (to_unit if unit is None else unit @ to_unit))


def _from_unit(box: Box) -> Mapping:
    left, top, right, bottom = box
    return np.array([[right - left, 0, left - 0.5], [0, bottom - top, top - 0.5], [0, 0, 1]], np.float64)


def whole(picture: Thumbnail) -> Box:
    return 0, 0, picture.grey.shape[1], picture.grey.shape[0]


def whole_on_whole(a: Thumbnail, b: Thumbnail) -> Iterator[Mapping]:
    """The likeliest ways in which the whole of one, or what lies within its borders, is the whole of the other; most likely
    first."""
    ours, theirs = _outlines(a), _outlines(b)
    guesses = []
    for box, vector in ours:
        square = vector.reshape(OUTLINE, OUTLINE)
        for flipped in (False, True):
            for turns in range(4):
                # np.rot90 turns counter-clockwise on the screen, _QUARTER clockwise.
                laid = np.rot90(square[:, ::-1] if flipped else square, -turns).ravel()
                unit = np.linalg.matrix_power(_QUARTER, turns) @ (_MIRROR if flipped else np.eye(3))
                guesses += [(float(laid @ other), box_to_box(box, target, unit)) for target, other in theirs]
    guesses = [guess for guess in guesses if guess[0] >= _LIKELY]
    guesses.sort(key=lambda guess: -guess[0])
    for _, mapping in guesses[:_TRIED]:
        yield mapping


def _outlines(picture: Thumbnail) -> list[tuple[Box, npt.NDArray[np.float32]]]:
    found: list[tuple[Box, npt.NDArray[np.float32]]] = []
    for inner in (False, True) if picture.bordered else (False,):
        vector = picture.outline(inner)
        if vector is not None:
            found.append((picture.box if inner else whole(picture), vector))
    return found


def part_of_whole(a: Grey, b: Grey, native: float | None) -> Iterator[Mapping]:
    """Where ``a`` may be a part of ``b``, at whatever size from a half of its sides on. ``native``: pixels of ``b`` for one of
    ``a`` where neither was resized."""
    fit = min(b.shape[0] / a.shape[0], b.shape[1] / a.shape[1])
    coarse = min(1.0, _COARSE / max(b.shape))
    scales = [fit * s for s in _SCALES] + ([native] if native is not None and 0.4 * fit <= native <= fit * 1.02 else [])
    small = _resized(b, coarse, coarse)
    found = [
        (peak[0], scale) for scale in scales if (peak := _peak(_resized(a, scale * coarse, scale * coarse), small))
    ]
    if not found or max(found)[0] < _PEAK:
        return
    best = max(found)[1]
    finer = []
    for scale in [best * s for s in (0.96, 0.98, 1.0, 1.02, 1.04)] + ([native] if native is not None else []):
        laid = _resized(a, scale, scale)
        peak = _peak(laid, b)
        if peak:
            finer.append((peak[0], peak[1], peak[2], laid.shape))
    if finer:
        _, x, y, (height, width) = max(finer, key=lambda f: f[0])
        yield box_to_box((0, 0, a.shape[1], a.shape[0]), (x, y, x + width, y + height))


def _resized(grey: Grey, across: float, down: float) -> Grey:
    import cv2

    size = (max(1, round(grey.shape[1] * across)), max(1, round(grey.shape[0] * down)))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _peak(part: Grey, picture: Grey) -> tuple[float, int, int] | None:
    import cv2

    fits = part.shape[0] <= picture.shape[0] and part.shape[1] <= picture.shape[1]
    if not fits or min(part.shape) < _LEAST_PART or part.std() < 1:
        return None
    _, best, _, (x, y) = cv2.minMaxLoc(cv2.matchTemplate(picture, part, cv2.TM_CCOEFF_NORMED))
    return float(best), int(x), int(y)

"""Where a scale space has points that can be found again: extremes of its differences, placed between pixels and scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.ranking.sift.room import room
from retrieval.ranking.sift.scale_space import FINEST, STEPS, UNIT, Octave, ScaleSpace

CONTRAST = 0.02 / STEPS * 255  # of 255: the least difference that is no noise
_WORTH_A_LOOK = 0.7  # of the contrast, at a pixel: between pixels it may be more
_EACH = 16  # so many candidates for each point that is wanted
_EDGE = 10.0  # the greatest ratio of both curvatures: along an edge a point has no place
_BORDER = 5  # pixels
_MOVES = 2  # steps to a neighbour, where the extreme lies nearer to it
_SQUARE = np.ones((3, 3), np.uint8)
_FARTHEST = 0.6  # from the last pixel and step


@dataclass(frozen=True)
class Extrema:
    """N points, strongest first: ``octave`` and ``step`` int64 (N,) the blurred image they belong to, ``x`` and ``y`` float32
    (N,) in its pixels, ``scale`` float32 (N,) the blur there in the same."""

    octave: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.x)


def find_extrema(space: ScaleSpace, most: int) -> Extrema:
    """The ``most`` strongest; of equal ones, in order of octave, scale, row and column (Lowe, IJCV 2004, sections 3.1 and 4)."""
    place, found, offset = _fitted(space, _candidates(space, _EACH * most))
    value, slope, (dxx, dyy, _, dxy) = found[0], found[1:4], found[4:8]
    strength = np.abs(value + 0.5 * (slope * offset).sum(axis=0))
    determinant = dxx * dyy - dxy * dxy
    kept = np.flatnonzero(
        (np.abs(offset).max(axis=0, initial=0) <= _FARTHEST)
        & (strength >= CONTRAST)
        & (determinant > 0)
        & ((dxx + dyy) ** 2 * _EDGE < (_EDGE + 1) ** 2 * determinant)
    )
    kept = kept[np.argsort(-strength[kept], kind="stable")[:most]]
    octave, step, y, x = place[:, kept]
    offset = offset[:, kept]
    scale = FINEST * 2 ** ((step + offset[2]) / STEPS)
    x, y = x + offset[0], y + offset[1]
    return Extrema(octave, step, x.astype(np.float32), y.astype(np.float32), scale.astype(np.float32))


def _candidates(space: ScaleSpace, most: int) -> npt.NDArray[np.int64]:
    """Octave, step, row and column, int64 (4, N), of all where the next image differs more than at any of the 26 neighbours; of
    neighbours that differ alike, the first. (Signs are not looked at: beside an extreme there is no greater one of the other
    sign in images so smooth.) At most ``most`` are looked at, where the difference is greatest."""
    centre, step, change = _in_the_plane(space)
    if len(change) > most:
        some = change >= np.partition(change, -most)[-most]
        centre, step = centre[some], step[some]
    flat, width = space.blurred.reshape(-1), space.blurred.shape[1]
    for shifts in ((0,), (-1, 1, -width, width), (-width - 1, -width + 1, width - 1, width + 1)):  # most fall at once
        here, extreme = np.abs(flat[centre + step] - flat[centre]), np.ones(len(centre), bool)
        for shift in shifts:
            first, at, after, last = (flat[centre + (shift + i * step)] for i in (-1, 0, 1, 2))
            if shift:
                extreme &= (np.greater if shift < 0 else np.greater_equal)(here, np.abs(after - at))
            extreme &= (here > np.abs(at - first)) & (here >= np.abs(last - after))
        centre, step = centre[extreme], step[extreme]
    row, x = np.divmod(centre, width)
    heights, begins = np.array([[octave.height, octave.row] for octave in space.octaves]).T
    number = np.searchsorted(begins, row, side="right") - 1
    return np.stack([number, *np.divmod(row - begins[number], heights[number]), x])


def _in_the_plane(
    space: ScaleSpace,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int16]]:
    """Where it differs as much as at any of the 8 neighbours of one step, or more: numbers among all pixels, ascending, how far
    the next step is, both int64 (N,), and the difference, int16 (N,)."""
    large = [octave for octave in space.octaves if min(octave.height, octave.width) > 2 * _BORDER]
    planes = [(octave, step) for octave in large for step in range(1, STEPS + 1)]
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int16)), *(_in_one_plane(space, *plane) for plane in planes)]
    centres, changes = zip(*found, strict=True)
    strides = [0, *(octave.height * space.blurred.shape[1] for octave, _ in planes)]
    return np.concatenate(centres), np.repeat(strides, list(map(len, centres))), np.concatenate(changes)


def _in_one_plane(space: ScaleSpace, octave: Octave, step: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]:
    import cv2

    height, width = octave.height, octave.width
    change, greatest = room("change", (height, width), np.int16), room("greatest", (height, width), np.int16)
    cv2.absdiff(space.image(octave, step + 1), space.image(octave, step), dst=change)
    cv2.dilate(change, _SQUARE, dst=greatest)
    inner = slice(_BORDER, -_BORDER), slice(_BORDER, -_BORDER)
    extreme = change[inner] == greatest[inner]
    extreme &= change[inner] >= np.int16(_WORTH_A_LOOK * CONTRAST * UNIT)
    y, x = np.divmod(np.flatnonzero(extreme), width - 2 * _BORDER)
    y, x = y + _BORDER, x + _BORDER
    return (octave.row + step * height + y) * space.blurred.shape[1] + x, change[y, x]


def _fitted(
    space: ScaleSpace, place: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Pixels and steps that the fitted extremes are nearest to, each once, as far as they stay within their octaves; the
    derivatives there, and the extremes' offsets."""
    heights, widths = np.array([[octave.height, octave.width] for octave in space.octaves]).T
    found = _derivatives(space, place)
    offset = _offset(found)
    for _ in range(_MOVES):
        move = np.where(np.abs(offset) > 0.5, np.sign(offset), 0).astype(np.int64)
        if not move.any():
            break
        octave, (step, y, x) = place[0], place[1:] + move[::-1]
        inside = (step >= 1) & (step <= STEPS) & (y >= _BORDER) & (y < heights[octave] - _BORDER)
        inside &= (x >= _BORDER) & (x < widths[octave] - _BORDER)
        place, found, offset = np.stack([octave, step, y, x])[:, inside], found[:, inside], offset[:, inside]
        moved = np.flatnonzero(np.abs(move[:, inside]).sum(axis=0))
        found[:, moved] = _derivatives(space, place[:, moved])
        offset[:, moved] = _offset(found[:, moved])
    _, first = np.unique(_numbers(space, place)[0], return_index=True)
    return place[:, first], found[:, first], offset[:, first]


def _numbers(space: ScaleSpace, place: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where these are among all pixels, ascending with octave, step, row and column; and how far the next step is."""
    octave, step, y, x = place
    heights, begins = np.array([[o.height, o.row] for o in space.octaves]).T
    width = space.blurred.shape[1]
    return (begins[octave] + step * heights[octave] + y) * width + x, heights[octave] * width


def _derivatives(space: ScaleSpace, place: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Of the difference of an image to the next, (10, N): value, slope along x, y and step, and curves xx, yy, ss, xy, xs, ys, by
    central differences."""
    flat, width = space.blurred.reshape(-1), space.blurred.shape[1]
    centre, step = _numbers(space, place)

    def at(shift: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        there = centre + shift
        return (flat[there + step] - flat[there]) / UNIT

    value = at(0)
    sides = [(at(a), at(-a)) for a in (1, width, step)]
    slope = [0.5 * (ahead - behind) for ahead, behind in sides]
    curves = [ahead + behind - 2 * value for ahead, behind in sides]
    for a, b in ((1, width), (1, step), (width, step)):
        curves.append(0.25 * (at(a + b) - at(a - b) - at(b - a) + at(-a - b)))
    return np.stack([value, *slope, *curves])


def _offset(derivatives: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From each place to the extreme of the parabola through it, (3, N) along x, y and step: Cramer's rule. Far away where
    there is none."""
    _, x, y, s, xx, yy, ss, xy, xs, ys = derivatives
    cxx, cyy, css = yy * ss - ys * ys, xx * ss - xs * xs, xx * yy - xy * xy
    cxy, cxs, cys = xs * ys - xy * ss, xy * ys - xs * yy, xy * xs - xx * ys
    determinant = xx * cxx + xy * cxy + xs * cxs
    some = np.abs(determinant) > 1e-12
    found = np.stack([cxx * x + cxy * y + cxs * s, cxy * x + cyy * y + cys * s, cxs * x + cys * y + css * s])
    found = -found / np.where(some, determinant, 1)
    return np.where(some, np.clip(found, -1e3, 1e3), 1e3)

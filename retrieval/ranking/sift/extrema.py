"""Where a scale space has points that can be found again: extremes of its differences, placed between pixels and scales."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.ranking.sift.room import room
from retrieval.ranking.sift.scale_space import FINEST, STEPS, ScaleSpace

CONTRAST = 0.02 / STEPS * 255  # of 255: the least difference that is no noise
_WORTH_A_LOOK = 0.7  # of the contrast, at a pixel: between pixels it may be more
_EACH = 16  # so many candidates for each point that is wanted
_EDGE = 10.0  # the greatest ratio of both curvatures: along an edge a point has no place
_BORDER = 5  # pixels
_MOVES = 2  # steps to a neighbour, where the extreme lies nearer to it
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
    place = _moved(space, _candidates(space, _EACH * most))
    value, slope, curves = _derivatives(space, place)
    offset = _offset(slope, curves)
    strength = np.abs(value + 0.5 * (slope * offset).sum(axis=0))
    dxx, dyy, _, dxy = curves[:4]
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
    """Octave, step, row and column, int64 (4, N), of all where the next image differs as much as at any of the 26 neighbours, or
    more. (Signs are not looked at: beside an extreme there is no greater one of the other sign in images so smooth.) At most
    ``most`` are looked at, where the difference is greatest."""
    place, change = _in_the_plane(space)
    if len(change) > most:
        place = place[:, change >= np.partition(change, -most)[-most]]
    flat, width = space.blurred.reshape(-1), space.blurred.shape[1]
    for shifts in ((0,), (-1, 1, -width, width), (-width - 1, -width + 1, width - 1, width + 1)):  # most fall at once
        centre, step = _numbers(space, place)
        here, extreme = np.abs(flat[centre + step] - flat[centre]), np.ones(place.shape[1], bool)
        for shift in shifts:
            before, at, after, last = (flat[centre + (shift + i * step)] for i in (-1, 0, 1, 2))
            extreme &= (here >= np.abs(at - before)) & (here >= np.abs(last - after))
        place = place[:, extreme]
    return place


def _in_the_plane(space: ScaleSpace) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """The same among the 8 neighbours of one step, and the difference, float32 (N,)."""
    import cv2

    square = np.ones((3, 3), np.uint8)
    found, changes = [np.zeros((4, 0), np.int64)], [np.zeros(0, np.float32)]
    for number, octave in enumerate(space.octaves):
        height, width = octave.height, octave.width
        if min(height, width) <= 2 * _BORDER:
            continue
        change, greatest = room("change", (height, width)), room("greatest", (height, width))
        for step in range(1, STEPS + 1):
            cv2.absdiff(space.image(octave, step + 1), space.image(octave, step), dst=change)
            cv2.dilate(change, square, dst=greatest)
            extreme = change == greatest
            extreme &= change >= _WORTH_A_LOOK * CONTRAST
            y, x = np.divmod(np.flatnonzero(extreme), width)
            inside = (y >= _BORDER) & (y < height - _BORDER) & (x >= _BORDER) & (x < width - _BORDER)
            y, x = y[inside], x[inside]
            found.append(np.stack([np.full(len(y), number), np.full(len(y), step), y, x]))
            changes.append(change[y, x])
    return np.concatenate(found, axis=1), np.concatenate(changes)


def _moved(space: ScaleSpace, place: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """To the pixel and step that the fitted extreme is nearest to, each once; what leaves its octave is dropped."""
    heights, widths = np.array([[octave.height, octave.width] for octave in space.octaves]).T
    for _ in range(_MOVES):
        offset = _offset(*_derivatives(space, place)[1:])
        far = np.abs(offset) > 0.5
        if not far.any():
            break
        move = np.where(far, np.sign(offset), 0).astype(np.int64)
        octave = place[0]
        step, y, x = place[1] + move[2], place[2] + move[1], place[3] + move[0]
        inside = (step >= 1) & (step <= STEPS) & (y >= _BORDER) & (y < heights[octave] - _BORDER)
        inside &= (x >= _BORDER) & (x < widths[octave] - _BORDER)
        place = np.stack([octave, step, y, x])[:, inside]
    _, first = np.unique(_numbers(space, place)[0], return_index=True)
    return place[:, first]


def _numbers(space: ScaleSpace, place: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where these are among all pixels, ascending with octave, step, row and column; and how far the next step is."""
    octave, step, y, x = place
    heights, begins = np.array([[o.height, o.row] for o in space.octaves]).T
    width = space.blurred.shape[1]
    return (begins[octave] + step * heights[octave] + y) * width + x, heights[octave] * width


def _derivatives(
    space: ScaleSpace, place: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Of the difference of an image to the next: value (N,), slope (3, N) along x, y and step, and curves (6, N): xx, yy, ss, xy,
    xs, ys, by central differences."""
    flat, width = space.blurred.reshape(-1), space.blurred.shape[1]
    centre, step = _numbers(space, place)

    def at(shift: int | npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        there = centre + shift
        return flat[there + step].astype(np.float64) - flat[there]

    value = at(0)
    sides = [(at(a), at(-a)) for a in (1, width, step)]
    slope = np.stack([0.5 * (ahead - behind) for ahead, behind in sides])
    curves = [ahead + behind - 2 * value for ahead, behind in sides]
    for a, b in ((1, width), (1, step), (width, step)):
        curves.append(0.25 * (at(a + b) - at(a - b) - at(b - a) + at(-a - b)))
    return value, slope, np.stack(curves)


def _offset(slope: npt.NDArray[np.float64], curves: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From each place to the extreme of the parabola through it, (3, N) along x, y and step: Cramer's rule. Far away where
    there is none."""
    xx, yy, ss, xy, xs, ys = curves
    cxx, cyy, css = yy * ss - ys * ys, xx * ss - xs * xs, xx * yy - xy * xy
    cxy, cxs, cys = xs * ys - xy * ss, xy * ys - xs * yy, xy * xs - xx * ys
    determinant = xx * cxx + xy * cxy + xs * cxs
    some = np.abs(determinant) > 1e-12
    x, y, s = slope
    found = np.stack([cxx * x + cxy * y + cxs * s, cxy * x + cyy * y + cys * s, cxs * x + cys * y + css * s])
    found = -found / np.where(some, determinant, 1)
    return np.where(some, np.clip(found, -1e3, 1e3), 1e3)

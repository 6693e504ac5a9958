"""Do the points that two pictures share lie as in a copy, or as in another photo, from a place nearby?

Two photos of a facade from nearly one place agree window by window. But between them near things moved by other steps than far
ones, and flat ones are slanted otherwise: no affine mapping takes every point to its place, and in what it leaves neighbours go
together. In a copy it leaves what noise and compression did to each point by itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from retrieval.ranking.geometry import LocalFeatures, Verification, match

Values = npt.NDArray[np.float64]

_REACH = 8.0  # pixels beside the homography's place, with the longest side at 640: also what does not lie on its plane
_ROUNDS = 8
_FEWEST = 12  # points
_NEIGHBOURS = 4
_APART = 4.0  # pixels: nearer points are found on the same spot, and its noise is theirs
_MOST = 3.0  # medians that one rest may weigh
# Chosen on pairs of different photos of one scene, and on altered copies (docs/duplicates.md).
_MOVED = 0.15  # pixels of the coarser picture that neighbours go together
_SHARE = 0.15  # of the rests' mean square
_CHANCE = 1.0  # by the root of the number of points: twice what chance makes of the share


def has_parallax(one: LocalFeatures, two: LocalFeatures, found: Verification) -> bool:
    """Whether the best affine mapping of ``one`` to ``two``, near ``found``, leaves a rest that neighbouring matches share."""
    if found.homography is None:
        return False
    (pairs,) = match(one, [two])
    source, target = one.points[pairs[:, 0]].astype(np.float64), two.points[pairs[:, 1]].astype(np.float64)
    laid = np.column_stack([source, np.ones(len(source))]) @ found.homography.T
    reach = _REACH * max(1.0, max(two.size) / 640)
    near = np.hypot(*(laid[:, :2] / laid[:, 2:] - target).T) < reach
    source, target = source[near], target[near]
    _, first = np.unique(np.round(source), axis=0, return_index=True)  # one point with two orientations is one
    source, target = source[first], target[first]
    if len(source) < _FEWEST:
        return False
    rest, scale = _rest(source, target)
    rest /= max(1.0, scale)
    lengths = np.hypot(*rest.T)
    # A wrong match says nothing of its neighbours: it counts for no more than a few usual ones.
    rest /= np.maximum(1.0, lengths / max(1e-9, _MOST * float(np.median(lengths))))[:, None]
    together = float((rest[:, None] * rest[_neighbours(source)]).sum(axis=2).mean())
    share = together / max(1e-12, float((rest * rest).sum(axis=1).mean()))
    return together > _MOVED**2 and share > max(_SHARE, _CHANCE / len(rest) ** 0.5)


def _rest(source: Values, target: Values) -> tuple[Values, float]:
    """What an affine mapping leaves of the targets, (N, 2), and its scale: least squares in which far ones weigh little (Cauchy's
    weights)."""
    design = np.column_stack([np.ones(len(source)), source - source.mean(axis=0)])
    weights = np.ones(len(source))
    for _ in range(_ROUNDS):
        root = np.sqrt(weights)[:, None]
        mapping = np.linalg.lstsq(design * root, target * root, rcond=None)[0]
        rest = target - design @ mapping
        lengths = np.hypot(*rest.T)
        weights = 1 / (1 + (lengths / (1.5 * float(np.median(lengths)) + 0.05)) ** 2)
    return rest, float(np.sqrt(abs(np.linalg.det(mapping[1:]))))


def _neighbours(points: Values) -> npt.NDArray[np.int64]:
    """Of each point the nearest others that are not on the same spot, (N, 4)."""
    x, y = np.asarray(points.T, np.float32)
    apart = np.square(x[:, None] - x) + np.square(y[:, None] - y)
    apart[apart < _APART**2] = np.inf
    return np.argpartition(apart, _NEIGHBOURS, axis=1)[:, :_NEIGHBOURS]

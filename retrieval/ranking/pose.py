"""How many shared words of two images agree in one pose: a weak geometric check without opening a picture.

Each pair of points says by its places, sizes and orientations how one image would have to be shifted, turned and scaled to lie
on the other (a hypothesis from a single correspondence: Philbin et al., "Object retrieval with large vocabularies and fast
spatial matching", CVPR 2007). The one that most pairs agree with is refined to an affinity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MOST_PAIRS = 100
_NEAR = 12.0  # pairs agree with a hypothesis within so many 256ths of the longest side
_NEARER = 8.0  # and with the refined one
_SCALE = 16.0  # and by a factor of two in size (16ths of a doubling)
_TURN = 24.0  # and by 34 degrees in orientation (256ths of a turn)
_ROUNDS = 3
_OVERLAID = 8  # points, from which on it can be told
_STILL = 4.0  # 256ths of the longest side: at the same place
_NEIGHBOURS = 5
_ALONE = 0.2
_MIDDLE, _FEW_INSIDE = 0.25, 0.1  # of the sides, from the centre; of the points


@dataclass(frozen=True)
class Pose:
    """``inliers``: points of the query that agree. ``affinity`` (2, 3) float64 from the query's to the picture's places, both in
    256ths of the longest side; None where there is none. ``agreeing``: which pairs do, bool (M,)."""

    inliers: int
    affinity: npt.NDArray[np.float64] | None
    agreeing: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Agreement:
    """``inliers``: points that agree; ``places``: of all points of the query, uint8 (W, 4); ``ours``, ``theirs``: of those that
    agree, uint8 (M, 4)."""

    inliers: int
    places: npt.NDArray[np.uint8]
    ours: npt.NDArray[np.uint8]
    theirs: npt.NDArray[np.uint8]

    def laid_over(self) -> bool:
        """Whether the points that agree lie at the same place in both pictures, beside the middle, and by themselves: their
        neighbours agree far oftener than points of the query do. A caption, a logo or a window is so; of a copy, or of the
        same thing, points agree that lie among others which do not. (So is a photo of which the most is covered.)"""
        if self.inliers < _OVERLAID:
            return False
        ours, theirs = (places[:, :2].astype(np.float64) for places in (self.ours, self.theirs))
        if np.median(np.hypot(*(ours - theirs).T)) > _STILL:
            return False
        points = np.unique(self.places[:, :2], axis=0)
        low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
        inside = (np.abs(ours - (low + high) / 2) < _MIDDLE * (high - low)).all(axis=1)
        if inside.mean() > _FEW_INSIDE:
            return False
        codes, those = (places[:, 0].astype(np.int64) * 256 + places[:, 1] for places in (points, self.ours))
        agree = np.isin(codes, those)
        apart = np.square(points[:, None].astype(np.int64) - points[None]).sum(axis=2)
        np.fill_diagonal(apart, np.iinfo(np.int64).max)
        near = np.argsort(apart[agree], axis=1, kind="stable")[:, :_NEIGHBOURS]
        return bool(agree[near].mean() - agree.mean() > _ALONE)


def estimate(query: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> Pose:
    """``query`` and ``other``: places of M pairs of points, uint8 (M, 4), see :func:`retrieval.ranking.asmk.places`, best pairs
    first; beyond 100 they are not looked at."""
    agreeing = np.zeros(len(query), bool)
    if len(query) < 3:
        return Pose(0, None, agreeing)
    a, b = query[:MOST_PAIRS].astype(np.float64), other[:MOST_PAIRS].astype(np.float64)
    scale = b[:, 2] - a[:, 2]
    turn = other[:MOST_PAIRS, 3] - query[:MOST_PAIRS, 3]  # uint8: a whole turn is nothing
    source, target = a[:, 0] + 1j * a[:, 1], b[:, 0] + 1j * b[:, 1]
    rotation = 2.0 ** (scale / 16) * np.exp(2j * np.pi / 256 * turn)
    # Row: the hypothesis of one pair; column: what it says of another.
    error = rotation[:, None] * source - target
    error -= (rotation * source - target)[:, None]
    squared = error.real**2 + error.imag**2  # np.abs takes four times as long
    turned = np.abs((turn - turn[:, None]).view(np.int8).astype(np.int16))
    like = (np.abs(scale - scale[:, None]) <= _SCALE) & (turned <= _TURN)
    votes = (squared <= np.square(_NEAR * np.maximum(1.0, np.abs(rotation)))[:, None]) & like
    chosen = votes.sum(axis=1).argmax()
    inside = votes[chosen]
    affinity = None
    points = np.stack([a[:, 0], a[:, 1], np.ones(len(a))], axis=1)
    for _ in range(_ROUNDS):
        if inside.sum() < 3 or np.ptp(source[inside].real) + np.ptp(source[inside].imag) < 8:
            break
        found = np.linalg.lstsq(points[inside], b[inside, :2], rcond=None)[0].T
        if not 1e-4 < np.linalg.det(found[:, :2]) < 1e4:
            break
        affinity = found
        error = np.hypot(*(points @ affinity.T - b[:, :2]).T)
        near = (error <= _NEARER) & like[chosen]
        if (near == inside).all():
            break
        inside = near
    if affinity is None:
        return Pose(0, None, agreeing)
    agreeing[: len(a)] = inside
    return Pose(min(_distinct(query[agreeing]), _distinct(other[agreeing])), affinity, agreeing)


def _distinct(places: npt.NDArray[np.uint8]) -> int:
    """How many different rows there are, uint8 (N, 4)."""
    return len(set(np.ascontiguousarray(places).view(np.uint32).ravel().tolist()))

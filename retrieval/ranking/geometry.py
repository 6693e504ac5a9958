"""Spatial verification: are two images pictures of one thing, seen from two places? Local features decide, not labels.

Root-SIFT points of both images are matched, and a homography that explains many of the matches says yes. Points of a
gallery are found once and kept as bytes (:func:`pack`); a query is then compared with its first answers only.
OpenCV (imported when needed) fits the homography; its results repeat exactly.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from retrieval.errors import UsageError, whole_number
from retrieval.ranking.packing import packed, unpacked
from retrieval.ranking.sift import MOST_SIDE, sift

_SCALE = 512  # of root-SIFT values, at most 0.5 but for rare peaks, in a byte
_MAGIC = b"rSF1"
_WORKERS = 8
_MINIMAL = 4  # point pairs that determine a homography
_AREA_CHANGE = 100.0
_MOST_ENLARGED = 2.0  # beyond, points of the enlarging are found


Pairs = npt.NDArray[np.int64]


class Points(Protocol):
    """Points of one image, (N, 2) float32: x and y in its pixels; its ``size``, width and height."""

    @property
    def points(self) -> npt.NDArray[np.float32]: ...

    @property
    def size(self) -> tuple[int, int]: ...


P = TypeVar("P", bound=Points)


@dataclass(frozen=True)
class LocalFeatures:
    """Points of one image and what they look like.

    ``points`` (N, 2) float32 are x and y in pixels of the image; ``descriptors`` (N, 128) uint8 are root-SIFT vectors
    times 512; ``size`` is the image's width and height.
    """

    points: npt.NDArray[np.float32]
    descriptors: npt.NDArray[np.uint8]
    size: tuple[int, int]


@dataclass(frozen=True)
class Verification:
    """``inliers``: matches that agree on one ``homography`` (3, 3), from query to candidate pixels (None if there is none)."""

    inliers: int
    homography: npt.NDArray[np.float64] | None


@dataclass(frozen=True)
class OrientedFeatures(LocalFeatures):
    """Points, strongest first, with ``shapes`` (N, 2) float32: their diameter in pixels of the image, and their orientation in
    degrees, clockwise from the right, in [0, 360)."""

    shapes: npt.NDArray[np.float32]


def local_features(image: npt.NDArray[np.uint8], max_points: int = 1000, longest_side: int = 640) -> OrientedFeatures:
    """The strongest SIFT points (Lowe, IJCV 2004) of an RGB image, uint8 (H, W, 3), with root-SIFT descriptors.

    Root-SIFT is the element-wise root of the L1-normalised descriptor (Arandjelovic and Zisserman, CVPR 2012). Points
    are sought with the longest side at ``longest_side`` pixels (at most 2,700; smaller images are enlarged, twofold at most), at
    most ``max_points`` (one with two orientations counts twice). A flat image has none. Raises UsageError for another kind of
    array, and for numbers that are none.
    """
    import cv2

    if not isinstance(image, np.ndarray):
        raise UsageError(f"local features need an RGB image, uint8 (H, W, 3), not {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise UsageError(f"local features need an RGB image, uint8 (H, W, 3), not {image.dtype} {image.shape}")
    max_points, longest_side = whole_number("max_points", max_points), whole_number("longest_side", longest_side)
    if longest_side > MOST_SIDE:
        raise UsageError(f"local features are sought at most at {MOST_SIDE} pixels, not at {longest_side}")
    height, width = image.shape[:2]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    factor = min(_MOST_ENLARGED, longest_side / max(height, width))
    if factor != 1:
        size = max(1, round(width * factor)), max(1, round(height * factor))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    found = sift(np.asarray(grey, np.uint8), max_points)
    shrink = np.array([grey.shape[1] / width, grey.shape[0] / height])
    points = (found.place + 0.5) / shrink - 0.5  # a pixel's centre has whole coordinates
    shapes = np.stack([2 * found.scale / shrink.mean(), found.angle], axis=1)
    root = np.sqrt(found.descriptors / np.maximum(found.descriptors.sum(axis=1, keepdims=True), 1e-6))
    descriptors = np.minimum(np.rint(root * _SCALE), 255).astype(np.uint8)
    return OrientedFeatures(points.astype(np.float32), descriptors, (width, height), shapes.astype(np.float32))


def pack(features: LocalFeatures) -> bytes:
    """All of the features as bytes: 16 for the header and 136 a point."""
    return packed(_MAGIC, features.points, features.descriptors, features.size)


def unpack(data: bytes) -> LocalFeatures:
    """The features that :func:`pack` made these bytes of. Raises UsageError for any other bytes."""
    return LocalFeatures(*unpacked(_MAGIC, data, 128, np.uint8, "local features"))


def match(
    query: LocalFeatures, candidates: Sequence[LocalFeatures], ratio: float = 0.8
) -> Iterator[npt.NDArray[np.int64]]:
    """For each candidate, pairs (M, 2) int64 of indices of a query's and a candidate's point that look alike.

    A point is matched to its nearest one if that is nearer than ``ratio`` times the second nearest (Lowe 2004); of
    several query points with one nearest, only the closest is kept. Cost: one product of the descriptors.
    """
    # Descriptors are whole numbers of length about 512, so float32 products and sums are exact, in any order. Minus half the
    # squared distance (but for the query's own length) is a.b - b.b / 2, a single product with one more column.
    a = query.descriptors.astype(np.float32)
    squares = np.einsum("nd,nd->n", a, a)
    a = np.concatenate([a, np.full((len(a), 1), -0.5, np.float32)], axis=1)
    # Candidates reuse one block of memory each for vectors and products: fresh memory would cost as much as the products.
    most = max((len(candidate.points) for candidate in candidates), default=0)
    vectors = np.empty((most, a.shape[1]), np.float32)
    products = np.empty(len(a) * most, np.float32)
    for candidate in candidates:
        b = vectors[: len(candidate.points)]
        b[:, :-1] = candidate.descriptors
        np.einsum("nd,nd->n", b[:, :-1], b[:, :-1], out=b[:, -1])
        yield _pairs(squares, np.matmul(a, b.T, out=products[: len(a) * len(b)].reshape(len(a), len(b))), ratio)


def _pairs(squares: npt.NDArray[np.float32], closeness: npt.NDArray[np.float32], ratio: float) -> npt.NDArray[np.int64]:
    if closeness.shape[0] == 0 or closeness.shape[1] < 2:
        return np.zeros((0, 2), np.int64)
    rows = np.arange(len(closeness))
    nearest = closeness.argmax(axis=1)
    first = squares - 2 * closeness[rows, nearest]
    closeness[rows, nearest] = -np.inf
    second = squares - 2 * closeness.max(axis=1)
    good = np.flatnonzero(first < ratio**2 * second)
    good = good[np.argsort(first[good], kind="stable")]
    _, best = np.unique(nearest[good], return_index=True)
    good = np.sort(good[best])
    return np.stack([good, nearest[good]], axis=1)


def verify(
    query: LocalFeatures, candidates: Sequence[LocalFeatures], ratio: float = 0.8, threshold: float = 4.0
) -> list[Verification]:
    """For each candidate, how many matches one homography explains: MAGSAC++ (Barath et al., CVPR 2020) after :func:`match`.

    ``threshold`` is the greatest error of an inlier, in pixels of the candidate with its longest side at 640 (or its own
    size, if smaller). A homography that mirrors the plane or changes areas more than a hundredfold at any inlier is no
    view of one thing and counts as none. Cost: about 2 ms of one processor core for 1,000 points in each; the candidates
    are shared among at most 8 cores.
    """
    return agreements(query, candidates, partial(match, ratio=ratio), threshold)


def agreements(
    query: P, candidates: Sequence[P], match: Callable[[P, Sequence[P]], Iterator[Pairs]], threshold: float = 4.0
) -> list[Verification]:
    """:func:`verify` for points of any kind, which ``match`` pairs."""
    from threadpoolctl import threadpool_limits

    workers = max(1, min(_WORKERS, os.cpu_count() or 1, len(candidates)))
    results = [Verification(0, None)] * len(candidates)

    def work(first: int) -> None:
        share = candidates[first::workers]
        pairs = match(query, share)
        results[first::workers] = [_fit(query, c, p, threshold) for c, p in zip(share, pairs, strict=True)]

    # A core works on candidates of its own: products this small lose their time where cores share one.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers, thread_name_prefix="verify") as pool:
        list(pool.map(work, range(workers)))
    return results


def similarity(query: LocalFeatures, candidate: LocalFeatures, ratio: float = 0.8) -> Verification:
    """How many matches one shift, turn and scale explains (RANSAC: Fischler and Bolles, CACM 1981), after :func:`match`.

    Two pairs of points determine it, so a dozen of them place a picture well, of which a homography makes whatever their noise
    says. It is no evidence by itself: unrelated pictures reach three now and then. Its results repeat exactly.
    """
    import cv2

    nothing = Verification(0, None)
    (pairs,) = match(query, [candidate], ratio)
    if len(pairs) < _MINIMAL:
        return nothing
    source, target = query.points[pairs[:, 0]], candidate.points[pairs[:, 1]]
    pixels = max(2.0, 0.01 * max(candidate.size))
    found, mask = cv2.estimateAffinePartial2D(source, target, None, cv2.RANSAC, pixels, 2000, 0.999)
    if found is None or int(mask.sum()) < _MINIMAL:
        return nothing
    return Verification(int(mask.sum()), np.vstack([np.asarray(found, np.float64), [0.0, 0.0, 1.0]]))


def _fit(query: Points, candidate: Points, pairs: Pairs, threshold: float) -> Verification:
    import cv2

    nothing = Verification(0, None)
    if len(pairs) < _MINIMAL:
        return nothing
    source, target = query.points[pairs[:, 0]], candidate.points[pairs[:, 1]]
    pixels = threshold * max(1.0, max(candidate.size) / 640)
    try:
        found, mask = cv2.findHomography(source, target, cv2.USAC_MAGSAC, pixels, None, 2000, 0.999)
    except cv2.error:  # degenerate matches
        return nothing
    if found is None:
        return nothing
    homography, inside = np.asarray(found, np.float64), source[mask.ravel() > 0]
    if len(inside) < _MINIMAL or not _is_view(homography, inside):
        return nothing
    return Verification(len(inside), homography)


def _is_view(homography: npt.NDArray[np.float64], points: npt.NDArray[np.float32]) -> bool:
    depth = points @ homography[2, :2] + homography[2, 2]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        area = np.linalg.det(homography) / depth**3  # the homography's Jacobian determinant
    return bool(np.all((area > 1 / _AREA_CHANGE) & (area < _AREA_CHANGE)))


def rerank(inliers: npt.NDArray[np.integer[Any]], minimum: int = 10) -> npt.NDArray[np.int64]:
    """The new order of a query's first answers: verified ones first, by inliers; all others after them, as they were.

    ``inliers`` (K,) belong to the answers, best first. An answer is verified by ``minimum`` inliers or more: unrelated
    pictures reach a few by chance, which must not move anything. Returns positions (K,) int64: the new ranking is
    ``ids[positions]``, its scores ``scores[positions]``. Equal counts keep their order.
    """
    inliers = np.asarray(inliers)
    if inliers.ndim != 1:
        raise UsageError(f"inliers are one number for each answer, not of shape {inliers.shape}")
    return np.argsort(-np.where(inliers >= minimum, inliers, 0).astype(np.int64), kind="stable")

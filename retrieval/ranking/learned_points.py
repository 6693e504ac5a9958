"""Points chosen of what a network of local features says of a picture, and matches between such points. Arrays alone.

The maps are those of XFeat (Potje et al., CVPR 2024), see :class:`retrieval.models.xfeat.XFeat`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.ranking.packing import packed, unpacked

Floats = npt.NDArray[np.float32]

WIDTH = 64  # of a descriptor
CLOSE = 0.82  # least cosine of two points that are matched, as in the authors' demonstration
_LIKELY = 0.05  # least likelihood of a point (section 3.3)
_WINDOW = 5  # pixels a side, in which a point is the likeliest
_CELL = 8
_CUBIC = -0.75  # the parameter of the kernel (Keys, 1981), as in torch
_SCALE = 127
_MAGIC = b"xFt1"


@dataclass(frozen=True)
class LearnedFeatures:
    """Points of one image and what they look like, strongest first.

    ``points`` (N, 2) float32 are x and y in pixels of the image; ``descriptors`` (N, 64) int8 are unit vectors times 127;
    ``size`` is the image's width and height.
    """

    points: Floats
    descriptors: npt.NDArray[np.int8]
    size: tuple[int, int]


def chosen_points(descriptors: Floats, maps: Floats, count: int, size: tuple[int, int]) -> LearnedFeatures:
    """At most ``count`` points of an image of this ``size`` (width, height), of which a network saw H x W pixels.

    ``descriptors`` (H / 8, W / 8, 64), ``maps`` (2, H, W): likelihood and reliability. A point is likelier than 0.05 and than
    all pixels around it; by the product of both maps the best are taken (equal ones from top left on). Descriptors are
    interpolated bicubically.
    """
    import cv2

    likelihood, reliability = maps
    around = cv2.dilate(likelihood, np.ones((_WINDOW, _WINDOW), np.uint8))
    places = np.flatnonzero((likelihood == around) & (likelihood > _LIKELY))
    scores = likelihood.ravel()[places] * reliability.ravel()[places]
    places = places[np.argsort(-scores, kind="stable")[:count]]
    height, width = likelihood.shape
    seen = np.stack([places % width, places // width], axis=1) + 0.5  # a pixel's middle
    found = interpolated(descriptors, seen / _CELL - 0.5)
    found /= np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    points = seen * (np.array(size) / (width, height)) - 0.5
    return LearnedFeatures(points.astype(np.float32), np.rint(found * _SCALE).astype(np.int8), size)


def interpolated(grid: Floats, places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values (N, D) of a ``grid`` (H, W, D) at ``places`` (N, 2), x and y in cells; beyond its border there is zero. Cubic
    convolution (Keys, 1981) in both directions."""
    height, width = grid.shape[:2]
    base = np.floor(places).astype(np.int64)
    out = np.zeros((len(places), grid.shape[2]))
    across, down = (_weights(places[:, i] - base[:, i]) for i in (0, 1))
    for j in range(4):
        for i in range(4):
            x, y = base[:, 0] + i - 1, base[:, 1] + j - 1
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            weight = np.where(inside, across[i] * down[j], 0.0)
            out += weight[:, None] * grid[y.clip(0, height - 1), x.clip(0, width - 1)]
    return out


def _weights(part: npt.NDArray[np.float64]) -> list[npt.NDArray[np.float64]]:
    """Of the four neighbours, where ``part`` of a cell lies between the second and the third."""
    a = _CUBIC

    def near(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return ((a + 2) * x - (a + 3)) * x * x + 1

    def far(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a

    return [far(part + 1), near(part), near(1 - part), far(2 - part)]


def match(
    query: LearnedFeatures, candidates: Sequence[LearnedFeatures], least: float = CLOSE
) -> Iterator[npt.NDArray[np.int64]]:
    """For each candidate, pairs (M, 2) int64 of indices of a query's and a candidate's point of which each is the other's
    nearest, with a cosine of ``least`` or more."""
    a = query.descriptors.astype(np.float32)
    for candidate in candidates:
        closeness = a @ candidate.descriptors.astype(np.float32).T  # sums of whole numbers: exact
        if not closeness.size:
            yield np.zeros((0, 2), np.int64)
            continue
        there, back = closeness.argmax(axis=1), closeness.argmax(axis=0)
        rows = np.arange(len(a))
        good = rows[(back[there] == rows) & (closeness[rows, there] >= least * _SCALE**2)]
        yield np.stack([good, there[good]], axis=1)


def pack(features: LearnedFeatures) -> bytes:
    """All of the features as bytes: 16 for the header and 72 a point."""
    return packed(_MAGIC, features.points, features.descriptors, features.size)


def unpack(data: bytes) -> LearnedFeatures:
    """The features that :func:`pack` made these bytes of. Raises UsageError for any other bytes."""
    return LearnedFeatures(*unpacked(_MAGIC, data, WIDTH, np.int8, "learned features"))

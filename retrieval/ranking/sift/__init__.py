"""SIFT (Lowe, "Distinctive image features from scale-invariant keypoints", IJCV 2004): points that are found again, and what
they look like.

Written out for all points at a time, over OpenCV's filters. It differs from OpenCV's SIFT, which takes longer, in three respects:
the image is not doubled first; points count from half the contrast on; gradients are taken on a grid that turns with the point
and grows with its scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.ranking.sift.descriptors import BINS, CELLS, Spots, describe, orient
from retrieval.ranking.sift.extrema import find_extrema
from retrieval.ranking.sift.scale_space import build_scale_space

DIM = CELLS * CELLS * BINS
MOST_SIDE = 2700  # pixels: OpenCV counts the rows of all images of a scale space in 15 bits


@dataclass(frozen=True)
class Points:
    """N points, strongest first: ``place`` float32 (N, 2) x and y in pixels, whole numbers at a pixel's centre; ``scale`` float32
    (N,) in pixels; ``angle`` float32 (N,) in degrees clockwise from the right, in [0, 360); ``descriptors`` float32 (N, 128),
    of length 1."""

    place: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    angle: npt.NDArray[np.float32]
    descriptors: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.place)


def sift(grey: npt.NDArray[np.uint8], most: int) -> Points:
    """The ``most`` strongest points of an image, uint8 (H, W); one with two directions counts twice."""
    space = build_scale_space(grey)
    found = find_extrema(space, most)
    if not len(found):
        nothing = np.zeros(0, np.float32)
        return Points(np.zeros((0, 2), np.float32), nothing, nothing, np.zeros((0, DIM), np.float32))
    table = np.array([[o.row, o.height, o.width, o.pixel] for o in space.octaves])[found.octave]
    begin, height, width, pixel = table.T
    spots = Spots(found.x, found.y, found.scale, begin + found.step * height, height, width)
    looks = space.looks()
    point, angle = orient(looks, spots)
    point, angle = point[:most], angle[:most]
    spots, pixel = spots[point], pixel[point].astype(np.float32)
    descriptors = describe(looks, spots, angle)
    place = np.stack([spots.x, spots.y], axis=1) * pixel[:, None]
    degrees = np.degrees(angle) % 360
    degrees[degrees == 360] = 0  # of a tiny negative number
    return Points(place, spots.scale * pixel, degrees, descriptors)

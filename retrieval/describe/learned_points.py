"""Learned local features of pictures, as spatial verification takes them: XFeat's points, found, kept and compared."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from retrieval.engines.base import PointsEngine
from retrieval.engines.points import points_engine
from retrieval.ranking import learned_points
from retrieval.ranking.geometry import Verification, agreements
from retrieval.ranking.learned_points import LearnedFeatures, chosen_points, match

POINTS, SIDE = 1024, 640
_MULTIPLE = 32  # of the network's sides


class LearnedPoints:
    """A kind of points, see :class:`retrieval.gallery.local_features.PointKind`. The network is loaded when the first picture
    comes."""

    name = f"xfeat{POINTS}-{SIDE}"
    pack = staticmethod(learned_points.pack)
    unpack = staticmethod(learned_points.unpack)

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._engine: PointsEngine | None = None

    def find(self, image: npt.NDArray[np.uint8], whole: int | None = None) -> LearnedFeatures:
        """At most 1,024 points of an RGB image, uint8 (H, W, 3), seen with its longest side at 640 pixels, continued
        to multiples of 32. A part of a picture whose longest side has ``whole`` pixels is seen at the size that it
        has there, for these points are known at about one size. Raises ModelError where the weights are not installed, or
        damaged."""
        import cv2

        with self._turn:
            engine = self._engine = self._engine or points_engine()
        height, width = image.shape[:2]
        factor = SIDE / (whole or max(height, width))
        tall, wide = (max(1, round(side * factor)) for side in (height, width))
        way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        seen = image if factor == 1 else cv2.resize(image, (wide, tall), interpolation=way)
        below, beside = (-side % _MULTIPLE for side in (tall, wide))
        descriptors, maps = engine(cv2.copyMakeBorder(seen, 0, below, 0, beside, cv2.BORDER_REPLICATE))
        return chosen_points(descriptors, maps[:, :tall, :wide], POINTS, (width, height))

    def verify(self, query: LearnedFeatures, candidates: Sequence[LearnedFeatures]) -> list[Verification]:
        """For each candidate, how many matches one homography explains."""
        return agreements(query, candidates, match)

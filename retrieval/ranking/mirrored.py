"""Local features of the mirror image, without looking at the picture again: SIFT knows a picture turned, not mirrored."""

from __future__ import annotations

import numpy as np

from retrieval.ranking.geometry import LocalFeatures
from retrieval.ranking.sift.descriptors import BINS, CELLS


def _places() -> np.ndarray:
    """Where each of the 128 values comes from. A descriptor is (row, column, direction) in the frame of its own orientation,
    columns along it; in a mirror the rows change sides and directions turn the other way round."""
    row, column, direction = np.meshgrid(np.arange(CELLS), np.arange(CELLS), np.arange(BINS), indexing="ij")
    source = ((CELLS - 1 - row) * CELLS + column) * BINS + -direction % BINS
    return np.asarray(source.ravel())


_PLACES = _places()


def mirrored(features: LocalFeatures) -> LocalFeatures:
    """What :func:`retrieval.ranking.geometry.local_features` finds, nearly, in the picture with left and right exchanged."""
    points = features.points.copy()
    points[:, 0] = features.size[0] - 1 - points[:, 0]
    return LocalFeatures(points, np.ascontiguousarray(features.descriptors[:, _PLACES]), features.size)

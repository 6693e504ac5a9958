"""From pictures to codes of their local features: pictures as the network gets them, or decoded again where that is too small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.describe.model import Model
from retrieval.models.spec import ModelSpec
from retrieval.ranking.asmk import Codebook, LocalCodes
from retrieval.ranking.geometry import local_features
from retrieval.system.products import products_on_one_core

POINTS, SIDE = 400, 640  # of a picture, enlarged if need be; `retrieve benchmark local` measures others
LEAST_SIDE = 360  # of what is enlarged


def large_enough(
    array: npt.NDArray[np.uint8], spec: ModelSpec, source: Any, bbox: Sequence[float] | None = None
) -> npt.NDArray[np.uint8]:
    """``array``, uint8 (H, W, 3), is ``source`` (path, bytes, array or PIL image), or its box, by the image rule of ``spec``; it
    comes back, or the same picture at the size that local features need. Raises ImageError."""
    if (spec.image.size or LEAST_SIDE) >= LEAST_SIDE:
        return array
    result: npt.NDArray[np.uint8] = Model(spec.with_image(size=LEAST_SIDE)).load(source, bbox)
    return result


def local_codes(image: npt.NDArray[np.uint8], codebook: Codebook, *, query: bool = False) -> LocalCodes:
    """The codes of an RGB picture, uint8 (H, W, 3); of a query, with three words a point."""
    with products_on_one_core():
        return codebook.aggregate(local_features(image, POINTS, SIDE), query=query)

"""Pictures for local features: as the network gets them, or decoded again where that is too small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.describe.model import Model
from retrieval.gallery.local.index import LEAST_SIDE
from retrieval.models.spec import ModelSpec


def large_enough(
    array: npt.NDArray[np.uint8], spec: ModelSpec, source: Any, bbox: Sequence[float] | None = None
) -> npt.NDArray[np.uint8]:
    """``array``, uint8 (H, W, 3), is ``source`` (path, bytes, array or PIL image), or its box, by the image rule of ``spec``; it
    comes back, or the same picture at the size that local features need. Raises ImageError."""
    if (spec.image.size or LEAST_SIDE) >= LEAST_SIDE:
        return array
    result: npt.NDArray[np.uint8] = Model(spec.with_image(size=LEAST_SIDE)).load(source, bbox)
    return result

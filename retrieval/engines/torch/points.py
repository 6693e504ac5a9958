"""XFeat in torch."""

from __future__ import annotations

import numpy as np
import torch

from retrieval.engines.base import Maps
from retrieval.models.xfeat import published_xfeat


class TorchPoints:
    """See :class:`retrieval.engines.points.PointsEngine`."""

    def __init__(self) -> None:
        self._network = published_xfeat()

    def __call__(self, picture: np.ndarray) -> Maps:
        with torch.inference_mode():
            descriptors, maps = self._network(torch.from_numpy(np.ascontiguousarray(picture))[None])
        return descriptors[0].numpy(), maps[0].numpy()

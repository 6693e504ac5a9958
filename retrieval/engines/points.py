"""Which engine finds learned points on this machine: XFeat in OpenVINO where that runs, else in torch."""

from __future__ import annotations

from retrieval.engines.base import PointsEngine
from retrieval.engines.openvino.available import unsupported


def points_engine() -> PointsEngine:
    """Raises ModelError where the weights are not installed, or damaged."""
    if unsupported() is None:
        from retrieval.engines.openvino.points import OpenvinoPoints

        return OpenvinoPoints()
    from retrieval.engines.torch.points import TorchPoints

    return TorchPoints()

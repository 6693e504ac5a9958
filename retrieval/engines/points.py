"""Which engine finds learned points on this machine: XFeat in OpenVINO where that runs, else in torch."""

from __future__ import annotations

from retrieval.engines.base import PointsEngine
from retrieval.engines.openvino.available import unsupported
from retrieval.messages import Say, say_nothing


def points_engine(say: Say = say_nothing) -> PointsEngine:
    """``say`` gets one-line messages. Raises ModelError where the weights are not installed, or damaged."""
    if unsupported() is None:
        from retrieval.engines.openvino.points import OpenvinoPoints

        return OpenvinoPoints(say)
    from retrieval.engines.torch.points import TorchPoints

    return TorchPoints()

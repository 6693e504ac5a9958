"""Which engine finds learned points on this machine: XFeat in OpenVINO where that runs, else in torch."""

from __future__ import annotations

from retrieval.engines.base import PointsEngine
from retrieval.engines.forks import note_at_work, require_own_threads
from retrieval.engines.openvino.available import unsupported


def points_engine() -> PointsEngine:
    """Raises ModelError where the weights are not installed, or damaged, or the process was forked from one with a network."""
    require_own_threads()
    made: PointsEngine
    if unsupported() is None:
        from retrieval.engines.openvino.points import OpenvinoPoints

        made = OpenvinoPoints()
    else:
        from retrieval.engines.torch.points import TorchPoints

        made = TorchPoints()
    note_at_work()
    return made

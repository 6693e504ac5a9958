"""XFeat as a graph compiled for this processor, kept in the user's cache like every compiled model. Imports torch once."""

from __future__ import annotations

import numpy as np

from retrieval.engines.base import Maps
from retrieval.engines.openvino import cache
from retrieval.engines.openvino.engine import usable_cores
from retrieval.engines.openvino.prepared import kept_compiled, library_versions, processor_key
from retrieval.engines.openvino.runtime import openvino
from retrieval.messages import say_nothing
from retrieval.models.registry import XFEAT
from retrieval.models.weights import checked_digest, weights_file
from retrieval.system.signal_stack import signal_stack_kept

_REVISION = "1"  # of what is made here


class OpenvinoPoints:
    """See :class:`retrieval.engines.points.PointsEngine`. Threads that call at the same time have a core each."""

    def __init__(self) -> None:
        self._model = _compiled()

    def __call__(self, picture: np.ndarray) -> Maps:
        request = self._model.create_infer_request()
        request.infer({0: np.ascontiguousarray(picture[None])}, share_inputs=True)
        descriptors, maps = (request.get_output_tensor(i).data[0].copy() for i in (0, 1))
        return descriptors, maps


@signal_stack_kept()
def _compiled() -> openvino.CompiledModel:
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": str(usable_cores())}
    checked_digest(XFEAT, weights_file(XFEAT))
    key = cache.key_of("points", _REVISION, XFEAT.sha256, *library_versions(), processor_key(core))
    return kept_compiled(core, key, settings, _made, say_nothing, None)


def _made() -> openvino.Model:
    from retrieval.engines.openvino.export import traced
    from retrieval.models.xfeat import published_xfeat

    return traced(published_xfeat())

"""A converted graph, compiled once: for comparing it with torch without the conversion's own comparison.

That one compiles the graph as well, which takes most of a conversion's time. What uses this compares with pictures of
:data:`CHECKED` among its own.
"""

from __future__ import annotations

from typing import Any

import pytest

from retrieval.engines.openvino import export
from retrieval.models.network import Describer

CHECKED = export._CHECKED


def compiled_graph(describer: Describer) -> Any:
    """Called with a picture, uint8 (1, H, W, 3), it gives a sequence with one descriptor, float32 (1, D)."""
    import openvino

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "difference", lambda model, describer: 0.0)
        graph = export.convert(describer)
    return openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

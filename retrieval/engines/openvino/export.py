"""From a torch network to an OpenVINO model: uint8 picture in, descriptor out, checked against torch before it is used.

Imports torch and openvino: only for the one time that a model is prepared.
"""

from __future__ import annotations

import math
import types
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrieval.engines.openvino.regions import trace_regions
from retrieval.engines.openvino.runtime import openvino, opset8
from retrieval.engines.torch.folding import fold_batchnorm
from retrieval.messages import first_line
from retrieval.models.network import Describer
from retrieval.pooling.base import check_map
from retrieval.pooling.spatial import GRID, GeM

_TRACED = (128, 160)
# Heights and widths of the pictures of the check: odd and even, lying and standing, none of the traced shape.
_CHECKED = ((96, 224), (225, 97), (131, 166))
_ALLOWED = 1e-7  # of 1 - cosine, in float64; a faithful conversion is a thousand times closer


class Unconvertible(Exception):
    """The network computes something that the conversion does not keep; the message says what."""


def convert(describer: Describer) -> openvino.Model:
    """The describer as an OpenVINO model: uint8 (1, H, W, 3), any H and W, -> float32 (1, D).

    Tracing follows the operations for one picture; what depends on its shape by a decision of Python's would come out
    wrong for other shapes. Poolings that decide so are written anew for the trace (:mod:`.regions`); and the model is
    compared with torch on pictures of other shapes. Raises Unconvertible.
    """
    describer = fold_batchnorm(describer)
    for module in describer.modules():
        if hasattr(
            module, "fused_attn"
        ):  # timm's attention: written out, it runs up to 7 % faster than as one operation
            module.fused_attn = False  # type: ignore[assignment]
    for module in describer.network.pooling.modules():
        simplify_gem(module)
        trace_regions(module)
    try:
        model = traced(describer)
        _use_same_padding(model)
        off = difference(model, describer)
    except Exception as error:  # torch's tracer and OpenVINO's converter raise many kinds
        raise Unconvertible(first_line(error)) from error
    if not off <= _ALLOWED:
        raise Unconvertible("its computation depends on the picture's shape")
    return model


def traced(network: torch.nn.Module) -> openvino.Model:
    """A network of one uint8 picture (1, H, W, 3), for any H and W that it takes; what Python decided by the shape is fixed."""
    # The front end itself, without the library's convert_model around it, which reports its use over the network.
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    example = torch.zeros(1, *_TRACED, 3, dtype=torch.uint8)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(network, example, check_trace=False)
        front_end: Any = FrontEndManager().load_by_framework("pytorch")
        decoder = TorchScriptPythonDecoder(script, example_input=example)  # must outlive the conversion
        model = front_end.convert(front_end.load(decoder))
    picture = model.inputs[0].get_node()
    picture.set_element_type(openvino.Type.u8)
    picture.set_partial_shape(openvino.PartialShape([1, -1, -1, 3]))
    model.validate_nodes_and_infer_types()
    return model


def difference(model: openvino.Model, describer: Describer) -> float:
    """The largest 1 - cosine between the two on a few pictures of noise at several scales."""
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    rng = np.random.default_rng(0)
    worst = 0.0
    for height, width in _CHECKED:
        coarse = np.kron(rng.integers(0, 256, (1, -(-height // 32), -(-width // 32), 3)), np.ones((1, 32, 32, 1)))
        fine = rng.integers(-60, 60, (1, height, width, 3))
        picture = np.clip(coarse[:, :height, :width] + fine, 0, 255).astype(np.uint8)
        with torch.inference_mode():
            wanted = describer(torch.from_numpy(picture)).double().numpy()[0]
        got = np.asarray(compiled(picture)[0], np.float64)[0]
        with np.errstate(invalid="ignore", divide="ignore"):
            cosine = got @ wanted / (np.linalg.norm(got) * np.linalg.norm(wanted))
        worst = max(worst, 1 - float(cosine)) if np.isfinite(cosine) else math.inf
    return worst


def simplify_gem(pooling: torch.nn.Module) -> None:
    """The same mean with one power of a constant exponent, for which OpenVINO has a fast kernel (it has none for log)."""
    if type(pooling) is not GeM or pooling.is_max:
        return
    p, eps = float(pooling.exponent(pooling.p).detach()), pooling.eps
    least = math.exp(-80 / p)  # as in retrieval.pooling.power.scaled_powers

    def forward(self: GeM, x: Tensor) -> Tensor:
        y = check_map(x).clamp(min=eps)
        scale = y.amax(GRID, keepdim=True)
        mean = (y / scale).clamp(min=least).pow(p).mean(GRID, keepdim=True)
        return (scale * mean.pow(1 / p)).squeeze(GRID)

    pooling.forward = types.MethodType(forward, pooling)  # type: ignore[method-assign]


def _use_same_padding(model: openvino.Model) -> None:
    """Padding that TensorFlow's rule "same" computes from the picture's size, as an attribute of the convolution.

    timm pads in an operation of its own, of which OpenVINO has only an unoptimised version.
    """
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind not in ("Convolution", "GroupConvolution"):
            continue
        pad = node.input_value(0).get_node()
        if pad.get_type_name() != "Pad" or pad.input_value(1).get_node().get_type_name() == "Constant":
            continue
        given = node.get_attributes()
        make = opset8.convolution if kind == "Convolution" else opset8.group_convolution
        new = make(
            pad.input_value(0),
            node.input_value(1),
            given["strides"],
            [0, 0],
            [0, 0],
            given["dilations"],
            auto_pad="same_upper",
        )
        new.set_friendly_name(node.get_friendly_name())
        openvino.utils.replace_node(node, new)
    model.validate_nodes_and_infer_types()

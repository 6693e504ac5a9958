"""Winograd filtering as nodes of an OpenVINO graph. See :mod:`retrieval.engines.winograd`. Imports no torch."""

from __future__ import annotations

import numpy as np

from retrieval.engines.openvino.runtime import openvino, opset8
from retrieval.engines.winograd import INPUT, LEAST_CHANNELS, OUTPUT, TILE, WINDOW, transformed
from retrieval.models.registry import BACKBONES
from retrieval.models.spec import ModelSpec

# Longest side in pixels. A graph cannot choose by the map: with smaller pictures it would be slower than direct.
_LEAST_SIZE = 448
_ONE = [1, 1]


def suits(spec: ModelSpec) -> bool:
    """Whether the model has such convolutions and describes pictures large enough for them."""
    size = spec.image.size
    known = BACKBONES.get(spec.backbone)
    return known is not None and known.family == "resnet" and (size is None or size >= _LEAST_SIZE)


def use_winograd(model: openvino.Model) -> int:
    """Replaces, in place, the wide 3 x 3 convolutions that move one pixel a step, for one picture at a time; how many."""
    found = [node for node in model.get_ordered_ops() if _replaceable(node)]
    made: dict[str, openvino.Node] = {}  # scales share their kernels
    for node in found:
        kernels = node.input_value(1).get_node()
        if (name := kernels.get_name()) not in made:
            made[name] = openvino.op.Constant(transformed(kernels.get_data()))  # opset8.constant makes a list of it
        new = _filtered(node.input_value(0), made[name])
        new.set_friendly_name(node.get_friendly_name())
        openvino.utils.replace_node(node, new)
    model.validate_nodes_and_infer_types()
    return len(found)


def _replaceable(node: openvino.Node) -> bool:
    if node.get_type_name() != "Convolution" or node.input_value(1).get_node().get_type_name() != "Constant":
        return False
    given, kernels = node.get_attributes(), node.input_value(1).get_shape()
    same = [given[name] for name in ("strides", "dilations", "pads_begin", "pads_end")] == [_ONE] * 4
    return same and given["auto_pad"] == "explicit" and list(kernels)[2:] == [3, 3] and kernels[1] >= LEAST_CHANNELS


def _filtered(maps: openvino.Output, weights: openvino.Node) -> openvino.Node:
    """(1, C, H, W) -> (1, C_out, H, W)."""
    positions, out, channels = weights.get_output_shape(0)
    windows = opset8.extract_image_patches(maps, [WINDOW, WINDOW], [TILE, TILE], _ONE, "same_upper")
    grid = opset8.gather(opset8.shape_of(windows), _ints(2, 3), _ints(0))
    # A window's places come before the channels in (1, 36 C, down, across).
    places = opset8.reshape(windows, _ints(positions, -1), False)
    spread = opset8.reshape(opset8.matmul(INPUT, places, False, False), _ints(positions, channels, -1), False)
    sums = opset8.reshape(opset8.matmul(weights, spread, False, False), _ints(positions, -1), False)
    tiles = opset8.matmul(OUTPUT, sums, False, False)
    deep = opset8.reshape(tiles, opset8.concat([_ints(1, TILE * TILE * out), grid], 0), False)
    whole = opset8.depth_to_space(deep, "blocks_first", TILE)
    # The windows' rule pads (windows' extent - height) // 2 before the first row: two where one or two rows are over.
    sides = opset8.gather(opset8.shape_of(maps), _ints(2, 3), _ints(0))
    over = opset8.floor_mod(sides, _ints(TILE, TILE))
    first = opset8.convert(opset8.logical_or(opset8.equal(over, _ints(1, 1)), opset8.equal(over, _ints(2, 2))), "i64")
    return opset8.slice(whole, first, opset8.add(first, sides), _ints(*_ONE), _ints(2, 3))


def _ints(*values: int) -> openvino.Node:
    return opset8.constant(np.array(values, np.int64))

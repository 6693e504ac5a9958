"""What follows the backbone stays in float32 when the library is asked for bfloat16.

It computes in bfloat16 up to the last product of matrices or convolution, and in float32 after it. That last one is the
backbone's, unless the descriptor is whitened: so whitening's product is written as a sum of products of elements.
"""

from __future__ import annotations

import numpy as np

from retrieval.engines.openvino.runtime import openvino, opset8

BACKBONE = ".network.backbone"  # in the names of its operations


def keep_float32_after_backbone(model: openvino.Model) -> None:
    """Write each product of one row (1, C) with a constant matrix outside the backbone as multiplication and sum."""
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MatMul" or BACKBONE in node.get_friendly_name():
            continue
        row, matrix = node.input_value(0), node.input_value(1)
        given = node.get_attributes()
        if given["transpose_a"] or row.get_partial_shape().rank.get_length() != 2:
            continue
        if not given["transpose_b"]:
            matrix = opset8.transpose(matrix, np.array([1, 0])).output(0)
        product = opset8.multiply(row, matrix)  # (1, C) times (D, C)
        summed = opset8.unsqueeze(opset8.reduce_sum(product, np.array([1]), keep_dims=False), np.array([0]))
        openvino.utils.replace_node(node, summed)
    model.validate_nodes_and_infer_types()

"""How fast this processor could describe pictures: its rate of multiplications, and how many a picture takes."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from retrieval.models.loading import empty_network
from retrieval.models.spec import ModelSpec

_SIDE = 2048
_TIMES = 5


def matrix_rate() -> float:
    """Float32 multiplications (each with its addition) a second, of a product of large square matrices: the best of a few."""
    a, b = (torch.rand(_SIDE, _SIDE, generator=torch.Generator().manual_seed(i)) for i in range(2))
    best = float("inf")
    for _ in range(_TIMES):
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return _SIDE**3 / best


def multiplications(spec: ModelSpec, pictures: Sequence[np.ndarray]) -> float:
    """Of the network's convolutions and linear layers for one of these pictures, uint8 (H, W, 3), on average.

    A convolution takes (kernel height x kernel width x channels in / groups) for each of its outputs, a linear layer as many
    as it has inputs for each of its outputs. At one scale; the products of attention do not count.
    """
    network = empty_network(spec).to("meta").eval()
    total = 0

    def note(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += out.numel() * layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
        elif isinstance(layer, nn.Linear):
            total += out.numel() * layer.in_features

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(note)
    with torch.no_grad():
        for picture in pictures:
            network(torch.empty(1, 3, *picture.shape[:2], device="meta"))
    return total / len(pictures)

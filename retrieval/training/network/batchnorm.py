"""Statistics of batch normalisation: frozen while training, measured where a network starts from random weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from retrieval.models.network import Describer
from retrieval.training.data.pictures import by_shape
from retrieval.training.network.modes import evaluating

_GROUP = 16


def normalisations(network: nn.Module) -> list[_BatchNorm]:
    """The layers that normalise by running statistics."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def freeze_statistics(network: nn.Module) -> None:
    """Training mode, but with batch normalisation by its running statistics, which stay as they are: pictures of a tuple go
    through one by one or in small groups, whose own statistics say nothing. Scale and shift are learned all the same."""
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


def estimate_statistics(describer: Describer, arrays: Sequence[np.ndarray], device: torch.device) -> None:
    """Set the running means and variances of all normalisations to the averages over ``arrays``, uint8 (H, W, 3).

    Fine-tuning keeps the statistics that came with the weights (Radenovic et al., TPAMI 2019). Random weights have none:
    with mean 0 and variance 1 instead, activations double from block to block, the more so the deeper the network. Of
    ResNet-101 the features then reach 57,000 and descriptors of different pictures lie 0.06 apart; with measured
    statistics 7 and 0.46 (ResNet-18: 0.19 and 0.46). So for these they are measured on training pictures, again and again,
    since the weights move a long way, and frozen in between: a step still normalises every picture in the same way, and the
    pictures of a tuple may go through one by one.

    Averages are over groups of pictures of one shape, weighted by the pictures in them; a group is normalised by its own
    statistics while it is measured, as a batch in training is.
    """
    layers = normalisations(describer)
    if not layers or not arrays:
        return
    kept = [layer.momentum for layer in layers]
    with evaluating(describer), torch.no_grad():
        for layer in layers:
            layer.reset_running_stats()
            layer.train()
        seen = 0
        for _, images in by_shape(arrays):
            for part in images.split(_GROUP):
                seen += len(part)
                for layer in layers:
                    layer.momentum = len(part) / seen
                describer(part.to(device))
    for layer, momentum in zip(layers, kept, strict=True):
        layer.momentum = momentum

"""An average of the weights over the steps: it jumps less from step to step than the weights themselves do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from retrieval.errors import UsageError


class WeightAverage:
    """An exponential moving average of what is learned: after each step, ``average += (1 - d) (weights - average)``.

    d is ``decay``, but (1 + t) / (10 + t) while that is smaller at step t, so that a short run is not held back by the
    start.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise UsageError(f"the decay of an average of weights lies between 0 and 1, not {decay}")
        self.decay = decay
        self.steps = 0
        self.weights = {n: p.detach().clone() for n, p in network.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, p in network.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(p, 1 - decay)

    @contextmanager
    def in_place_of(self, network: nn.Module) -> Iterator[None]:
        """Within this, the network has the averaged weights."""
        own = dict(network.named_parameters())
        kept = {name: own[name].data for name in self.weights}
        try:
            for name, value in self.weights.items():
                own[name].data = value
            yield
        finally:
            for name, value in kept.items():
                own[name].data = value

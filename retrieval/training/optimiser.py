"""What moves the weights: groups of parameters, learning rates over time, frozen statistics, an average of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from retrieval.errors import UsageError
from retrieval.models.network import RetrievalNetwork
from retrieval.pooling.power import PowerModule
from retrieval.training.config import TrainingConfig

_EPOCH_DECAY = 0.01  # exponential schedule: times exp(-0.01) an epoch


def exponents(network: nn.Module) -> list[Tensor]:
    """The exponents p of a network's power means, learned or not, in order."""
    return [module.p for module in network.modules() if isinstance(module, PowerModule)]


def create_optimiser(network: RetrievalNetwork, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser over all that is learned. Exponents have a group of their own, at ``p_lr`` times the rate and without
    weight decay, which would pull p towards 0 (Radenovic et al., TPAMI 2019); where every channel has its own p, each gets
    a small part of the gradient and ten times as much again. Each group's ``factor`` is its multiple of the learning rate.

    With ``fixed_p``, exponents are not learned: their ``requires_grad`` is switched off.
    """
    powers = [p for p in exponents(network) if isinstance(p, nn.Parameter)]
    if config.fixed_p:
        for p in powers:
            p.requires_grad_(False)
        powers = []
    apart = {id(p) for p in powers}
    network_group = [p for p in network.parameters() if p.requires_grad and id(p) not in apart]
    groups = [{"params": network_group, "factor": 1.0, "weight_decay": config.weight_decay}]
    for p in powers:
        groups.append({"params": [p], "factor": config.p_lr * (10 if p.numel() > 1 else 1), "weight_decay": 0.0})
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return (torch.optim.AdamW if config.optimiser == "adamw" else torch.optim.Adam)(groups, lr=config.lr)


def learning_rate(config: TrainingConfig, epoch: int, step: int, steps: int) -> float:
    """The rate at ``step`` of ``steps`` of ``epoch``, both counted from 0: a function of the place alone, so that nothing
    needs to be kept of it. Exponential falls by the epoch, cosine and warm-up go by the step."""
    done = epoch + step / max(1, steps)
    rate = config.lr
    if config.schedule == "exponential":
        rate *= math.exp(-_EPOCH_DECAY * epoch)
    elif config.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * done / config.epochs))
    if done < config.warmup:
        rate *= min(1.0, (done + 1 / max(1, steps)) / config.warmup)
    return rate


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]


def freeze_statistics(network: nn.Module) -> None:
    """Training mode, but with batch normalisation by its running statistics, which stay as they are: pictures of a tuple go
    through one by one or in small groups, whose own statistics say nothing. Scale and shift are learned all the same."""
    network.train()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.eval()


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

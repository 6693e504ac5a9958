"""What moves the weights: an optimiser over groups of parameters, of which the exponents of poolings are one of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from retrieval.errors import UsageError
from retrieval.models.network import RetrievalNetwork
from retrieval.pooling.power import PowerModule
from retrieval.training.config import TrainingConfig


def exponents(network: nn.Module) -> list[Tensor]:
    """The exponents p of a network's power means, learned or not, in order."""
    return [module.p for module in network.modules() if isinstance(module, PowerModule)]


def mean_exponent(network: nn.Module) -> float | None:
    """The mean of all exponents, None where there is none."""
    found = [p.detach().flatten().float().cpu() for p in exponents(network)]
    return float(torch.cat(found).mean()) if found else None


def create_optimiser(network: RetrievalNetwork, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser over all that is learned. Exponents have a group of their own, at ``p_lr`` times the rate and without
    weight decay, which would pull p towards 0 (Radenovic et al., TPAMI 2019); where every channel has its own p, each gets
    a small part of the gradient and ten times as much again. Each group's ``factor`` is its multiple of the learning rate.

    With ``fixed_p``, exponents are not learned, with ``freeze_backbone`` the backbone is not: their ``requires_grad`` is
    switched off. Raises UsageError where nothing is left to learn.
    """
    if config.freeze_backbone:
        network.backbone.requires_grad_(False)
    powers = [p for p in exponents(network) if isinstance(p, nn.Parameter)]
    if config.fixed_p:
        for p in powers:
            p.requires_grad_(False)
        powers = []
    apart = {id(p) for p in powers}
    network_group = [p for p in network.parameters() if p.requires_grad and id(p) not in apart]
    groups: list[dict[str, Any]] = []
    if network_group:
        groups.append({"params": network_group, "factor": 1.0, "weight_decay": config.weight_decay})
    for p in powers:
        groups.append({"params": [p], "factor": config.p_lr * (10 if p.numel() > 1 else 1), "weight_decay": 0.0})
    if not groups:
        raise UsageError(
            "nothing is left to learn", "Leave out --freeze-backbone, or --fixed-p, or add --whiten-layer DIM."
        )
    if config.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=config.lr, momentum=0.9)
    return (torch.optim.AdamW if config.optimiser == "adamw" else torch.optim.Adam)(groups, lr=config.lr)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group["factor"]

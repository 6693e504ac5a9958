"""A ResNet-18 with an eighth of the channels everywhere: the names of torchvision's, in files of a megabyte in place of 45."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from retrieval.models.registry import BACKBONES

DIM = 64
_wide = torchvision.models.resnet18


def resnet18(weights: None = None) -> nn.Module:
    """Random weights; its classifier has ten classes."""
    with torch.device("meta"):
        net: nn.Module = _wide(weights=weights)
    for name, wide in list(net.named_modules()):
        if isinstance(wide, nn.Conv2d):
            channels = (max(wide.in_channels // 8, 3), wide.out_channels // 8)
            narrow: nn.Module = nn.Conv2d(*channels, wide.kernel_size, wide.stride, wide.padding, bias=False)  # type: ignore[arg-type]
        elif isinstance(wide, nn.BatchNorm2d):
            narrow = nn.BatchNorm2d(wide.num_features // 8)
        elif isinstance(wide, nn.Linear):
            narrow = nn.Linear(wide.in_features // 8, 10)
        else:
            continue
        net.set_submodule(name, narrow)
    return net


def use_narrow(monkeypatch: pytest.MonkeyPatch, **weights: Any) -> None:
    """``resnet18`` is the narrow one wherever it is built; ``weights``: what else is said of its published ones."""
    monkeypatch.setattr(torchvision.models, "resnet18", resnet18)
    known = BACKBONES["resnet18"]
    monkeypatch.setitem(BACKBONES, "resnet18", replace(known, dim=DIM, weights=replace(known.weights, **weights)))

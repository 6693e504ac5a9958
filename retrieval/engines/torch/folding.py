"""Batch normalisation folded into the convolution before it: the same function with fewer passes over the maps."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

M = TypeVar("M", bound=nn.Module)


def fold_batchnorm(module: M) -> M:
    """A copy of ``module``, for inference, in which each BatchNorm2d that directly follows a convolution is part of it.

    With running mean m, variance v, weight g and bias b of the normalisation, and weights W and bias c of the
    convolution: W' = W g / sqrt(v + eps), c' = (c - m) g / sqrt(v + eps) + b. The convolution keeps its own kind (its
    padding rule, say); what remains of the normalisation (its activation, where it has one) stays in its place. A
    normalisation follows a convolution when it is the next child of the same parent and has as many channels as that
    puts out, which holds for the backbones of :mod:`retrieval.models.backbones` (and is checked by their tests).
    ``module`` itself is left as it is, for training.
    """
    folded = copy.deepcopy(module).eval()
    _fold_children(folded)
    return folded


def _fold_children(parent: nn.Module) -> None:
    before: nn.Conv2d | None = None
    for name, child in list(parent.named_children()):
        if isinstance(child, nn.BatchNorm2d) and before is not None and _follows(before, child):
            _into(before, child)
            setattr(parent, name, _what_remains(child))
        else:
            _fold_children(child)
        before = child if isinstance(child, nn.Conv2d) else None


def _follows(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    return convolution.out_channels == norm.num_features and norm.running_mean is not None


def _into(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    convolution.weight, convolution.bias = weight, bias


def _what_remains(norm: nn.BatchNorm2d) -> nn.Module:
    """timm's normalisation layers drop out and activate as well."""
    parts = [part for name in ("drop", "act") if isinstance(part := getattr(norm, name, None), nn.Module)]
    kept = [part for part in parts if not isinstance(part, nn.Identity)]
    return nn.Sequential(*kept) if kept else nn.Identity()

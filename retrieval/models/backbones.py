"""Backbones: normalised images in, a feature map or a token sequence out. Weights are given, never fetched here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.errors import ModelError
from retrieval.models.zoo import BACKBONES, BackboneInfo


class Backbone(nn.Module):
    """``forward``: float (B, 3, H, W), normalised -> (B, dim, H / stride, W / stride), after the last ReLU.

    ``published`` maps published weights onto this module's own names.
    """

    info: BackboneInfo

    def published(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError

    def load_published(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights as their authors publish them. Raises ModelError when they are for another network."""
        try:
            self.load_state_dict(self.published(weights))
        except (RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"these weights do not fit {self.info.name}: {reason}") from error


class ResNet(Backbone):
    """torchvision's ResNet without its average pooling and classifier (He et al. 2016)."""

    def __init__(self, info: BackboneInfo) -> None:
        super().__init__()
        import torchvision

        whole = getattr(torchvision.models, info.name)(weights=None)
        self.info = info
        self.body = nn.Sequential()
        for name, child in whole.named_children():
            if name not in ("avgpool", "fc"):
                self.body.add_module(name, child)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(images)

    def published(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"body.{name}": value for name, value in weights.items() if not name.startswith("fc.")}


class EfficientNetLite(Backbone):
    """timm's ``tf_efficientnet_lite0`` up to its last activation (ReLU6, so the map is non-negative and GeM applies)."""

    def __init__(self, info: BackboneInfo) -> None:
        super().__init__()
        import timm

        self.info = info
        self.body: Any = timm.create_model(f"tf_{info.name}", pretrained=False, num_classes=0, global_pool="")

    def forward(self, images: Tensor) -> Tensor:
        return self.body.forward_features(images)

    def published(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # The package's tensors map one to one, in order, onto timm's; the last two are the classifier's.
        own = self.body.state_dict()
        if len(weights) != len(own) + 2:
            raise KeyError(f"{len(weights)} tensors where {len(own) + 2} were expected")
        return {f"body.{name}": value for name, value in zip(own, weights.values(), strict=False)}


def create_backbone(name: str) -> Backbone:
    """A backbone with untrained weights (torch's current random state decides them)."""
    if name not in BACKBONES:
        raise ModelError(f"unknown backbone {name!r}", f"Known: {', '.join(BACKBONES)}.")
    info = BACKBONES[name]
    return ResNet(info) if name.startswith("resnet") else EfficientNetLite(info)


def read_published(path: str) -> dict[str, Tensor]:
    """Read a ``.pth`` of tensors. Nothing in the file is executed. Raises ModelError."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged files
        raise ModelError(f"cannot read the weights {path}: {str(error).splitlines()[0][:200]}") from error
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ModelError(f"{path} does not hold a plain state dict")
    return dict(loaded)

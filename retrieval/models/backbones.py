"""Backbones: normalised images in, a feature map or a token sequence out. Weights are given, never fetched here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retrieval.errors import ModelError
from retrieval.files.tensors import read_tensors
from retrieval.messages import first_line
from retrieval.models.registry import BACKBONES, BackboneInfo
from retrieval.pooling.base import tracing
from retrieval.pooling.reduced import run_reduced
from retrieval.pooling.schedules import TokenSchedule


class Backbone(nn.Module):
    """``forward``: float (B, 3, H, W), normalised. Layout "map": -> (B, dim, H / stride, W / stride), after the last
    ReLU. Layout "tokens": -> (B, prefix + patches, dim), after the final norm, patches row by row
    (with a ``schedule``: fewer tokens, each for several patches).

    ``published`` maps published weights onto this module's own names.
    """

    info: BackboneInfo
    schedule: TokenSchedule | None = None  # of Token Pooling, in backbones that give tokens

    def published(self, weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
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
        result: Tensor = self.body(images)
        return result

    def published(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"body.{name}": value for name, value in weights.items() if not name.startswith("fc.")}


class EfficientNetLite(Backbone):
    """timm's ``tf_efficientnet_lite0`` up to its last activation (ReLU6, so the map is non-negative and GeM applies)."""

    def __init__(self, info: BackboneInfo) -> None:
        super().__init__()
        import timm

        self.info = info
        self.body: Any = timm.create_model(info.library_name, pretrained=False, num_classes=0, global_pool="")

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.body.forward_features(images)
        return result

    def published(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # The package's tensors map one to one, in order, onto timm's; the last two are the classifier's.
        own = self.body.state_dict()
        ours = {n.removeprefix("backbone."): value for n, value in weights.items() if n.startswith("backbone.")}
        if ours:  # out of a checkpoint of this project
            return ours
        if len(weights) != len(own) + 2:
            raise KeyError(f"{len(weights)} tensors where {len(own) + 2} were expected")
        return {f"body.{name}": value for name, value in zip(own, weights.values(), strict=False)}


def fit_to_patches(images: Tensor, patch: int) -> Tensor:
    """Resize (bilinear) to the nearest whole number of patches a side: nothing is cut off, nothing padded."""
    height, width = images.shape[-2:]
    fitted = [_whole_patches(side, patch) * patch for side in (height, width)]
    # A trace serves pictures of every size; where nothing is to be resized, it computes the identity.
    if not tracing() and fitted == [height, width]:
        return images
    return F.interpolate(images, size=fitted, mode="bilinear", align_corners=False)


def _whole_patches(side: int, patch: int) -> int:
    """``max(1, round(side / patch))`` in whole numbers alone, so that a trace records it; halves go to the even number."""
    count, rest = (2 * side + patch) // (2 * patch), (2 * side + patch) % (2 * patch)
    count = count - (rest == 0) * (count % 2)
    return count + (count == 0) * 1


class TorchvisionViT(Backbone):
    """torchvision's ``vit_*`` (Dosovitskiy et al. 2021) for pictures of any size: the position embedding is
    interpolated (bicubic) to their grid of patches. At the trained size it is torchvision's own computation."""

    def __init__(self, info: BackboneInfo) -> None:
        super().__init__()
        import torchvision

        self.info = info
        self.body: Any = getattr(torchvision.models, info.library_name)(weights=None)
        self.body.heads = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        body, images = self.body, fit_to_patches(images, self.info.stride)
        patches = body.conv_proj(images)
        rows, columns = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([body.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        encoder = body.encoder
        tokens = encoder.dropout(tokens + resize_positions(encoder.pos_embedding, rows, columns))
        if self.schedule is None:
            tokens = encoder.layers(tokens)
        else:
            tokens = run_reduced(encoder.layers, tokens, self.schedule, self.info.prefix)
        result: Tensor = encoder.ln(tokens)
        return result

    def published(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {f"body.{name}": value for name, value in weights.items() if not name.startswith("heads.")}


def resize_positions(positions: Tensor, rows: int, columns: int) -> Tensor:
    """Position embedding (1, 1 + n * n, D), class token first, for a grid of ``rows`` x ``columns`` patches."""
    side = math.isqrt(int(positions.shape[1]) - 1)
    if not tracing() and (rows, columns) == (side, side):
        return positions
    grid = positions[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False, antialias=True)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class TimmViT(Backbone):
    """timm's ``deit_*`` and ``vit_*`` for pictures of any size (timm interpolates the position embedding)."""

    def __init__(self, info: BackboneInfo) -> None:
        super().__init__()
        import timm

        self.info = info
        self.body: Any = timm.create_model(
            info.library_name, pretrained=False, num_classes=0, global_pool="", dynamic_img_size=True
        )

    def forward(self, images: Tensor) -> Tensor:
        body, images = self.body, fit_to_patches(images, self.info.stride)
        if self.schedule is None:
            result: Tensor = body.forward_features(images)
        else:
            tokens = body.norm_pre(body.patch_drop(body._pos_embed(body.patch_embed(images))))
            result = body.norm(run_reduced(body.blocks, tokens, self.schedule, self.info.prefix))
        return result

    def published(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        from timm.models.vision_transformer import checkpoint_filter_fn

        kept = {name: value for name, value in weights.items() if not name.startswith("head")}
        return {f"body.{name}": value for name, value in checkpoint_filter_fn(kept, self.body).items()}


_FAMILIES: dict[str, type[Backbone]] = {
    "resnet": ResNet,
    "efficientnet_lite": EfficientNetLite,
    "torchvision_vit": TorchvisionViT,
    "timm_vit": TimmViT,
}


def create_backbone(name: str) -> Backbone:
    """A backbone with untrained weights (torch's current random state decides them)."""
    if name not in BACKBONES:
        raise ModelError(f"unknown backbone {name!r}", f"Known: {', '.join(BACKBONES)}.")
    info = BACKBONES[name]
    return _FAMILIES[info.family](info)


def read_published(path: str) -> dict[str, Tensor]:
    """Read a file of tensors, torch's or safetensors'. Nothing in the file is executed. Raises ModelError."""
    try:
        with open(path, "rb") as file:
            head = file.read(16)
        if head[8:9] == b"{" and not head.startswith(b"PK"):
            return read_tensors(Path(path))[1]
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, ModelError) as error:
        raise ModelError(f"cannot read the weights {path}: {first_line(error)}") from error
    except Exception as error:  # torch raises many kinds for damaged files, and advises to run what is in them
        raise ModelError(f"{path} is no readable file of weights ({type(error).__name__})") from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]  # as DeiT's authors wrap theirs
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ModelError(f"{path} does not hold a plain state dict")
    return dict(loaded)

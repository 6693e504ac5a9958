"""The network: backbone -> pooling -> L2 (-> whitening -> L2), and the describer that wraps it from uint8 to descriptor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retrieval.errors import UsageError
from retrieval.models.backbones import Backbone
from retrieval.models.inner_whitening import CELLS, REGIONS, WhitenedRegions
from retrieval.models.registry import BackboneInfo
from retrieval.models.spec import TOKENS, ImageRule
from retrieval.pooling.base import Pooling, full_precision, working_precision
from retrieval.pooling.power import MIN_P
from retrieval.pooling.registry import create_pooling, list_poolings, pooling_info


def l2_normalise(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / (|x| + eps) along the last dimension, as the field's reference code does; a zero vector stays zero."""
    result: Tensor = x / (x.norm(dim=-1, keepdim=True) + eps)
    return result


def make_pooling(pooling: Mapping[str, Any], info: BackboneInfo) -> Pooling:
    """The pooling a specification names, for this backbone. Raises UsageError when the two do not fit."""
    parameters = {key: value for key, value in pooling.items() if key not in ("name", CELLS, REGIONS, TOKENS)}
    known = pooling_info(pooling["name"])
    if known.kind != info.layout:
        gives = {"map": "feature maps", "tokens": "token sequences"}
        fitting = ", ".join(entry.name for entry in list_poolings(info.layout))
        raise UsageError(
            f"pooling {pooling['name']!r} is for {gives[known.kind]}, but {info.name} gives {gives[info.layout]}",
            f"With {info.name} go: {fitting}.",
        )
    if known.needs_dim:
        parameters["dim"] = info.dim
    if "prefix" in known.parameters:
        parameters.setdefault("prefix", info.prefix)
    made = create_pooling(pooling["name"], **parameters)
    for key in (CELLS, REGIONS):
        if pooling.get(key) and (info.layout != "map" or made.out_dim(info.dim) != info.dim):
            raise UsageError(f"{key} goes with poolings of feature maps that keep the number of channels")
    return WhitenedRegions(made, info.dim, pooling[REGIONS]) if pooling.get(REGIONS) else made


class RetrievalNetwork(nn.Module):
    """``forward``: float (B, 3, H, W), normalised -> float32 (B, D), unit length.

    ``fc`` is a whitening layer learned with the network (applied at each scale); ``whitening`` is post-processing
    (learned Lw or PCA), applied to the aggregated descriptor by :class:`Describer`. ``cells`` whitens every cell of the
    feature map before pooling. ``normalised``: whether the pooled vector gets unit length before ``fc``.
    """

    def __init__(
        self,
        backbone: Backbone,
        pooling: nn.Module,
        fc: nn.Linear | None = None,
        whitening: nn.Linear | None = None,
        *,
        cells: nn.Module | None = None,
        normalised: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.cells = cells
        self.pooling = pooling
        self.fc = fc
        self.whitening = whitening
        self.normalised = normalised

    def features(self, images: Tensor) -> Tensor:
        """What is pooled: the backbone's map or tokens, the map's cells whitened where the network does that."""
        features: Tensor = self.backbone(images)
        if self.cells is None:
            return features
        with full_precision(features):
            result: Tensor = self.cells(working_precision(features))
        return result

    def forward(self, images: Tensor) -> Tensor:
        features = self.features(images)
        with full_precision(features):
            pooled = self.pooling(features).float()
            if self.fc is None:
                return l2_normalise(pooled)
            return l2_normalise(self.fc(l2_normalise(pooled) if self.normalised else pooled))


class Describer(nn.Module):
    """uint8 (B, H, W, 3) -> float32 (B, D), unit length: normalisation, scales, pooling and whitening inside.

    Multi-scale: each further scale is the normalised tensor resized bilinearly (corners not aligned); its descriptor
    has unit length; the descriptors' power mean with exponent ``msp`` is normalised again. ``msp`` is GeM's p when the
    pooling is GeM with one p and no FC layer follows (so that nothing is negative), else 1, the plain mean
    (Radenovic et al. 2018, section 4.3 and their reference evaluation).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: RetrievalNetwork, rule: ImageRule) -> None:
        super().__init__()
        self.network = network
        self.scales = tuple(rule.scales)
        self.register_buffer("mean", torch.tensor(rule.mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(rule.std).view(1, 3, 1, 1) * 255, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.normalised(images)
        if len(self.scales) == 1:
            descriptors = self._at(x, self.scales[0])
        else:
            p = self.scale_exponent()
            powered = [self._at(x, scale).pow(p) for scale in self.scales]
            descriptors = l2_normalise((sum(powered) / len(powered)).pow(1 / p))  # type: ignore[union-attr]
        if self.network.whitening is not None:
            descriptors = l2_normalise(self.network.whitening(descriptors))
        return descriptors

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) -> float (B, 3, H, W) as the network takes it."""
        # (B, H, W, 3) seen as (B, 3, H, W) is channels-last already: no copy.
        x: Tensor = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return x

    def _at(self, x: Tensor, scale: float) -> Tensor:
        result: Tensor = self.network(self.scaled(x, scale))
        return result

    def scaled(self, x: Tensor, scale: float) -> Tensor:
        """The normalised pictures at a factor of their size."""
        if scale != 1:
            tracing = torch.jit.is_tracing()  # type: ignore[no-untyped-call]
            if not tracing and min(x.shape[2:]) * scale < 1:  # a side of a few pixels keeps one
                size = [max(1, math.floor(side * scale)) for side in x.shape[2:]]
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            else:
                x = F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)
        return x

    def scale_exponent(self) -> Tensor | float:
        """The exponent of the power mean over scales."""
        pooling = self.network.pooling
        p = getattr(pooling, "p", None)
        if self.network.fc is None and type(pooling).__name__ == "GeM" and isinstance(p, Tensor) and p.numel() == 1:
            return p.clamp(min=MIN_P) if bool(torch.isfinite(p)) else 1.0
        return 1.0

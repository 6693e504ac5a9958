"""Why two pictures match: the cosine of their descriptors as a sum of terms, one for each cell of either feature map.

A descriptor is pooled cells, divided by norms and multiplied by matrices. With the norms as they are for this picture, all of
that is linear in the pooled vector, and a pooled vector is a sum over its cells; so the cosine with another descriptor is
one. Nothing is approximated: the terms of a picture sum to the cosine.

Of a vision transformer the attention of its class token is told too (:mod:`retrieval.describe.attention`); where that token alone
is the descriptor there are no terms, for what it is made of was mixed in every block.
"""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from retrieval.describe.attention import has_attention, watching
from retrieval.describe.model import Model
from retrieval.engines.base import checked
from retrieval.errors import UsageError
from retrieval.models.loading import build_network
from retrieval.models.network import Describer
from retrieval.pooling.contributions import contribution_map
from retrieval.pooling.tokens import ClsPool

_EPS = 1e-6  # of l2_normalise
_CLOSE = 1e-4  # terms that sum to another number than the cosine are none


@dataclass(frozen=True)
class Explanation:
    """``cosine`` of two pictures' descriptors; ``first`` and ``second`` float64 (rows, columns), the terms of either picture's
    cells: each sums to the cosine; None for a descriptor that is no sum over cells. ``constants``: what of either sum belongs to
    no cell (the bias of a whitening, a class token) and was spread evenly over all. ``attentions`` of either picture, see
    :class:`Seen`."""

    cosine: float
    first: npt.NDArray[np.float64] | None
    second: npt.NDArray[np.float64] | None
    constants: tuple[float, float]
    attentions: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None


@dataclass(frozen=True)
class Seen:
    """A picture as the network sees it: what is pooled at each scale, float64, the grid of its cells (rows, columns), and its
    descriptor, float64 (D,), unit length. ``attention``: float64 (heads, rows, columns), how much of the class token's attention
    in the last block goes to each patch at the largest scale (the rest goes to itself and to registers); None without one."""

    features: list[Tensor]
    grids: list[tuple[int, int]]
    descriptor: Tensor
    attention: npt.NDArray[np.float64] | None


class Explainer:
    """Explains cosines of one model. Holds its network in torch; several threads may use it."""

    def __init__(self, model: Model) -> None:
        """Raises UsageError for a model with neither cells nor attention, ModelError where its weights cannot be had."""
        network = build_network(model.spec, model.checkpoint)
        self.cells = not isinstance(network.pooling, ClsPool)
        self.attends = has_attention(network.backbone)
        if not self.cells and not self.attends:
            raise UsageError(
                f"{model.spec.name} describes by its class token alone, which is no sum over cells, and merges tokens on the way",
                "Models that pool cells or tokens can be explained, and class tokens without --tokens.",
            )
        self._turn = threading.Lock()  # of those that watch
        self.network = network
        self.describer = Describer(network, model.spec.image).eval()
        self.pooling = copy.deepcopy(network.pooling).double()  # so that sums differ by nothing that can be seen
        self.name = model.spec.name

    def see(self, picture: npt.NDArray[np.uint8]) -> Seen:
        """``picture``: uint8 (H, W, 3), as :meth:`Model.load` gives it."""
        pixels = np.require(checked(picture[None]), requirements=["C", "W"])
        features, grids = [], []
        with torch.no_grad():
            x = self.describer.normalised(torch.from_numpy(pixels))
            attentions = []
            for scale in self.describer.scales:
                scaled = self.describer.scaled(x, scale)
                if self.attends:
                    with self._turn, watching(self.network.backbone) as seen:
                        found = self.network.features(scaled)
                    attentions += seen
                else:
                    found = self.network.features(scaled)
                features.append(found.double())
                grids.append(self._grid(found, scaled))
            pooled = [self.pooling(f).double() for f in features]
            descriptor = _Head(self.network, self.describer, pooled).descriptor
        return Seen(features, grids, descriptor, _on_patches(attentions, grids) if self.attends else None)

    def explain(self, first: Seen, second: Seen) -> Explanation:
        """Raises UsageError for a pooling whose value is no sum over cells."""
        cosine = float(first.descriptor @ second.descriptor)
        attentions = None
        if first.attention is not None and second.attention is not None:
            attentions = first.attention, second.attention
        if not self.cells:
            return Explanation(cosine, None, None, (cosine, cosine), attentions)
        one, constant_one = self._terms(first, second.descriptor, cosine)
        two, constant_two = self._terms(second, first.descriptor, cosine)
        return Explanation(cosine, one, two, (constant_one, constant_two), attentions)

    def _terms(self, seen: Seen, other: Tensor, cosine: float) -> tuple[npt.NDArray[np.float64], float]:
        with torch.no_grad():
            pooled = [self.pooling(f).double() for f in seen.features]
            weights, constant = _Head(self.network, self.describer, pooled).weights(other)
        finest = max(seen.grids, key=lambda grid: grid[0] * grid[1])
        total = np.zeros(finest)
        for features, grid, weight in zip(seen.features, seen.grids, weights, strict=True):
            terms = contribution_map(self.pooling, features, weight[None]).detach()[0]
            if terms.ndim == 1:  # tokens: those before the patches belong to no place
                before = len(terms) - grid[0] * grid[1]
                constant += float(terms[:before].sum())
                terms = terms[before:].reshape(grid)
            total += spread(terms.numpy().astype(np.float64), finest)
        total += constant / total.size
        if not abs(float(total.sum()) - cosine) < _CLOSE:
            raise UsageError(f"what {self.name} pools is no sum over cells, so a match cannot be told by cells")
        return total, constant

    def _grid(self, features: Tensor, images: Tensor) -> tuple[int, int]:
        if features.ndim == 4:
            return features.shape[2], features.shape[3]
        stride = self.network.backbone.info.stride
        rows, columns = (max(1, round(side / stride)) for side in images.shape[2:])
        return rows, columns


class _Head:
    """What makes a descriptor of one picture's pooled vectors, each (1, C) at its scale; and the same backwards."""

    def __init__(self, network: nn.Module, describer: Describer, pooled: list[Tensor]) -> None:
        self.fc = _matrix(network.fc)  # type: ignore[arg-type]
        self.whitening = _matrix(network.whitening)  # type: ignore[arg-type]
        self.normalised = bool(network.normalised)
        self.p = float(describer.scale_exponent()) if len(pooled) > 1 else 1.0
        self.pooled = [y[0] for y in pooled]
        self.inner = [float(y.norm()) + _EPS for y in self.pooled]
        self.at: list[Tensor] = []  # the descriptor at each scale
        self.outer: list[float] = []  # what it was divided by after an FC layer
        for y, norm in zip(self.pooled, self.inner, strict=True):
            if self.fc is None:
                self.at.append(y / norm)
                continue
            z = self.fc[0] @ (y / norm if self.normalised else y) + self.fc[1]
            self.outer.append(float(z.norm()) + _EPS)
            self.at.append(z / self.outer[-1])
        d = self.at[0]
        self.across = 1.0  # the norm of the mean over scales
        if len(self.at) > 1:
            self.powers = [d if self.p == 1 else d.pow(self.p) for d in self.at]
            mean = torch.stack(self.powers).mean(0)
            self.mean = mean if self.p == 1 else mean.pow(1 / self.p)
            self.across = float(self.mean.norm()) + _EPS
            d = self.mean / self.across
        self.last = 1.0
        if self.whitening is not None:
            d = self.whitening[0] @ d + self.whitening[1]
            self.last = float(d.norm()) + _EPS
            d = d / self.last
        self.length = max(float(d.norm()), 1e-12)
        self.descriptor = d / self.length

    def weights(self, other: Tensor) -> tuple[list[Tensor], float]:
        """For each scale the vector (C,) whose product with the pooled one is this scale's part of the cosine with ``other``;
        and what is no product with any."""
        constant = 0.0
        g = other / self.length
        if self.whitening is not None:
            g = g / self.last
            constant += float(g @ self.whitening[1])
            g = g @ self.whitening[0]
        g = g / self.across
        parts = [g]
        if len(self.at) > 1:
            total = torch.stack(self.powers).sum(0).clamp(min=1e-300)
            # Of a power mean each scale has its share, as each cell has of GeM.
            parts = [
                g / len(self.at) if self.p == 1 else g * self.mean * d.clamp(min=1e-30).pow(self.p - 1) / total
                for d in self.at
            ]
        out = []
        for i, part in enumerate(parts):
            if self.fc is not None:
                part = part / self.outer[i]
                constant += float(part @ self.fc[1])
                part = part @ self.fc[0]
            out.append(part / self.inner[i] if self.fc is None or self.normalised else part)
        return out, constant


def _on_patches(attentions: list[Tensor], grids: list[tuple[int, int]]) -> npt.NDArray[np.float64]:
    """Attention at the scale with most patches, (1, heads, tokens), as (heads, rows, columns)."""
    weights, (rows, columns) = max(zip(attentions, grids, strict=True), key=lambda pair: pair[1][0] * pair[1][1])
    patches = weights[0, :, weights.shape[-1] - rows * columns :]
    return patches.reshape(-1, rows, columns).numpy().astype(np.float64)


def _matrix(layer: nn.Linear | None) -> tuple[Tensor, Tensor] | None:
    if layer is None:
        return None
    weight = layer.weight.detach().double()
    bias = torch.zeros(len(weight), dtype=weight.dtype) if layer.bias is None else layer.bias.detach().double()
    return weight, bias


def spread(terms: npt.NDArray[np.float64], shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """The terms of a coarse grid on a finer one of the same picture, by how much of each cell lies where; the sum stays."""
    if terms.shape == shape:
        return terms
    return _cover(shape[0], terms.shape[0]) @ terms @ _cover(shape[1], terms.shape[1]).T


def _cover(fine: int, coarse: int) -> npt.NDArray[np.float64]:
    """What part of each of ``coarse`` equal cells of a line lies in each of ``fine`` ones, (fine, coarse)."""
    ends = np.arange(1, fine + 1)[:, None] / fine, np.arange(1, coarse + 1)[None] / coarse
    begins = np.arange(fine)[:, None] / fine, np.arange(coarse)[None] / coarse
    result: npt.NDArray[np.float64] = np.maximum(np.minimum(*ends) - np.maximum(*begins), 0) * coarse
    return result

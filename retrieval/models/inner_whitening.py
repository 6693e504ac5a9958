"""Whitening inside a network, before or within its pooling: of every cell of the feature map, or of every region.

Published networks of this kind are described by two more parameters of the pooling in a specification:
``whitened_cells`` (true) and ``whitened_regions`` (the number of scales of the regions).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from retrieval.pooling.base import Pooling, check_dim, check_map, positive_int
from retrieval.pooling.contributions import contribution_map
from retrieval.pooling.regions import rmac_regions

CELLS = "whitened_cells"
REGIONS = "whitened_regions"


def whiten_cells(dim: int) -> nn.Conv2d:
    """A linear map of the channels of every cell, ``(B, C, H, W)`` -> ``(B, C, H, W)``; the identity until learned."""
    layer = nn.Conv2d(dim, dim, 1)
    nn.init.dirac_(layer.weight)
    nn.init.zeros_(layer.get_parameter("bias"))
    return layer


class WhitenedRegions(Pooling):
    """Pool the whole map and every region of R-MAC, whiten the vectors, add them up.

    ``y = sum over regions R of n(W n(v_R) + b)`` with ``v_R`` the inner pooling of x over R and ``n(v) = v / (|v| +
    1e-6)``; regions as in :func:`retrieval.pooling.regions.rmac_regions` and the whole map. The sum is not normalised.

    Args:
        pool: the inner pooling of feature maps, which keeps the number of channels.
        dim: number of channels C.
        levels: number of scales L of the regions.

    Gradient: that of the inner pooling, through the whitening.
    Source: the regions of Tolias, Sicre, Jegou, 2016, whitened as there, with any pooling (R-GeM and the like).
    """

    kind = "map"

    def __init__(self, pool: Pooling, dim: int, levels: int = 3) -> None:
        super().__init__()
        self.pool = pool
        self.dim = positive_int(dim, "dim")
        self.levels = positive_int(levels, REGIONS)
        self.whiten = nn.Linear(dim, dim)
        nn.init.eye_(self.whiten.weight)
        nn.init.zeros_(self.whiten.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C)``."""
        x = check_map(x)
        check_dim(x.shape[1], self.dim, REGIONS)
        boxes = rmac_regions(x.shape[2], x.shape[3], self.levels)
        views = [x, *(x[:, :, top : top + h, left : left + w] for top, left, h, w in boxes)]
        vectors = torch.stack([self.pool(view) for view in views], dim=1)
        return _unit(self.whiten(_unit(vectors))).sum(1)

    def contribution_map(self, x: Tensor, weights: Tensor) -> Tensor:
        """Which cells made ``weights`` times ``self(x)``: ``(B, H, W)``; ``weights`` ``(C,)`` or ``(B, C)``. The norms are
        taken as they are, and what the whitening's bias adds is spread evenly over a region."""
        x = check_map(x)
        matrix, bias = self.whiten.weight.to(x), self.whiten.bias.to(x)
        total = x.new_zeros((x.shape[0], *x.shape[2:]))
        for top, left, h, w in [(0, 0, *x.shape[2:]), *rmac_regions(x.shape[2], x.shape[3], self.levels)]:
            view = x[:, :, top : top + h, left : left + w]
            pooled = self.pool(view)
            white = _unit(pooled) @ matrix.T + bias
            outer = weights.to(x) / (torch.linalg.vector_norm(white, dim=-1, keepdim=True) + 1e-6)
            inner = (outer @ matrix) / (torch.linalg.vector_norm(pooled, dim=-1, keepdim=True) + 1e-6)
            even = (outer * bias).sum(-1)[:, None, None] / (h * w)
            total[:, top : top + h, left : left + w] += contribution_map(self.pool, view, inner) + even
        return total

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


def _unit(x: Tensor) -> Tensor:
    result: Tensor = x / (torch.linalg.vector_norm(x, dim=-1, keepdim=True) + 1e-6)
    return result

"""Many poolings of the same features at once, sharing what they have in common.

A sweep over p takes one logarithm of each feature, and one exponential for each p that is no sum of two others (x^5 is x^2
times x^3, and a product takes a tenth of the time); maxima and means of regions are taken
of contiguous copies. Every result equals that of the pooling's own module up to rounding (1e-6 of its length); what has
no short cut here runs its own module.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retrieval.benchmarks.methods import Method
from retrieval.models.network import l2_normalise
from retrieval.pooling.power import EPS, MIN_P
from retrieval.pooling.regions import RMAC, GridAvg, GridMax, RegionalGeM, SpatialPyramid, pool_windows, regional_sum
from retrieval.pooling.spatial import GeM, GlobalMax
from retrieval.pooling.tokens import TokenGeM

# Powers are taken of features divided by their channel's maximum. Beyond this p those of a weak region would vanish.
_LARGEST_REGIONAL_P = 5.0
_NO_UNDERFLOW = 5.0  # (1e-6 / 1)^5 is still a normal float32, for activations of the usual size
# What is smaller adds nothing to a sum that holds a 1, and numbers below 1e-38 take ten times as long.
_LEAST_LOG = -80.0
_LEAST = 1e-18  # of a factor, so that a product stays above that


def descriptors(methods: Sequence[Method], x: Tensor) -> list[Tensor]:
    """Features ``(B, C, H, W)`` or ``(B, T, D)`` -> for each method its descriptors, float32 ``(B, D')``, unit length."""
    shared = _Shared(x)
    return [l2_normalise(shared.pool(method.module)) for method in methods]


class _Shared:
    def __init__(self, x: Tensor) -> None:
        self.x = x
        self._prefix = -1
        self._top: Tensor
        self._logs: Tensor
        self._powers: dict[float, Tensor] = {}

    def pool(self, module: torch.nn.Module) -> Tensor:
        x = self.x
        if isinstance(module, (GeM, RegionalGeM, TokenGeM)):
            if module.p.numel() > 1 or module.eps != EPS or getattr(module, "negative", "clamp") != "clamp":
                return module(x)
            p, prefix = max(float(module.p.detach()), MIN_P), getattr(module, "prefix", 0)
            if isinstance(module, RegionalGeM):
                if p > _LARGEST_REGIONAL_P:
                    return module(x)
                powers, top = self._power(p, 0), self._top
                return regional_sum(
                    lambda view: top * _cells(view).mean(1).pow(1 / p), self._as_map(powers), module.levels
                )
            if module.is_max:
                self._prepare(prefix)
                return self._top
            return self._power(p, prefix).mean(1).pow(1 / p) * self._top
        if isinstance(module, GlobalMax):
            return _maximum(x)
        if isinstance(module, RMAC):
            return regional_sum(_maximum, x, module.levels)
        if isinstance(module, GridMax):
            return pool_windows(_maximum, x, *module.size)
        if isinstance(module, GridAvg):
            return pool_windows(lambda view: _cells(view).mean(1), x, *module.size)
        if isinstance(module, SpatialPyramid) and isinstance(module.window, GlobalMax):
            return torch.cat([pool_windows(_maximum, x, n, n) for n in module.levels], dim=1)
        return module(x)

    def _prepare(self, prefix: int) -> None:
        if prefix != self._prefix:
            cells = (_cells(self.x) if self.x.ndim == 4 else self.x[:, prefix:]).clamp(min=EPS)
            top = cells.amax(1)
            cells = cells.div_(top[:, None])
            self._top, self._logs, self._powers = top, cells.log(), {1.0: cells}
            self._prefix = prefix

    def _power(self, p: float, prefix: int) -> Tensor:
        """``(max(x, eps) / maximum)^p`` of every cell, ``(B, n, C)``."""
        self._prepare(prefix)
        known = self._powers
        if p not in known:
            part = next((a for a in known if p - a in known), None)
            if part is None:
                logs = self._logs * p
                known[p] = (logs.clamp_(min=_LEAST_LOG) if p > _NO_UNDERFLOW else logs).exp_()
            elif p > _NO_UNDERFLOW:
                known[p] = known[part].clamp(min=_LEAST) * known[p - part].clamp(min=_LEAST)
            else:
                known[p] = known[part] * known[p - part]
        return known[p]

    def _as_map(self, cells: Tensor) -> Tensor:
        height, width = self.x.shape[2:]
        return cells.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def _cells(x: Tensor) -> Tensor:
    """``(B, C, H, W)`` -> ``(B, H W, C)``; a view of a whole channels-last map, a copy of a part of one."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _maximum(x: Tensor) -> Tensor:
    return _cells(x).amax(1)

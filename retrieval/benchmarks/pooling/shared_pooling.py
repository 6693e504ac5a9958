"""Many poolings of the same features at once, sharing what they have in common.

A sweep over p takes one logarithm of each feature, and one exponential for each p that is no sum of two others (x^5 is x^2
times x^3, and a product takes a fifth of the time); maxima and means of regions are taken
of contiguous copies. Every result equals that of the pooling's own module up to rounding (1e-6 of its length); what has
no short cut here runs its own module.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from retrieval.benchmarks.pooling.methods import Method
from retrieval.models.network import l2_normalise
from retrieval.pooling.power import EPS, LEAST_LOG, MIN_P
from retrieval.pooling.regions import (
    RMAC,
    GridAvg,
    GridMax,
    RegionalGeM,
    SpatialPyramid,
    pool_windows,
    regional_sum,
    rmac_regions,
    sum_of_directions,
)
from retrieval.pooling.spatial import GeM, GlobalMax
from retrieval.pooling.tokens import TokenGeM

# Powers are taken of features divided by their channel's maximum. Beyond this p those of a weak region would vanish.
_LARGEST_REGIONAL_P = 5.0
_NO_UNDERFLOW = 5.0  # (1e-6 / 1)^5 is still a normal float32, for activations of the usual size
# What is smaller adds nothing to a sum that holds a 1, and numbers below 1e-38 take ten times as long.
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
        self._powers: dict[float, Tensor]
        self._rooms: _Rooms
        self._grids: dict[tuple[int, int], Tensor] = {}

    def pool(self, module: torch.nn.Module) -> Tensor:
        x = self.x
        if isinstance(module, (GeM, RegionalGeM, TokenGeM)):
            if module.p.numel() > 1 or module.eps != EPS or getattr(module, "negative", "clamp") != "clamp":
                return module(x)
            p, prefix = max(float(module.p.detach()), MIN_P), getattr(module, "prefix", 0)
            if isinstance(module, RegionalGeM):
                if p > _LARGEST_REGIONAL_P:
                    return module(x)
                means = _region_means(*x.shape[2:], module.levels) @ self._power(p, 0)
                return sum_of_directions(self._top[:, None] * means.pow(1 / p))
            if module.is_max:
                self._prepare(prefix)
                return self._top
            return self._power(p, prefix).mean(1).pow(1 / p) * self._top
        if isinstance(module, GlobalMax):
            return _maximum(x)
        if isinstance(module, RMAC):
            return regional_sum(_maximum, x, module.levels)
        if isinstance(module, GridMax):
            return _by_channel(self._grid_maxima(*module.size))
        if isinstance(module, GridAvg):
            return pool_windows(lambda view: _cells(view).mean(1), x, *module.size)
        if isinstance(module, SpatialPyramid) and isinstance(module.window, GlobalMax):
            for n in sorted(module.levels, reverse=True):  # the finest first: the others are made of it
                self._grid_maxima(n, n)
            return torch.cat([_by_channel(self._grid_maxima(n, n)) for n in module.levels], dim=1)
        return module(x)

    def _grid_maxima(self, rows: int, columns: int) -> Tensor:
        """Maxima of a grid's windows, ``(B, rows, columns, C)``. A window of a grid twice as fine lies within one of this grid,
        and all that lie in it cover it: floor(i L / n) = floor(2 i L / 2 n), and so for the ends."""
        known = self._grids
        if (rows, columns) not in known:
            finer = next((size for size in known if size[0] % rows == 0 and size[1] % columns == 0), None)
            if finer is None:
                maxima = (
                    pool_windows(_maximum, self.x, rows, columns).unflatten(1, (-1, rows, columns)).permute(0, 2, 3, 1)
                )
            else:
                parts = known[finer].unflatten(2, (columns, -1)).unflatten(1, (rows, -1))
                maxima = parts.amax((2, 4))
            known[rows, columns] = maxima.contiguous()
        return known[rows, columns]

    def _prepare(self, prefix: int) -> None:
        if prefix == self._prefix:
            return
        cells = _cells(self.x) if self.x.ndim == 4 else self.x[:, prefix:]
        self._rooms = _Rooms(cells.shape)
        positive = torch.clamp(cells, min=EPS, out=self._rooms.next())
        self._top = positive.amax(1)
        self._powers = {1.0: positive.div_(self._top[:, None])}
        self._logs = torch.log(positive, out=self._rooms.next())
        self._prefix = prefix

    def _power(self, p: float, prefix: int) -> Tensor:
        """``(max(x, eps) / maximum)^p`` of every cell, ``(B, n, C)``."""
        self._prepare(prefix)
        known = self._powers
        if p not in known:
            part, room = next((a for a in known if p - a in known), None), self._rooms.next()
            if part is None:
                torch.mul(self._logs, p, out=room)
                known[p] = (room.clamp_(min=LEAST_LOG) if p > _NO_UNDERFLOW else room).exp_()
            elif p > _NO_UNDERFLOW:
                torch.clamp(known[part], min=_LEAST, out=room)
                other = torch.clamp(known[p - part], min=_LEAST, out=self._rooms.spare)
                known[p] = room.mul_(other)
            else:
                known[p] = torch.mul(known[part], known[p - part], out=room)
        return known[p]


class _Rooms:
    """Memory for the powers of one map, used again for the next one on the same thread: the system takes longer to hand out
    new pages than a product takes to fill them."""

    _kept = threading.local()

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape
        self._flat: list[Tensor] = getattr(self._kept, "flat", None) or []
        self._kept.flat = self._flat
        self._used = 0
        self.spare = self.next()

    def next(self) -> Tensor:
        """Room for a float32 tensor of the map's shape."""
        values, place = self.shape.numel(), self._used
        self._used += 1
        with torch.inference_mode(False):  # of use within that mode and outside
            if place == len(self._flat):
                self._flat.append(torch.empty(values))
            elif self._flat[place].numel() < values:
                self._flat[place] = torch.empty(values)
        return self._flat[place][:values].view(self.shape)


@lru_cache(maxsize=256)
def _region_means(height: int, width: int, levels: int) -> Tensor:
    """``(R, H W)``: row r holds the weights of the mean over region r, so that all regions' means are one product."""
    boxes = [(0, 0, height, width), *rmac_regions(height, width, levels)]
    weights = torch.zeros(len(boxes), height, width)
    for row, (top, left, h, w) in zip(weights, boxes, strict=True):
        row[top : top + h, left : left + w] = 1 / (h * w)
    return weights.flatten(1)


def _by_channel(windows: Tensor) -> Tensor:
    """``(B, rows, columns, C)`` -> ``(B, C * rows * columns)``, as the poolings' own modules order them."""
    return windows.permute(0, 3, 1, 2).flatten(1)


def _cells(x: Tensor) -> Tensor:
    """``(B, C, H, W)`` -> ``(B, H W, C)``; a view of a whole channels-last map, a copy of a part of one."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _maximum(x: Tensor) -> Tensor:
    return _cells(x).amax(1)

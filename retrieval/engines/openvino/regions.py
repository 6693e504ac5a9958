"""Regional poolings as arithmetic on the map's sides, so that one trace holds for maps of every shape.

:func:`retrieval.pooling.regions.rmac_regions` decides by comparing and counting in Python, which a trace would fix for the
shape that it saw. Here the regions of one scale are tables of row and column numbers, and a window is pooled in two passes,
along its rows and along its columns.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from retrieval.models.inner_whitening import WhitenedRegions
from retrieval.pooling.base import check_map
from retrieval.pooling.power import EPS, LEAST_LOG
from retrieval.pooling.regions import RMAC, RegionalGeM
from retrieval.pooling.spatial import GRID, GeM, GlobalAvg, GlobalMax

_MOST_EXTRA = 6  # regions more along the longer axis than along the shorter one

Windows = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From a map (B, C, H, W), row numbers (R, S) and column numbers (K, S) to the pooled windows (B, C, R, K)."""


def trace_regions(module: nn.Module) -> None:
    """Gives a regional pooling a ``forward`` that can be traced, of the same value; other modules stay as they are."""
    windows = _windows_of(module)
    if windows is None:
        return

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        x = check_map(x)
        sides = torch.stack([torch.as_tensor(x.shape[axis]) for axis in GRID])
        everything = windows(x, *(_numbers(x.shape[axis])[None] for axis in GRID))
        vectors, counts = [everything.flatten(2)], [torch.ones(1)]
        for rows, columns, exists in regions_of(sides, int(self.levels)):  # type: ignore[arg-type]
            vectors.append(windows(x, rows, columns).flatten(2))
            counts.append(exists.to(x.dtype).expand(rows.shape[0] * columns.shape[0]))
        directions = _unit(torch.cat(vectors, 2).transpose(1, 2))
        if isinstance(self, WhitenedRegions):
            directions = _unit(self.whiten(directions))
        return (directions * torch.cat(counts)[:, None]).sum(1)

    module.forward = types.MethodType(forward, module)


def regions_of(sides: Tensor, levels: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """:func:`~retrieval.pooling.regions.rmac_regions` of a map with these ``sides``, int64 (2,): for each scale row numbers
    (R, S) and column numbers (K, S), every one with every other, and whether the scale exists, bool ().
    """
    short, beyond = sides.amin(), sides.amax() - sides.amin()
    # One after the other: OpenVINO takes the least of a computed vector wrongly (2026.4). Of equal misses the first:
    # its place is the last digit.
    misses = [8 * (60 // m) * (3 * short * m - 5 * beyond).abs() + m for m in range(1, _MOST_EXTRA + 1)]
    extra = (sides - short).clamp(max=1) * (torch.stack(misses).amin() % 8)  # of the longer axis alone
    found = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        window = _numbers(side.clamp(min=1))
        room, gaps = sides - side.clamp(min=1), (level + extra - 1).clamp(min=1)
        rows, columns = (
            (_numbers(level + extra[axis]) * room[axis] // gaps[axis])[:, None] + window for axis in range(2)
        )
        found.append((rows, columns, side > 0))
    return found


def _numbers(count: Any) -> Tensor:
    """From 0 on; in a trace a count is a tensor."""
    return torch.arange(count)


def _windows_of(module: nn.Module) -> Windows | None:
    """How a regional pooling pools a window; None for any other module."""
    pool = module.pool if isinstance(module, WhitenedRegions) else module
    if type(module) is RMAC or type(pool) is GlobalMax:
        return _maxima if type(module) in (RMAC, WhitenedRegions) else None
    if type(module) not in (RegionalGeM, WhitenedRegions):
        return None
    if type(pool) is GlobalAvg:
        return _means
    if type(pool) not in (RegionalGeM, GeM):
        return None
    eps = float(pool.eps)  # type: ignore[arg-type]
    if pool.is_max:
        return lambda x, rows, columns: _maxima(x.clamp(min=eps), rows, columns)
    p = float(pool.exponent(pool.p).detach())  # type: ignore[operator]
    return lambda x, rows, columns: _power_means(x.clamp(min=eps), rows, columns, p)


def _maxima(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return x[:, :, rows].amax(3)[..., columns].amax(4)


def _means(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return x[:, :, rows].mean(3)[..., columns].mean(4)


def _power_means(y: Tensor, rows: Tensor, columns: Tensor, p: float) -> Tensor:
    """Generalised means of positive values, each pass scaled by its largest value as in :mod:`retrieval.pooling.power`."""
    least = math.exp(LEAST_LOG / p)
    strips = y[:, :, rows]  # (B, C, R, S, W)
    tallest = strips.amax(3, keepdim=True)
    sums = (strips / tallest).clamp(min=least).pow(p).mean(3)[..., columns]  # (B, C, R, K, S)
    tallest = tallest[:, :, :, 0][..., columns]
    largest = tallest.amax(4, keepdim=True)
    mean = ((tallest / largest).clamp(min=least).pow(p) * sums).mean(4)
    return largest[..., 0] * mean.pow(1 / p)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / (torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) + EPS)

"""What a pooling costs: operations by formula, parameters, and microseconds on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from retrieval.pooling.attention import PMA, AttentionPool, GatedPool
from retrieval.pooling.hybrids import ClsHybrid
from retrieval.pooling.local import LocalPooling, LocalThenGlobal, StridedConvPool
from retrieval.pooling.regions import (
    RMAC,
    GridAvg,
    GridMax,
    RegionalGeM,
    SpatialPyramid,
    adaptive_windows,
    rmac_regions,
)
from retrieval.pooling.spatial import GeM, GlobalAvg, GlobalMax
from retrieval.pooling.tokens import ClsPool, LastPool, MaxPool, MeanPool, TokenGeM

if TYPE_CHECKING:
    import torch
    from torch import nn

_SECONDS = 0.03


def parameters(module: nn.Module) -> int:
    """The number of learnable values."""
    return sum(p.numel() for p in module.parameters())


def flops(module: nn.Module, shape: tuple[int, ...]) -> int | None:
    """Operations to pool one picture's features ``(C, H, W)`` or ``(T, D)``; None for a pooling not known here.

    An addition, multiplication, division, comparison, power, root and exponential count one each. With n values to be
    pooled in each of C channels: average and maximum n C; GeM 3 n C + C (clamp, power, sum; root), as maximum 2 n C;
    a regional sum adds 4 C a region (norm, division, sum). The final normalisation, the same for all, is left out.
    """
    if len(shape) == 3:
        return _map_flops(module, *shape)
    return _token_flops(module, shape[0] - int(getattr(module, "prefix", 0)), shape[1])


def _map_flops(module: nn.Module, channels: int, height: int, width: int) -> int | None:
    whole = [height * width]
    if isinstance(module, (GlobalAvg, GlobalMax, GeM)):
        return channels * _one_channel(module, whole)
    if isinstance(module, (RMAC, RegionalGeM)):
        regions = whole + [h * w for _, _, h, w in rmac_regions(height, width, module.levels)]
        return channels * (_one_channel(module, regions) + 4 * len(regions))
    if isinstance(module, (GridAvg, GridMax)):
        return channels * _one_channel(module, _windows(height, width, *module.size))
    if isinstance(module, SpatialPyramid):
        return channels * sum(_one_channel(module.window, _windows(height, width, n, n)) for n in module.levels)
    if isinstance(module, LocalThenGlobal) and isinstance(module.local, LocalPooling):
        local = module.local
        rows, columns = ((side - local.window) // local.stride + 1 for side in (height, width))
        each = 2 * channels if isinstance(local, StridedConvPool) else 1
        first = rows * columns * channels * local.window**2 * each
        rest = _map_flops(module.head, channels, rows, columns)
        return None if rest is None else first + rest
    return None


def _windows(height: int, width: int, rows: int, columns: int) -> list[int]:
    down, across = adaptive_windows(height, rows), adaptive_windows(width, columns)
    return [(b - a) * (d - c) for a, b in down for c, d in across]


def _one_channel(module: nn.Module, windows: list[int]) -> int:
    """Pooling windows of so many values each."""
    if isinstance(module, (GeM, RegionalGeM)):
        return 2 * sum(windows) if module.is_max else 3 * sum(windows) + len(windows)
    return sum(windows)


def _token_flops(module: nn.Module, n: int, dim: int) -> int | None:
    if isinstance(module, (ClsPool, LastPool)):
        return 0
    if isinstance(module, (MeanPool, MaxPool)):
        return n * dim
    if isinstance(module, TokenGeM):
        each, once = {"clamp": (3, 1), "shift": (5, 2), "signed": (4, 2)}[module.negative]
        return n * dim * each + dim * once
    if isinstance(module, ClsHybrid):
        rest = _token_flops(module.other, n, dim)
        return None if rest is None else rest + (2 * dim if module.merge == "mean" else 0)
    if isinstance(module, (AttentionPool, GatedPool)):
        return 4 * n * dim + (5 if isinstance(module, GatedPool) else 3) * n
    if isinstance(module, PMA):
        seeds = module.seeds.shape[0]
        # Linear layers: two operations a weight and vector. Keys and values (and feed_in) see the tokens.
        on_tokens = (3 if module.feed_in is not None else 2) * n
        linear = 2 * dim * dim * (on_tokens + 3 * seeds)
        return linear + seeds * n * (4 * dim + 3 * module.heads)
    return None


def microseconds(module: nn.Module, features: torch.Tensor) -> float:
    """The time to pool the features of one picture, a batch of 1, with the module itself on one thread: the median of some
    runs after a first one that does not count, about 0.03 seconds of them."""
    import torch

    from retrieval.system.threads import one_thread

    times: list[float] = []
    with torch.inference_mode(), one_thread():
        module(features)
        while len(times) < 3 or (sum(times) < _SECONDS and len(times) < 100):
            start = time.perf_counter()
            module(features)
            times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2] * 1e6

"""Which cells or tokens made a pooled value: terms that sum to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def contribution_map(pooling: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """``weights`` times the pooled vector, as a sum of terms of the cells ``(B, H, W)`` or of the tokens ``(B, T)``.

    A pooling that has a ``contribution_map`` of its own knows its terms. For others a term is the value times the slope:
    by Euler's theorem these sum to the pooled value wherever it grows in proportion to its input, as averages, maxima, power
    means, grids and pyramids do. Of a pooling that does not, the sum is another one; callers check it.

    Args:
        pooling: takes ``x`` alone.
        x: ``(B, C, H, W)`` or ``(B, T, D)``, float32 or float64.
        weights: ``(N,)`` or ``(B, N)`` for pooled vectors ``(B, N)``.
    """
    own = getattr(pooling, "contribution_map", None)
    if own is not None:
        result: Tensor = own(x, weights)
        return result
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad((pooling(at) * weights.to(x)).sum(), at)
    return (slope * x).sum(1 if x.ndim == 4 else 2)

"""The generalised (power) mean, the arithmetic under GeM, safe at every p and in every precision.

    M_p(x_1 ... x_n) = (1/n * sum_i max(x_i, eps)^p)^(1/p)

Written as it stands, x^p overflows float16 above x = 40 for p = 3, and 1e-6^p is zero in float32 from p = 8
on, where the p-th root then has an infinite slope and the gradient is NaN. The mean is homogeneous,
M_p(x) = m * M_p(x / m), so dividing by the largest value m keeps every power in (0, 1] and their mean in
[1/n, 1]: the same value, and finite gradients, for any p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from retrieval.errors import UsageError

EPS = 1e-6
MIN_P = 0.01
_HELD = 1.0001 * MIN_P  # MIN_P itself, rounded to float32, lies below MIN_P
MAX_P = 1000.0  # of a learned p; the mean is then within a thousandth times log(n) of the maximum
LEAST_LOG = -80.0


def parse_p(p: float | str) -> float:
    """``p`` as a float; the string or the float "inf" stands for the maximum.

    Raises:
        UsageError: not a number, not positive, or below ``MIN_P`` (the root 1/p would only amplify rounding).
    """
    try:
        value = float(p)
    except (TypeError, ValueError):
        raise UsageError(f"p must be a positive number or inf, not {p!r}") from None
    if math.isnan(value) or value < MIN_P:
        raise UsageError(f"p must be at least {MIN_P} (1 is the average, inf the maximum), not {p!r}")
    return value


def check_eps(eps: float) -> float:
    """``eps`` as a positive float.

    Raises:
        UsageError: it is not positive.
    """
    if not 0 < eps < math.inf:
        raise UsageError(f"eps must be a positive number, not {eps!r}")
    return float(eps)


class PowerModule(nn.Module):
    """A module with the exponent p of a power mean: learned or fixed, one for all channels or one for each.

    ``p`` has shape ``(1,)`` or ``(C,)``. It is a parameter if learned, a buffer if fixed; either way an entry
    ``p`` of the state dict. A parameter that training pushed below ``MIN_P`` acts as ``MIN_P``; its gradient
    still passes, so it can recover, and :meth:`hold` puts it back. ``is_max`` is true where p is infinite.
    """

    p: Tensor

    def init_exponent(self, p: float | str, learn_p: bool, eps: float, size: int = 1) -> None:
        """Register p and eps; to be called once, after ``nn.Module.__init__``.

        Args:
            p: starting value; infinity means the maximum, which has no slope in p and so is always fixed.
            learn_p: whether p is a parameter.
            eps: smallest value that counts.
            size: 1, or the number of channels.
        """
        value = parse_p(p)
        self.eps = check_eps(eps)
        self.is_max = math.isinf(value)
        start = torch.full((size,), value)
        if learn_p and not self.is_max:
            self.p = nn.Parameter(start)
        else:
            self.register_buffer("p", start)
        self.register_load_state_dict_post_hook(_recognise_max)

    def exponent(self, like: Tensor) -> Tensor:
        """p on the device of ``like`` and in its dtype, at least ``MIN_P``; shape as ``p``."""
        p = self.p.to(like)
        # The value is the clamped one to the bit, however far p is from it; the second term is 0 with a slope of 1.
        return p.clamp(min=MIN_P).detach() + (p - p.detach())

    def hold(self) -> bool:
        """Put a learned p back between ``MIN_P`` and ``MAX_P``, in place, after a step; whether it was outside. NaN stays."""
        if not isinstance(self.p, nn.Parameter) or self.is_max:
            return False
        with torch.no_grad():
            outside = bool(((self.p < _HELD) | (self.p > MAX_P)).any())
            self.p.clamp_(_HELD, MAX_P)
        return outside

    def extra_repr(self) -> str:
        low, high = float(self.p.detach().min()), float(self.p.detach().max())
        value = f"{low:.4g}" if low == high else f"{low:.4g}..{high:.4g}"
        return f"p={value}, learn_p={isinstance(self.p, nn.Parameter)}, eps={self.eps:g}"


def _recognise_max(module: nn.Module, _: object) -> None:
    """A state dict may bring p = inf to a module built with a finite p, and the other way round."""
    assert isinstance(module, PowerModule)
    infinite = torch.isinf(module.p)
    if bool(infinite.any()) and not bool(infinite.all()):
        raise UsageError("some values of p are infinite and some are not: one module is a maximum or it is not")
    module.is_max = bool(infinite.all())


def power_mean(
    x: Tensor, p: Tensor | float, dim: int | Sequence[int], eps: float = EPS, mask: Tensor | None = None
) -> Tensor:
    """Generalised mean of ``max(x, eps)`` over ``dim`` (reduced away).

    Args:
        x: float32 or float64, any shape.
        p: exponent, positive and finite, broadcastable to ``x``.
        dim: the axis or axes to pool over.
        eps: smallest value that counts; anything below is raised to it and gets no gradient.
        mask: bool, broadcastable to ``x``; only True entries count. At least one per pooled set.

    Returns:
        a tensor like ``x`` without the axes ``dim``. Gradients flow to ``x`` and, if a tensor, to ``p``.
    """
    dims = [dim] if isinstance(dim, int) else list(dim)
    y = x.clamp(min=eps)
    if mask is not None:
        y = torch.where(mask, y, eps)
    powers, scale = scaled_powers(y, p, dims)
    if mask is None:
        mean = powers.mean(dims, keepdim=True)
    else:
        counts = mask.expand_as(x).sum(dims, keepdim=True).clamp(min=1)
        mean = torch.where(mask, powers, 0.0).sum(dims, keepdim=True) / counts
    return (scale * mean.pow(1.0 / p)).squeeze(tuple(dims))


def scaled_powers(y: Tensor, p: Tensor | float, dims: list[int]) -> tuple[Tensor, Tensor]:
    """``(y / m)^p`` and ``m``, the largest ``y`` over ``dims``; y is positive.

    m carries no gradient: what is made of the two does not depend on it, so leaving it out is exact. The power is
    taken as exp(p log), which is twice as fast as pow with a tensor for an exponent, forward and backward. Powers
    stop at exp(-80), far below rounding beside a mean of at least 1/n: smaller ones are denormal numbers in float32,
    on which arithmetic is several times slower.
    """
    scale = y.detach().amax(dims, keepdim=True)
    return ((y / scale).log() * p).clamp(min=LEAST_LOG).exp(), scale


def power_shares(x: Tensor, p: Tensor | float, dim: int | Sequence[int], eps: float = EPS) -> Tensor:
    """What part of the power mean each entry carries: ``x^p / sum(x^p)`` over ``dim``, shaped as ``x``."""
    dims = [dim] if isinstance(dim, int) else list(dim)
    y = x.clamp(min=eps)
    powers, _ = scaled_powers(y, p, dims)
    return powers / powers.sum(dims, keepdim=True)


def max_shares(x: Tensor, dim: int | Sequence[int]) -> Tensor:
    """What part of the maximum over ``dim`` each entry carries: 1 for the winner; ties share equally."""
    dims = [dim] if isinstance(dim, int) else list(dim)
    winners = (x == x.amax(dims, keepdim=True)).to(x.dtype)
    return winners / winners.sum(dims, keepdim=True)

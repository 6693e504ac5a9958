"""What every pooling shares: the two base classes, the checks at the door and the working precision.

A pooling turns many vectors into one. Two kinds exist: ``"map"`` takes the feature map of a convolutional
network, ``(B, C, H, W)``; ``"tokens"`` takes the sequence of a transformer, ``(B, T, D)``, with an optional
mask.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from retrieval.errors import UsageError

Kind = Literal["map", "tokens"]
MERGES = ("concat", "mean")  # ways to put several pooled vectors together


class Pooling(nn.Module):
    """Base of all poolings. ``kind`` says what ``forward`` takes, ``out_dim`` how long the result is.

    Results are float32, or float64 where the input is float64: half precision is widened on the way in,
    because powers, sums and exponentials of half-precision features overflow or vanish.
    """

    kind: ClassVar[Kind]

    def out_dim(self, in_dim: int) -> int:
        """Length of the pooled vector for ``in_dim`` channels (or token dimensions)."""
        return in_dim


def tracing() -> bool:
    """True while torch.compile, torch.export or the tracer runs; checks of values are left out then."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def working_precision(x: Tensor) -> Tensor:
    """``x`` as float32, or unchanged where it is float32 or float64."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """A context without autocast, so that products inside a pooling are not cut to half precision."""
    device = x.device.type
    if tracing() or not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def check_map(x: Tensor) -> Tensor:
    """A feature map ``(B, C, H, W)`` in working precision.

    Raises:
        UsageError: wrong rank, not floating point, or an axis of length zero.
    """
    return _check(x, 4, "a feature map (B, C, H, W)")


def check_tokens(x: Tensor) -> Tensor:
    """A token sequence ``(B, T, D)`` in working precision.

    Raises:
        UsageError: wrong rank, not floating point, or an axis of length zero.
    """
    return _check(x, 3, "a token sequence (B, T, D)")


def _check(x: Tensor, rank: int, wanted: str) -> Tensor:
    if x.ndim != rank:
        raise UsageError(f"this pooling takes {wanted}, but the tensor has shape {tuple(x.shape)}")
    if not x.is_floating_point():
        raise UsageError(f"this pooling takes floating-point features, not {x.dtype}", "Convert with x.float().")
    if not tracing() and x.numel() == 0:
        raise UsageError(f"nothing to pool: {wanted} with shape {tuple(x.shape)} is empty")
    return working_precision(x)


def check_dim(x_dim: int, dim: int, name: str) -> None:
    """The features have the width that the module was built for.

    Raises:
        UsageError: they have not.
    """
    if x_dim != dim:
        raise UsageError(f"{name} was built for {dim} channels, but the features have {x_dim}")


def positive_int(value: object, name: str) -> int:
    """``value`` as an int of at least 1.

    Raises:
        UsageError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} must be a whole number of at least 1, not {value!r}")
    return value


def one_of(value: str, choices: tuple[str, ...], name: str) -> str:
    """``value``, which must be among ``choices``.

    Raises:
        UsageError: it is not.
    """
    if value not in choices:
        raise UsageError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value

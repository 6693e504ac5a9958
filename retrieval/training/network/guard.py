"""Whether training still makes sense: exponents in their range, weights that are numbers, descriptors that tell pictures apart.

Extreme rates break a network without a loss that is no number: an exponent runs out of its range, or all pictures get one
descriptor, at which a margin loss is quite calm. Then the run stops by name, and the last good checkpoint stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from retrieval.errors import RetrievalError
from retrieval.messages import Say
from retrieval.pooling.power import PowerModule

PROBED = 16  # pictures that are described at the end of each epoch
_ALIKE = 1e-4  # median of 1 - cosine between different pictures; scores are shown with four digits
_SHARE = 0.1  # of what it was before training: networks with random weights see everything much alike


def hold_in_range(network: nn.Module) -> bool:
    """Put learned exponents that a step pushed out of their range back to its border; whether there were any."""
    held = [module.hold() for module in network.modules() if isinstance(module, PowerModule)]  # all of them
    return any(held)


def require_finite_weights(network: nn.Module, where: str, hint: str) -> None:
    """Raises RetrievalError that names the first parameter that is not a number any more, before it can be kept."""
    learned = [(name, p.detach()) for name, p in network.named_parameters() if p.requires_grad]
    # Not the sum of the squares: weights of 1e20 are numbers still, and the next loss judges them.
    peaks = torch.stack([p.abs().amax() for _, p in learned if p.numel()])
    if bool(torch.isfinite(peaks).all()):
        return
    bad = next(name for name, p in learned if not bool(torch.isfinite(p).all()))
    raise RetrievalError(f"the weights ({bad}) are not numbers any more after {where}", hint)


def probe_positions(count: int) -> np.ndarray:
    """Which of a training set's ``count`` pictures are looked at: evenly spread, the same in each process."""
    return np.unique(np.linspace(0, count - 1, min(count, PROBED)).astype(np.int64))


def spread(descriptors: np.ndarray) -> float:
    """Median of 1 - cosine over all pairs of unit vectors (N, D), which a single odd picture does not hide behind; NaN rows
    (pictures that cannot be read) are passed over. NaN where fewer than two are left."""
    kept = descriptors[np.isfinite(descriptors).all(axis=1)].astype(np.float64)
    if len(kept) < 2:
        return float("nan")
    return float(np.median(1 - (kept @ kept.T)[np.triu_indices(len(kept), 1)]))


def require_apart(before: float, descriptors: np.ndarray, readable: Sequence[bool], where: str, hint: str) -> None:
    """Raises RetrievalError where descriptors (N, D) of readable pictures are not numbers, or all alike while the ``spread``
    of the same pictures ``before`` training was not."""
    if not np.isfinite(descriptors[list(readable)]).all():
        raise RetrievalError(f"the descriptors are not numbers any more after {where}", hint)
    now = spread(descriptors)
    if now < _ALIKE and now < _SHARE * before:
        raise RetrievalError(
            f"the descriptors have collapsed: after {where} the network describes different pictures alike "
            f"(1 - cosine is {max(now, 0.0):.1e} in the median, {before:.1e} before training)",
            hint,
        )


class Guard:
    """Watches over ``network``. ``probe`` describes the same few pictures by the network as it is, float32 (N, D), and says
    which of them can be read; ``hint``: what to do when the run has to stop. Its methods raise RetrievalError."""

    def __init__(
        self, network: nn.Module, probe: Callable[[], tuple[np.ndarray, list[bool]]], *, hint: str, say: Say
    ) -> None:
        self.network, self.probe, self.hint, self.say = network, probe, hint, say
        self.before = float("nan")
        self._told = False

    def begin(self) -> None:
        """Remember how far apart descriptors are before any step of this process."""
        self.before = spread(self.probe()[0])

    def after_step(self, where: str) -> None:
        """What a step may have broken: exponents go back into their range, weights must be numbers."""
        require_finite_weights(self.network, where, self.hint)
        if hold_in_range(self.network) and not self._told:
            self._told = True
            self.say(f"warning: an exponent p left its range at {where} and is held at its border; try a lower --p-lr")

    def after_epoch(self, where: str) -> None:
        """Descriptors must still tell pictures apart."""
        require_apart(self.before, *self.probe(), where, self.hint)

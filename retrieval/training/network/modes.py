"""Evaluation mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every part is in the mode it was in, and torch's random state is where it was."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode

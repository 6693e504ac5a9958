"""What every engine promises, and how one is chosen."""

from __future__ import annotations

import os
from typing import Protocol

import numpy as np

from retrieval.errors import UsageError
from retrieval.models.spec import ModelSpec

ENGINES = ("auto", "torch")


class Engine(Protocol):
    """``describe``: uint8 (N, H, W, 3), RGB, all of one shape -> float32 (N, dim), unit length.

    Normalisation, scales, pooling and whitening are inside, so engines can be compared by cosine alone.
    ``batch_pixels``: how many pixels a batch should hold at most (a single picture may exceed it).
    """

    name: str
    dim: int
    batch_pixels: int

    def describe(self, images: np.ndarray) -> np.ndarray: ...


def create_engine(spec: ModelSpec, name: str = "auto", checkpoint: str | os.PathLike[str] | None = None) -> Engine:
    """The engine for a model. Raises UsageError for an unknown name, ModelError when the weights cannot be had."""
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}", f"Known: {', '.join(ENGINES)}.")
    from retrieval.engines.torch_engine import TorchEngine

    return TorchEngine(spec, checkpoint)

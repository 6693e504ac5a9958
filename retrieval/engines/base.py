"""What every engine promises."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from retrieval.errors import ModelError

ENGINES = ("auto", "torch", "openvino")
PRECISIONS = ("fp32", "int8")


class Engine(Protocol):
    """``describe``: uint8 (N, H, W, 3), RGB, all of one shape -> float32 (N, dim), unit length.

    Normalisation, scales, pooling and whitening are inside, so engines can be compared by cosine alone.
    ``batch_pixels``: how many pixels a batch should hold at most (a single picture may exceed it).
    An engine may also have ``streams``, how many threads may call ``describe`` at the same time (1 without it).
    """

    name: str
    dim: int
    batch_pixels: int

    def describe(self, images: np.ndarray) -> np.ndarray: ...


class EngineUnavailable(ModelError):
    """This engine cannot run this model here; the message is the reason alone."""

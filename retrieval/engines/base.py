"""What every engine promises."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from retrieval.errors import ModelError, UsageError
from retrieval.models.registry import BACKBONES
from retrieval.models.spec import ModelSpec

ENGINES = ("auto", "torch", "openvino")
PRECISIONS = ("fp32", "bf16", "int8")
_FEW_PIXELS = 16  # the smallest size that can be asked for: descriptors of such pictures and larger stay what they were
_LEAST_SIDE = 64
_LOCAL = ("local-max", "local-avg", "strided-conv")


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


Maps = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


class PointsEngine(Protocol):
    """Several threads may call."""

    def __call__(self, picture: np.ndarray) -> Maps:
        """What the network says of one picture, uint8 (H, W, 3), sides multiples of 32: descriptors (H / 8, W / 8, 64), and
        maps (2, H, W), as :class:`retrieval.models.xfeat.XFeat` gives them."""
        ...


def checked(images: np.ndarray) -> np.ndarray:
    """The pictures, uint8 (N, H, W, 3), as a network can see them; UsageError for another shape or type.

    Of a picture of a few pixels a network sees its own padding, and gives next to nothing: where the longest side
    has less than 16, each pixel is repeated until it has at least 64, twice the stride of most backbones.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise UsageError(f"an engine takes uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
    longest = max(images.shape[1:3])
    times = -(-_LEAST_SIDE // longest) if longest < _FEW_PIXELS else 1
    return images if times == 1 else images.repeat(times, axis=1).repeat(times, axis=2)


def least_side(spec: ModelSpec) -> int:
    """The shortest side in pixels of a picture whose feature map, at the smallest scale, is no smaller than the windows of a
    local pooling; 1 for other poolings. A graph that is compiled for every shape computes something of smaller maps, too."""
    if spec.pooling["name"] not in _LOCAL:
        return 1
    beyond = (int(spec.pooling.get("window", 2)) - 1) * BACKBONES[spec.backbone].stride
    return math.floor(beyond / min(*spec.image.scales, 1.0)) + 1


def unit_length(descriptors: np.ndarray) -> np.ndarray:
    """Descriptors (N, D) of unit length to rounding. The field divides by the length plus 1e-6, which shortens those of
    nearly empty maps; all others stay as they are, and a zero vector stays zero."""
    lengths = np.linalg.norm(descriptors.astype(np.float64), axis=1, keepdims=True)
    short = (np.abs(lengths - 1) > 1e-5) & (lengths > 0) & np.isfinite(lengths)
    if not short.any():
        return descriptors
    return np.where(short, descriptors / np.where(short, lengths, 1), descriptors).astype(np.float32)


class EngineUnavailable(ModelError):
    """This engine cannot run this model here; the message is the reason alone."""

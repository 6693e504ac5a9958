"""The torch engine: float32 or a backbone in bfloat16 on the CPU; on a CUDA device, where there is one, in float16."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.engines.base import checked, unit_length
from retrieval.engines.torch.folding import fold_batchnorm
from retrieval.engines.torch.winograd import use_winograd
from retrieval.engines.winograd import pays_here
from retrieval.models.backbones import Backbone
from retrieval.models.loading import build_network
from retrieval.models.network import Describer
from retrieval.models.spec import ModelSpec
from retrieval.system.heap import keep_freed_memory, return_freed_memory

# Bytes. With 24 shapes around a megapixel a process with ResNet-50 holds at most 1.5 GB (all kept: 1.85; nothing: 1.3).
_KEPT = 512 << 20


class TorchEngine:
    """Runs the describer in inference mode, channels-last, its batch normalisation folded into the convolutions; wide
    3 x 3 convolutions with fewer multiplications where that pays (:mod:`retrieval.engines.winograd`).
    See :class:`retrieval.engines.base.Engine`.

    Memory that a picture needed stays with the process for the next one (:mod:`retrieval.system.heap`).
    On a GPU the backbone computes in float16 (autocast); pooling, normalisation and whitening in float32. A batch with
    features beyond float16's range is computed again in float32.
    """

    name = "torch"

    def __init__(
        self,
        spec: ModelSpec,
        checkpoint: str | os.PathLike[str] | None = None,
        device: str = "auto",
        *,
        precision: str = "fp32",
    ) -> None:
        self.precision = precision
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.dim = spec.dim
        self.batch_pixels = 16_000_000 if self.device.type == "cuda" else 1_200_000
        self._shape: list[int] = []
        keep_freed_memory()
        network = fold_batchnorm(build_network(spec, checkpoint))
        self._half: _HalfPrecision | None = None
        if self.device.type == "cuda":
            self._half = network.backbone = _HalfPrecision(network.backbone, "cuda")  # type: ignore[assignment]
        elif precision == "bf16":
            network.backbone = _HalfPrecision(network.backbone, "cpu")  # type: ignore[assignment]
        elif pays_here():
            use_winograd(network)
        self.describer = Describer(network, spec.image).to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def describe(self, images: np.ndarray) -> np.ndarray:
        images = checked(images)
        if sorted(images.shape) != self._shape:  # a turned picture's maps fill the same holes
            # Every new shape leaves holes of its own sizes in the heap, and memory grows with the shapes seen.
            self._shape = sorted(images.shape)
            return_freed_memory(above=_KEPT)
        images = np.require(images, requirements=["C", "W"])  # torch takes no read-only memory
        with torch.inference_mode():
            pixels = torch.from_numpy(images)
            if self._half is None:
                return unit_length(self.describer(pixels.to(self.device)).float().cpu().numpy())
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
            descriptors = self.describer(pixels).float().cpu().numpy()
            if not np.isfinite(descriptors).all():
                with self._half.off():
                    descriptors = self.describer(pixels).float().cpu().numpy()
            return unit_length(descriptors)


class _HalfPrecision(nn.Module):
    """A backbone whose products run in float16 on a GPU and in bfloat16 elsewhere; features leave it in float32."""

    def __init__(self, backbone: Backbone, kind: str) -> None:
        super().__init__()
        self.inner = backbone
        self.info = backbone.info
        self.kind = kind
        self.enabled = True

    def forward(self, images: Tensor) -> Tensor:
        dtype = torch.float16 if self.kind == "cuda" else torch.bfloat16
        with torch.autocast(self.kind, dtype=dtype, enabled=self.enabled):
            return self.inner(images).float()

    @contextmanager
    def off(self) -> Iterator[None]:
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True

"""The torch engine: float32 on the CPU, or on a CUDA device where there is one."""

from __future__ import annotations

import ctypes
import os
import sys

import numpy as np
import torch

from retrieval.errors import UsageError
from retrieval.models.loading import build_network
from retrieval.models.network import Describer
from retrieval.models.spec import ModelSpec


class TorchEngine:
    """Runs the describer in inference mode, channels-last. See :class:`retrieval.engines.base.Engine`."""

    name = "torch"

    def __init__(self, spec: ModelSpec, checkpoint: str | os.PathLike[str] | None = None, device: str = "auto") -> None:
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self.dim = spec.dim
        self.batch_pixels = 16_000_000 if self.device.type == "cuda" else 1_200_000
        self._shape: tuple[int, ...] = ()
        network = build_network(spec, checkpoint)
        self.describer = Describer(network, spec.image).to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def describe(self, images: np.ndarray) -> np.ndarray:
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise UsageError(f"an engine takes uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
        if images.shape[1:] != self._shape:
            # Every new shape leaves holes of its own sizes in the heap; without this, memory grows with the shapes seen
            # (measured with 24 shapes around a megapixel: 1.8 GB against 0.85 GB).
            self._shape = images.shape[1:]
            _return_free_memory()
        images = np.require(images, requirements=["C", "W"])  # torch takes no read-only memory
        with torch.inference_mode():
            return self.describer(torch.from_numpy(images).to(self.device)).float().cpu().numpy()


def _return_free_memory() -> None:
    """Give free pages of the heap back to the system, where the C library can."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)

"""The torch engine: float32 on the CPU, or on a CUDA device where there is one."""

from __future__ import annotations

import os

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
        self.batch_pixels = 16_000_000 if self.device.type == "cuda" else 1_600_000
        network = build_network(spec, checkpoint)
        self.describer = Describer(network, spec.image).to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    def describe(self, images: np.ndarray) -> np.ndarray:
        if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise UsageError(f"an engine takes uint8 (N, H, W, 3), not {images.dtype} {images.shape}")
        images = np.require(images, requirements=["C", "W"])  # torch takes no read-only memory
        with torch.inference_mode():
            return self.describer(torch.from_numpy(images).to(self.device)).float().cpu().numpy()

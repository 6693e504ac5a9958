"""bfloat16 where it is asked for: in what bears it, on a GPU or a processor that multiplies such numbers faster."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from retrieval.errors import UsageError
from retrieval.system.processor import has_bf16


def half_precision(device: torch.device, wanted: bool) -> AbstractContextManager[object]:
    """bfloat16 for what bears it, if wanted. It has the range of float32, so no gradient vanishes or has to be scaled; poolings
    and what follows them compute in float32 whatever comes in, and so do weights, sums of gradients and the optimiser."""
    return torch.autocast(device.type, torch.bfloat16) if wanted else nullcontext()


def require_half_precision(device: str = "auto") -> None:
    """Raises UsageError where nothing computes faster in bfloat16; ``device`` as for :func:`retrieval.train`."""
    if not has_bf16() and (device == "cpu" or not torch.cuda.is_available()):
        raise UsageError(
            "--amp needs a CUDA device, or a processor with instructions for bfloat16, and there is neither here",
            "Leave it out; a run that was begun with it goes on where there is one of them.",
        )

"""bfloat16 where it is asked for: in what bears it, on a GPU or a processor that multiplies such numbers faster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from retrieval.errors import UsageError
from retrieval.system.processor import has_bf16


@contextmanager
def half_precision(device: torch.device, wanted: bool) -> Iterator[None]:
    """bfloat16 for what bears it, if wanted. It has the range of float32, so no gradient vanishes or has to be scaled; poolings
    and what follows them compute in float32 whatever comes in, and so do weights, sums of gradients and the optimiser."""
    if not wanted:
        yield
        return
    with torch.autocast(device.type, torch.bfloat16):
        if device.type == "cpu":
            with _DepthwiseInFloat32():
                yield
        else:
            yield


class _DepthwiseInFloat32(TorchFunctionMode):
    """Depthwise convolutions as they are: their gradients in bfloat16 take a processor several times as long."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and len(args) > 1 and args[1].shape[1] == 1 < args[0].shape[1]:
            with torch.autocast("cpu", enabled=False):
                return func(args[0].float(), *args[1:], **kwargs)
        return func(*args, **kwargs)


def require_half_precision(wanted: bool, device: str = "auto") -> None:
    """Raises UsageError where it is wanted and nothing computes faster in it; ``device`` as for :func:`retrieval.train`."""
    if wanted and not has_bf16() and (device == "cpu" or not torch.cuda.is_available()):
        raise UsageError(
            "--amp needs a CUDA device, or a processor with instructions for bfloat16, and there is neither here",
            "Leave it out; a run that was begun with it goes on where there is one of them.",
        )

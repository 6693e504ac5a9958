"""Gradients of a loss over a whole batch with the memory of a part of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from retrieval.models.network import Describer
from retrieval.training.network.frozen_folding import Pair, folded
from retrieval.training.network.gradients import describe


def backward_in_chunks(
    describer: Describer,
    arrays: Sequence[np.ndarray],
    loss_of: Callable[[Tensor], Tensor],
    chunk: int = 0,
    folds: Sequence[Pair] = (),
    *,
    amp: bool = False,
) -> float:
    """Add the gradients of ``loss_of(descriptors)`` to the parameters; returns the loss.

    ``arrays``: uint8 pictures (H, W, 3), of which intermediate results of ``chunk`` are held at once (0: of all). Where
    there are more, all are described without a graph first, the loss's gradient for each descriptor is taken, and each
    chunk is described again and goes backward from that (Gao et al. 2021, "GradCache"). As normalisations are frozen, a
    picture's descriptor does not depend on its chunk, so the gradients are the same but for rounding.
    ``amp``: bfloat16 in the backbone.
    """
    device = describer.mean.device
    if not chunk or chunk >= len(arrays):
        with folded(folds):
            value = loss_of(describe(describer, arrays, device, amp))
            value.backward()
        return float(value.detach())
    parts = [arrays[i : i + chunk] for i in range(0, len(arrays), chunk)]
    with torch.no_grad(), folded(folds):
        plain = torch.cat([describe(describer, part, device, amp) for part in parts])
    plain.requires_grad_(True)
    value = loss_of(plain)
    value.backward()
    assert plain.grad is not None
    for part, gradient in zip(parts, plain.grad.split(chunk), strict=True):
        with folded(folds):
            describe(describer, part, device, amp).backward(gradient)
    return float(value.detach())

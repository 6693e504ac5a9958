"""From pictures to gradients, with the memory of one tuple (or one group of pictures) at a time.

Gradients add up in the parameters: over the tuples of a step there is no division, as in the field's reference training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.models.network import Describer
from retrieval.training.data.pictures import by_shape
from retrieval.training.network.frozen_folding import Pair, folded
from retrieval.training.network.half import half_precision


def describe(describer: Describer, arrays: Sequence[np.ndarray], device: torch.device, amp: bool = False) -> Tensor:
    """Descriptors (n, D) of uint8 pictures (H, W, 3), with their graph. Pictures of equal shape go through together: as
    statistics are frozen, each one's descriptor is its own all the same."""
    parts, order = [], []
    for places, images in by_shape(arrays):
        with half_precision(device, amp):
            parts.append(describer(images.to(device, non_blocking=True)))
        order += places
    return torch.cat(parts)[torch.tensor(order).argsort()] if len(parts) > 1 else parts[0]


def tuple_backward(
    describer: Describer,
    loss: nn.Module,
    arrays: Sequence[np.ndarray],
    device: torch.device,
    amp: bool = False,
    *,
    pairs: Sequence[Pair] = (),
) -> float:
    """Add the gradients of one tuple (query, positive, negatives); returns its loss. ``pairs``: what is folded, see
    :mod:`retrieval.training.network.frozen_folding`."""
    with folded(pairs):
        value: Tensor = loss(describe(describer, arrays, device, amp)[None])
        value.backward()
    return float(value.detach())


def listwise_backward(
    describer: Describer,
    loss: nn.Module,
    arrays: Sequence[np.ndarray],
    labels: Tensor,
    device: torch.device,
    amp: bool = False,
    *,
    pairs: Sequence[Pair] = (),
    group: int = 8,
    exchange: Callable[[Tensor], Tensor] = lambda own: own,
    own: Callable[[Tensor], Tensor] = lambda whole: whole,
) -> float:
    """Add the gradients of a loss over a whole batch; returns it.

    In stages (Revaud et al., "Learning with Average Precision", ICCV 2019, section 3.2): all descriptors without a graph;
    the loss and its gradient for each descriptor; then picture by picture, ``group`` at a time, a second forward pass with
    its graph and a backward pass from that gradient. Memory is that of one group, whatever the size of the batch.

    Among several processes ``arrays`` is this one's part: ``exchange`` makes the whole batch's descriptors of its own, and
    ``own`` takes its part of the whole batch's gradient.
    """
    groups = [arrays[i : i + group] for i in range(0, len(arrays), group)]
    with torch.no_grad(), folded(pairs):
        parts = [describe(describer, part, device, amp) for part in groups]
        described = exchange(torch.cat(parts))
    described.requires_grad_(True)
    value: Tensor = loss(described, labels.to(device))
    (gradient,) = torch.autograd.grad(value, described)
    gradient = own(gradient)
    for i, part in enumerate(groups):
        wanted = gradient[i * group : i * group + len(part)]
        if bool((wanted != 0).any()):
            with folded(pairs):
                describe(describer, part, device, amp).backward(wanted)
    return float(value.detach())

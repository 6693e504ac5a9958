"""A second encoder that slowly follows the one in training, and a queue of its descriptors as further negatives."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.models.network import Describer, l2_normalise
from retrieval.training.copies.config import CopiesConfig
from retrieval.training.network.gradients import describe


class MomentumEncoder:
    """``queue``: float32 (at most ``config.queue``, D), unit length, the newest last (He et al., CVPR 2020).

    After each step its weights move to ``m old + (1 - m) new``, m being ``config.momentum``; then the batch just trained
    on is described by it and joins the queue, whose oldest rows leave.
    """

    def __init__(self, describer: Describer, head: nn.Module, config: CopiesConfig) -> None:
        self.decay, self.length, self.amp = config.momentum, config.queue, config.amp
        self.live = nn.ModuleList([describer, head])
        self.slow = copy.deepcopy(self.live).eval().requires_grad_(False)
        self.queue: Tensor | None = None

    @torch.no_grad()
    def follow(self, arrays: Sequence[np.ndarray]) -> None:
        """One step behind the network, and the batch's descriptors into the queue."""
        for old, new in zip(self.slow.parameters(), self.live.parameters(), strict=True):
            old.lerp_(new, 1 - self.decay)
        if not self.length:
            return
        describer, head = self.slow
        assert isinstance(describer, Describer)
        rows = l2_normalise(head(describe(describer, arrays, describer.mean.device, self.amp)))
        joined = rows if self.queue is None else torch.cat([self.queue, rows])
        self.queue = joined[-self.length :].clone()

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on."""
        made = {f"slow/{name}": value for name, value in self.slow.state_dict().items()}
        return made if self.queue is None else {**made, "queue": self.queue}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of :meth:`state`."""
        self.queue = tensors.get("queue")
        self.slow.load_state_dict({n.removeprefix("slow/"): v for n, v in tensors.items() if n.startswith("slow/")})

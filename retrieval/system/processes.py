"""Several processes that train one model, one for each GPU, as ``torchrun`` starts them.

Every process holds the whole network and takes its share of a step's pictures; then gradients are summed over all, as they
are summed over a step's tuples. That is why nothing here averages, and why torch's DistributedDataParallel, which does so at
every backward pass, is not in between: its communication (``torch.distributed``) is what it is built on too.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Processes:
    """This process, number ``rank`` of ``count``; one alone needs no other."""

    rank: int = 0
    count: int = 1
    device: torch.device = CPU

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def share_of(self, count: int) -> range:
        """Which of ``count`` items are this process's."""
        return range(self.rank, count, self.count)

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes, the same in each; in place."""
        if self.count > 1:
            moved = values.to(self.device)
            dist.all_reduce(moved)
            values.copy_(moved)
        return values

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace the gradients by their sums over all processes; a missing one counts as zero."""
        if self.count == 1:
            return
        chosen = [p for p in parameters if p.requires_grad]
        # reshape(-1) of a channels-last gradient would be a copy in another order; all processes have the same order.
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in chosen])
        dist.all_reduce(flat)
        for p, part in zip(chosen, flat.split([p.numel() for p in chosen]), strict=True):
            if p.grad is None:
                p.grad = torch.empty_like(p)
            p.grad.copy_(part.view(p.shape))

    def gather_rows(self, rows: np.ndarray, count: int) -> np.ndarray:
        """All ``count`` rows, where each process computed those of :meth:`share_of`: float32 (count, D)."""
        if self.count == 1:
            return rows
        whole = torch.zeros(count, rows.shape[1])
        whole[self.rank :: self.count] = torch.from_numpy(rows)
        return self.sum(whole).numpy()

    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the first one's values; in place."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def join_processes(device: str = "auto") -> Processes:
    """This process among those that ``torchrun`` started, or alone; on its own GPU where there is one."""
    cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return Processes(device=torch.device("cuda" if cuda else "cpu") if device == "auto" else torch.device(device))
    here = torch.device("cpu")
    if cuda:
        here = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(here)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo")
    return Processes(dist.get_rank(), dist.get_world_size(), here)


def leave_processes() -> None:
    """End what :func:`join_processes` began."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()

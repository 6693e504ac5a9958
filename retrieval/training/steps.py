"""One step: the pictures of its tuples, this process's share of the gradients, and a look at whether they are numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.errors import RetrievalError
from retrieval.system.processes import Processes
from retrieval.training.config import TrainingConfig
from retrieval.training.data.augmentation import view_seed
from retrieval.training.data.mining import MinedTuple
from retrieval.training.data.pictures import Unreadable, View
from retrieval.training.data.training_set import TrainingSet
from retrieval.training.network.gradients import listwise_backward, tuple_backward
from retrieval.training.network.learner import Learner

Groups = Iterator[list[np.ndarray] | Unreadable]


class Steps:
    """What a step takes from ``data`` and adds to the gradients of ``learner``; ``lost`` is told of each picture that could
    not be read."""

    def __init__(
        self,
        learner: Learner,
        loss: nn.Module,
        data: TrainingSet,
        config: TrainingConfig,
        processes: Processes,
        *,
        lost: Callable[[int, str], object],
    ) -> None:
        self.learner, self.loss, self.data, self.config, self.processes = learner, loss, data, config, processes
        self.lost = lost

    def views(self, steps: Sequence[Sequence[MinedTuple]], first: int, epoch: int) -> Iterator[list[View]]:
        """The pictures that this process needs, by tuple, from step ``first`` on."""
        place = sum(len(step) for step in steps[:first])
        for step in steps[first:]:
            own = set(self.processes.share_of(len(step)))
            for i, found in enumerate(step):
                if i in own:
                    positions = (found.query, found.positive, *found.negatives)
                    yield [
                        (position, view_seed(self.config.seed, epoch, place + i, view))
                        for view, position in enumerate(positions)
                    ]
            place += len(step)

    def gradients(self, tuples: Sequence[MinedTuple], groups: Groups) -> Tensor:
        """Add the gradients of this process's tuples of a step, whose pictures are the next of ``groups``. Returns for each
        tuple of the step its loss and whether it was used, float64 (T, 2), zeros for those of other processes."""
        return self._listwise(tuples, groups) if self.loss.listwise else self._by_tuple(tuples, groups)

    def _by_tuple(self, tuples: Sequence[MinedTuple], groups: Groups) -> Tensor:
        learner, losses = self.learner, torch.zeros(len(tuples), 2, dtype=torch.float64)
        for i in self.processes.share_of(len(tuples)):
            arrays = next(groups)
            if isinstance(arrays, Unreadable):
                self.lost(arrays.position, arrays.reason)
                continue
            losses[i, 0] = tuple_backward(
                learner.describer, self.loss, arrays, learner.device, self.config.amp, pairs=learner.pairs
            )
            losses[i, 1] = 1
        return losses

    def _listwise(self, tuples: Sequence[MinedTuple], groups: Groups) -> Tensor:
        """The same for a loss over all pictures of the step: the batch of its tuples, each weighing as much as a tuple."""
        learner, losses = self.learner, torch.zeros(len(tuples), 2, dtype=torch.float64)
        arrays: list[np.ndarray] = []
        for i in self.processes.share_of(len(tuples)):
            group = next(groups)
            if isinstance(group, Unreadable):
                self.lost(group.position, group.reason)
                continue
            arrays += group
            losses[i, 1] = 1
        used = self.processes.sum(losses[:, 1].clone()).bool().tolist()
        # Rows of the batch: the used tuples in order; this process's are those of the tuples it decoded.
        width = 2 + self.config.negatives
        kept = [found for found, there in zip(tuples, used, strict=True) if there]
        if not kept:
            return losses
        kept_places = [i for i, there in enumerate(used) if there]
        own = set(self.processes.share_of(len(tuples)))
        rows = torch.tensor(
            [k * width + j for k, i in enumerate(kept_places) if i in own for j in range(width)], dtype=torch.long
        )

        def exchange(part: Tensor) -> Tensor:
            if self.processes.count == 1:
                return part
            whole = torch.zeros(len(kept) * width, learner.spec.dim, device=learner.device)
            whole[rows.to(learner.device)] = part
            return self.processes.sum(whole)

        value = listwise_backward(
            learner.describer,
            self.loss,
            arrays,
            torch.from_numpy(self._labels(kept)),
            learner.device,
            self.config.amp,
            pairs=learner.pairs,
            exchange=exchange,
            own=lambda whole: whole[rows.to(learner.device)],
        )
        for i in self.processes.share_of(len(tuples)):
            losses[i, 0] = value * losses[i, 1]
        return losses

    def _labels(self, tuples: Sequence[MinedTuple]) -> np.ndarray:
        """Which pictures of some tuples are of one class: by cluster; a query and its positive always are."""
        labels: dict[tuple[str, int], int] = {}
        out = []
        for found in tuples:
            label = labels.setdefault(self._class_of(found.query), len(labels))
            out += [label, labels.setdefault(self._class_of(found.positive), label)]
            out += [labels.setdefault(self._class_of(n), len(labels)) for n in found.negatives]
        return np.array(out, np.int64)

    def _class_of(self, position: int) -> tuple[str, int]:
        cluster = int(self.data.clusters[position])
        return ("cluster", cluster) if cluster >= 0 else ("picture", position)

    def require_finite(self, losses: Tensor, tuples: Sequence[MinedTuple], where: str, hint: str) -> None:
        """Raises RetrievalError that names the pictures and ``where``, before anything of it reaches the weights."""
        bad = [found for value, found in zip(losses.tolist(), tuples, strict=True) if not math.isfinite(value)]
        what = "the loss"
        if not bad:
            norms = [p.grad.norm() for p in self.learner.describer.parameters() if p.grad is not None]
            if bool(torch.isfinite(torch.stack(norms).sum())):
                return
            bad, what = list(tuples), "the gradient"
        names = [str(self.data.paths[i]) for found in bad for i in (found.query, found.positive, *found.negatives)]
        pictures = ", ".join(dict.fromkeys(names))
        raise RetrievalError(f"{what} is not a number at {where}, for the pictures {pictures}", hint)

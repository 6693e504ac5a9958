"""The trainer: epochs of mined tuples, steps, checkpoints. What comes before (data, model, folder) is prepared elsewhere.

All that is decided at random follows from (seed, epoch): the draw, what is mined from it, the augmentation of each picture,
torch's random state. So a run that is resumed from a checkpoint in the middle of an epoch goes on as if nothing had been.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from retrieval.errors import DatasetError, UsageError
from retrieval.messages import count_of, human_time
from retrieval.training.config import TrainingConfig
from retrieval.training.data.augmentation import view_seed
from retrieval.training.data.enough import require_clusters
from retrieval.training.data.mining import MinedTuple
from retrieval.training.data.pictures import Pictures, Unreadable, ahead
from retrieval.training.data.training_set import TrainingSet
from retrieval.training.losses import create_loss
from retrieval.training.machine import Machine
from retrieval.training.network.batchnorm import estimate_statistics, freeze_statistics, normalisations
from retrieval.training.network.guard import Guard, probe_positions
from retrieval.training.network.learner import Learner
from retrieval.training.network.live import describe_pictures
from retrieval.training.record.checkpoints import Checkpoints
from retrieval.training.record.journal import Journal
from retrieval.training.record.observers import Observers
from retrieval.training.record.progress import Progress
from retrieval.training.record.run_folder import RunFolder
from retrieval.training.schedule import learning_rate
from retrieval.training.steps import Groups, Steps
from retrieval.training.tuples import mine_epoch
from retrieval.training.validation import Validation

_STATISTICS = 64  # pictures that normalisation statistics are measured on
_STATISTICS_EVERY = 20  # steps, in training from random weights
_TELLING = 3  # steps, at least, after which it can be said how long a run will take
_LONG = 120.0  # seconds that are worth saying
_MOST_LOST = 0.5  # of an epoch's tuples, above which training stops


@dataclass(frozen=True)
class Outcome:
    """How a run ended: figures by epoch, and the best mAP (None without validation) with its epoch (0: before training)."""

    metrics: list[dict[str, Any]]
    best: float | None
    best_epoch: int


class Trainer:
    """Trains ``learner`` on ``data`` as ``config`` says, and keeps what comes of it in ``folder``.

    :meth:`begin` or :meth:`resume` first, then :meth:`run`.
    """

    def __init__(
        self,
        learner: Learner,
        data: TrainingSet,
        config: TrainingConfig,
        folder: RunFolder,
        machine: Machine,
        *,
        validation: Validation | None = None,
        observers: Observers | None = None,
    ) -> None:
        require_clusters(data, config.negatives)
        self.learner, self.data, self.config, self.machine = learner, data, config, machine
        self.validation, self.observers = validation, observers or Observers()
        self.pictures = Pictures(data.paths, learner.rule, config.preset(two_views=data.two_views))
        loss = create_loss(config.loss, **config.loss_parameters(learner.spec.backbone, learner.network.fc is not None))
        self.steps = Steps(
            learner, loss, data, config, machine.processes, lost=lambda i, why: self._leave_out({i: why})
        )
        self.hint = f"The last good checkpoint is kept in {folder.path}; try a lower --lr."
        self.guard = Guard(learner.network, self._probe, hint=self.hint, say=machine.say)
        self.checkpoints = Checkpoints(folder, learner, data, writes=machine.processes.first)
        title = f"{folder.path.name}: {learner.spec.name}"
        self.journal = Journal(folder, config, machine, title=title, watch=self.observers.watch)
        self.progress = Progress()
        self.foretold = False  # whether it has been said how long the run will take

    # ------------------------------------------------------------ the run

    def begin(self) -> None:
        """Measure the model as it is, and keep it as the best so far."""
        self._measure_statistics()
        self.guard.begin()
        self.progress.best = self._validated()
        line = {"epoch": 0, "mAP": self.progress.best, "p": self.learner.exponent()}
        self.journal.begin(line)  # before any model: what is there is of no epoch
        self.checkpoints.save_models(best=True)
        self.checkpoints.save_state(self.progress)
        self.journal.tell(line, self.progress)

    def resume(self) -> None:
        """Go back to the last checkpoint. Raises ModelError where there is none, DatasetError where the data have changed,
        UsageError where it lies beyond the run's last epoch."""
        self.progress = self.checkpoints.load_state()
        if (done := self.progress.epoch + (self.progress.tuples is not None)) > self.config.epochs:
            raise UsageError(f"this run is in epoch {done} already", f"Name --epochs {done} or more.")
        self.journal.back_to(self.progress.epoch)
        self.guard.begin()
        if self.progress.epoch == self.config.epochs:
            self.machine.say(
                f"this run is complete ({count_of(self.config.epochs, 'epoch')}); it goes on with --epochs MORE"
            )
        else:
            self.machine.say(f"resuming at epoch {self.progress.epoch + 1}, step {self.progress.step}")

    def run(self) -> Outcome:
        """All epochs that remain. Raises RetrievalError when the loss is no number any more, DatasetError when too many
        pictures cannot be read, ModelError when a checkpoint cannot be written; the last good checkpoint stays."""
        while self.progress.epoch < self.config.epochs and not self._enough():
            if self.progress.tuples is None:
                self._mine()
            self._train_epoch()
            self._end_epoch()
        self.journal.finish()
        return Outcome(self.journal.lines(), self.progress.best, self.progress.best_epoch)

    def _enough(self) -> bool:
        """Whether early stopping says so."""
        patience = self.config.patience
        if patience is None or self.validation is None or self.progress.epoch - self.progress.best_epoch < patience:
            return False
        self.machine.say(f"stopping: no better mAP in {count_of(patience, 'epoch')}")
        return True

    # ------------------------------------------------------------ an epoch

    def _mine(self) -> None:
        epoch = self.progress.epoch
        mined, reasons = mine_epoch(epoch, self.data, self.pictures, self.learner.engine, self.config, self.machine)
        self._leave_out(reasons)
        if epoch == 0:
            for note in mined.notes:
                self.machine.say(note)
            if self.machine.processes.first:
                self.observers.look(mined, self.pictures.preset)
        self.progress.begin_epoch(mined)
        torch.manual_seed(view_seed(self.config.seed, epoch, 0, 0) % 2**63)
        self.checkpoints.save_state(self.progress)

    def _train_epoch(self) -> None:
        progress, config, tuples = self.progress, self.config, self.progress.tuples or []
        steps = [tuples[i : i + config.tuples_per_step] for i in range(0, len(tuples), config.tuples_per_step)]
        freeze_statistics(self.learner.network)
        views = self.steps.views(steps, progress.step, progress.epoch)
        groups = ahead(views, self.pictures.view, self.machine.workers)
        started, before, first = time.monotonic(), progress.seconds, progress.step
        with self.machine.bars(f"epoch {progress.epoch + 1}/{config.epochs}") as update:
            for step in range(progress.step, len(steps)):
                if step and step % _STATISTICS_EVERY == 0:
                    self._measure_statistics()
                self._step(steps[step], groups, learning_rate(config, progress.epoch, step, len(steps)))
                progress.step = step + 1
                progress.seconds = before + time.monotonic() - started
                if progress.step % config.save_every == 0 and progress.step < len(steps):
                    self.checkpoints.save_state(progress)
                update(progress.trained * (2 + config.negatives), len(tuples) * (2 + config.negatives))
                self._foretell(progress.step, len(steps), progress.seconds - before, progress.step - first)
        if progress.lost > _MOST_LOST * len(tuples):
            raise DatasetError(
                f"{progress.lost} of {count_of(len(tuples), 'tuple')} of epoch {progress.epoch + 1} have pictures "
                "that cannot be read",
                "Mend the training set and continue with --resume.",
            )

    def _foretell(self, step: int, steps: int, seconds: float, taken: int) -> None:
        """Say once, after a twentieth of an epoch, how long the rest of the run will take: ``taken`` steps took ``seconds``."""
        if self.foretold or taken < max(_TELLING, steps // 20):
            return
        self.foretold = True
        left = steps - step + (self.config.epochs - self.progress.epoch - 1) * steps
        if (wait := left * seconds / taken) > _LONG:
            end = f"the end of {count_of(self.config.epochs, 'epoch')}, beside mining and validation"
            self.machine.say(f"about {human_time(wait)} to {end} (--epochs, --size and --queries decide)")

    def _step(self, tuples: Sequence[MinedTuple], groups: Groups, rate: float) -> None:
        """Add up the gradients of some tuples, whose pictures are the next of ``groups``, and move the weights by them."""
        processes, progress = self.machine.processes, self.progress
        losses = processes.sum(self.steps.gradients(tuples, groups))
        used = int(losses[:, 1].sum())
        if used:
            where = f"epoch {progress.epoch + 1}, step {progress.step + 1}"
            processes.sum_gradients(self.learner.network.parameters())
            self.steps.require_finite(losses[:, 0], tuples, where, self.hint)
            self.learner.step(rate)
            self.guard.after_step(where)
            self.learner.update_average()
        self.learner.clear_gradients()
        progress.loss += float(losses[:, 0].sum())
        progress.trained += used
        progress.lost += len(tuples) - used

    def _end_epoch(self) -> None:
        progress, learner = self.progress, self.learner
        self._measure_statistics()
        self.guard.after_epoch(f"epoch {progress.epoch + 1}")
        score, rate = self._validated(), learning_rate(self.config, progress.epoch, 0, 1)
        line = self.journal.figures(progress, score=score, exponent=learner.exponent(), rate=rate)
        better = progress.end_epoch(score)
        self.checkpoints.save_models(best=better)
        self.journal.add(line)
        self.checkpoints.save_state(progress)
        self.journal.tell(line, progress)

    # ------------------------------------------------------------ looks at the network as it is

    def _validated(self) -> float | None:
        """mAP of the weights that would be kept, None without validation."""
        if self.validation is None:
            return None
        with self.learner.kept():
            return self.validation.mean_average_precision(self.learner.engine, self.learner.rule, self.machine)

    def _probe(self) -> tuple[np.ndarray, list[bool]]:
        """Descriptors of a few pictures, in each process, and which of them can be read."""
        chosen = probe_positions(len(self.data))
        load, engine = self.pictures.load, self.learner.engine
        found, reasons = describe_pictures(chosen, load, engine, workers=self.machine.workers)
        return found, [int(position) not in reasons for position in chosen]

    def _measure_statistics(self) -> None:
        """For weights that began at random: measure what normalisations divide by, for the weights as they are now."""
        layers, progress, seed = normalisations(self.learner.network), self.progress, self.config.seed
        if not (self.learner.random_start and layers):
            return
        drawn = np.random.default_rng([seed, progress.epoch, progress.step, 0xB4]).permutation(len(self.data))
        views = [(int(i), view_seed(seed, progress.epoch, int(i), 0)) for i in drawn[:_STATISTICS]]
        groups = ahead([[view] for view in views], self.pictures.view, self.machine.workers)
        arrays = [group[0] for group in groups if not isinstance(group, Unreadable)]
        estimate_statistics(self.learner.describer, arrays, self.learner.device)
        self.machine.processes.share(buffer for layer in layers for buffer in layer.buffers())

    def _leave_out(self, reasons: Mapping[int, str]) -> None:
        """Say of pictures that cannot be read that they are left out, once of each."""
        for position, why in reasons.items():
            if position not in self.progress.bad:
                self.progress.bad[position] = why
                self.machine.say(f"left out: {self.data.paths[position]}: {why}")

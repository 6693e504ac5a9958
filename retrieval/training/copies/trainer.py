"""Steps of the recipe "copies": pairs drawn and altered by seed, losses over the batch, checkpoints that resume exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from retrieval.describe.model import Model
from retrieval.errors import DatasetError, ImageError, ModelError, RetrievalError
from retrieval.messages import count_of
from retrieval.models.checkpoint import save_checkpoint
from retrieval.models.network import Describer, RetrievalNetwork, l2_normalise
from retrieval.models.spec import ModelSpec
from retrieval.system.heap import keep_freed_memory
from retrieval.training.copies.config import CopiesConfig
from retrieval.training.copies.curves import plot_steps
from retrieval.training.copies.feed import CopyFeed
from retrieval.training.copies.losses import info_nce, koleo, partners_found, similarity_gap
from retrieval.training.copies.memory import backward_in_chunks
from retrieval.training.copies.momentum import MomentumEncoder
from retrieval.training.copies.things import Things
from retrieval.training.machine import Machine
from retrieval.training.network.batchnorm import estimate_statistics, freeze_statistics, normalisations
from retrieval.training.network.frozen_folding import foldable
from retrieval.training.network.optimiser import exponents, mean_exponent
from retrieval.training.record.drawing import Seldom
from retrieval.training.record.run_folder import RunFolder
from retrieval.training.record.state import by_part, optimiser_tensors, read_state, restore_optimiser, write_state

_P_RATE = 10.0  # multiple of the learning rate for the pooling's exponent
_LOG_EVERY = 10  # steps
_STATISTICS_EVERY = 20  # steps, in training from random weights
_TIMED = (3, 13)  # steps, between which the speed is measured that --hours are counted by


class CopiesTrainer:
    """Trains ``network``, which ``spec`` describes. :meth:`resume` where there is a checkpoint, then :meth:`run`.
    ``teacher``: the model of that name in ``config``."""

    def __init__(
        self,
        network: RetrievalNetwork,
        spec: ModelSpec,
        things: Things,
        config: CopiesConfig,
        folder: RunFolder,
        machine: Machine,
        *,
        teacher: Model | None = None,
    ) -> None:
        keep_freed_memory()
        self.network, self.spec, self.things, self.config, self.folder = network, spec, things, config, folder
        self.machine, self.device = machine, machine.processes.device
        self.describer = Describer(network, replace(spec.image, scales=(1.0,)))
        self.describer.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.head = make_head(spec.dim, config.head, config.seed).to(self.device)
        self.optimiser = _optimiser(network, self.head, config)
        self.folds = foldable(network, self.device)
        self.old = MomentumEncoder(self.describer, self.head, config) if config.momentum else None
        self.teacher = teacher
        # Random weights came with no statistics of normalisation: these are measured on copies, and frozen in between.
        self.measures = spec.weights.id.startswith("random:") and bool(normalisations(network))
        self.feed = CopyFeed(things, config, spec.image, machine.workers)
        self.step = 0
        self.steps = config.steps
        self.seconds = 0.0
        self._drawing = Seldom()
        self.bad: set[int] = set()

    # ------------------------------------------------------------ the run

    def run(self) -> Path:
        """All steps that remain; returns the model's file. Raises RetrievalError when the loss is no number any more,
        DatasetError when too few pictures can be read; the last checkpoint stays."""
        freeze_statistics(self.network)
        batches = self.feed.batches(self.step, lambda: self.steps)
        started, before, mark = time.monotonic(), self.seconds, (self.step, time.monotonic())
        with self.machine.bars("training") as update:
            while self.steps is None or self.step < self.steps:
                figures = self._train(next(batches))
                self.step += 1
                self.seconds = before + time.monotonic() - started
                if self.steps is None:
                    self._count_out(started)
                done = self.step == self.steps
                if self.step % _LOG_EVERY == 0 or done or self.step == 1:
                    steps, since = self.step - mark[0], time.monotonic() - mark[1]
                    mark = (self.step, time.monotonic())
                    self._note({**figures, "pairs_per_second": round(steps * self.config.pairs / since, 2)})
                if self.steps is not None and (self.step % self.config.save_every == 0 or done):
                    self.save()
                update(self.step, self.steps or self.step)
        batches.close()
        if self._drawing.left():
            self._draw(self.folder.metrics())
        self._save_model(self.folder.best)
        return self.folder.best

    def _count_out(self, started: float) -> None:
        """From the speed of the first steps to the number of all: from then on nothing depends on the clock."""
        first, last = _TIMED
        if self.step == first:
            self._timed = time.monotonic()
        if self.step == last:
            assert self.config.hours is not None
            a_step = (time.monotonic() - self._timed) / (last - first)
            # A picture of the last third costs as much more as it has more pixels.
            longer = ((self.config.last_size or self.config.size) / self.config.size) ** 2
            left = 3600 * self.config.hours - (time.monotonic() - started)
            self.steps = last + max(1, math.floor(left / (a_step * (2 + longer) / 3)))
            self.machine.say(
                f"{self.config.hours:g} hours are {count_of(self.steps, 'step')}; the same again: --steps {self.steps}"
            )

    def _train(self, made: list[np.ndarray | ImageError]) -> dict[str, Any]:
        """One step; returns its figures."""
        pairs, jobs = self.feed.step(self.step, self.steps)
        count = len(pairs)
        fine = []
        for i in range(count):
            broken = [j for j in (i, i + count) if isinstance(made[j], ImageError)]
            for j in broken:
                self._note_unreadable(jobs[j][0], str(made[j]))
            if not broken:
                fine.append(i)
        if len(fine) < max(2, count // 2):
            raise DatasetError(
                f"{count - len(fine)} of {count} pairs of step {self.step + 1} have pictures that cannot be read",
                "Mend the pictures and continue with --resume.",
            )
        arrays = [array for side in (0, count) for i in fine if isinstance(array := made[i + side], np.ndarray)]
        rate = rate_at(self.config, self.step, self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimiser.zero_grad(set_to_none=True)
        parts: dict[str, float] = {}
        wanted = None if self.teacher is None else torch.from_numpy(taught(self.teacher, arrays)).to(self.device)

        def loss_of(descriptors: Tensor) -> Tensor:
            first, second = l2_normalise(self.head(descriptors)).split(len(fine))
            queue = None if self.old is None else self.old.queue
            contrast = info_nce(first, second, self.config.temperature, queue)
            spread = (koleo(first) + koleo(second)) / 2
            parts.update(info_nce=float(contrast.detach()), koleo=float(spread.detach()))
            parts["found"] = partners_found(first, second)
            total = contrast + self.config.koleo * spread
            if wanted is not None:
                gap = similarity_gap(l2_normalise(descriptors), wanted)
                parts["teacher_gap"] = float(gap.detach())
                total = total + self.config.teacher_weight * gap
            return total

        if self.measures and self.step % _STATISTICS_EVERY == 0:
            estimate_statistics(self.describer, arrays, self.device)
        loss = backward_in_chunks(self.describer, arrays, loss_of, self.config.chunk, self.folds, amp=self.config.amp)
        if not math.isfinite(loss):
            raise RetrievalError(
                f"the loss of step {self.step + 1} is {loss}",
                f"The last good checkpoint is kept in {self.folder.path}; try a lower --lr.",
            )
        self.optimiser.step()
        if self.measures and self.step + 1 == self.steps:
            estimate_statistics(self.describer, arrays, self.device)
        if self.old is not None:
            self.old.follow(arrays)
        return {"step": self.step + 1, "loss": loss, **parts, "lr": rate, "pairs": len(fine)}

    def _note_unreadable(self, position: int, why: str) -> None:
        if position not in self.bad:
            self.bad.add(position)
            self.machine.say(f"left out: {self.things.paths[position]}: {why}")

    def _note(self, figures: dict[str, Any]) -> None:
        if (mean := mean_exponent(self.network)) is not None:
            figures["p"] = mean
        figures["seconds"] = round(self.seconds, 1)
        lines = [line for line in self.folder.metrics() if line["step"] < figures["step"]] + [figures]
        self.folder.write_metrics(lines)
        self.machine.say(
            f"step {figures['step']}/{self.steps or '?'}: loss {figures['loss']:.4f}, partners found "
            f"{100 * figures['found']:.1f} %, p {figures.get('p', math.nan):.3f}, {figures['pairs_per_second']} pairs/s"
        )

    # ------------------------------------------------------------ checkpoints

    def save(self) -> None:
        """The model and all that the next step depends on, into ``last/``, and the curves."""
        self._save_model(self.folder.last)
        tensors = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        tensors |= {f"head/{name}": value for name, value in self.head.state_dict().items()}
        tensors |= {f"optimiser/{name}": value for name, value in optimiser_tensors(self.optimiser).items()}
        if self.old is not None:
            tensors |= {f"old/{name}": value for name, value in self.old.state().items()}
        facts = {
            "spec": self.spec.to_dict(),
            "things": self.things.digest,
            "teacher": None if self.teacher is None else self.teacher.fingerprint,
            "step": self.step,
            "steps": self.steps,
            "seconds": self.seconds,
        }
        write_state(self.folder.state, tensors, facts)
        if (lines := self.folder.metrics()) and self._drawing.due():
            self._draw(lines)

    def _draw(self, lines: list[dict[str, Any]]) -> None:
        plot_steps(lines, self.folder.curves, f"{self.folder.path.name}: {self.spec.name}")

    def resume(self) -> None:
        """Go back to the last checkpoint. Raises ModelError where there is none, DatasetError where the data have changed."""
        tensors, facts = read_state(self.folder.state)
        if facts.get("teacher") != (None if self.teacher is None else self.teacher.fingerprint):
            raise ModelError(f"{self.config.teacher} is not the teacher that this run was begun with")
        if facts.get("things") != self.things.digest:
            raise DatasetError(f"{self.config.data} is not what this run was begun with: its pictures changed")
        parts = by_part(tensors)
        self.network.load_state_dict(parts["network"])
        self.head.load_state_dict(parts["head"])
        restore_optimiser(self.optimiser, parts["optimiser"])
        if self.old is not None:
            self.old.restore(parts["old"])
        self.step, self.steps, self.seconds = facts["step"], facts["steps"], facts["seconds"]
        self.folder.write_metrics([line for line in self.folder.metrics() if line["step"] <= self.step])
        self.machine.say(f"resuming after step {self.step}")

    def _save_model(self, path: Path) -> None:
        from safetensors import SafetensorError

        origin = f"{self.spec.weights.id} trained on copies in {self.folder.path.name}".replace("random:", "random ")
        try:
            save_checkpoint(self.network, self.spec, path, origin=origin)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"the checkpoint {path} cannot be written ({error}); the one before is kept") from error


def taught(teacher: Model, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """A teacher's descriptors (N, D) of pictures as they are, uint8 (H, W, 3): not at its own size, but at the training's."""
    engine = teacher.engine()
    return np.concatenate([engine.describe(array[None]) for array in arrays])


def make_head(dim: int, outputs: int, seed: int) -> nn.Module:
    """The linear layer that training has and the model has not: orthogonal rows at first, so that it begins by keeping
    cosines as well as ``outputs`` dimensions can. With 0 outputs: none."""
    if outputs == 0:
        return nn.Identity()
    layer = nn.Linear(dim, outputs, bias=False)
    with torch.no_grad():
        nn.init.orthogonal_(layer.weight, generator=torch.Generator().manual_seed(seed))
    return layer


def rate_at(config: CopiesConfig, step: int, steps: int | None) -> float:
    """The learning rate of a step counted from 0: a rise over ``warmup`` steps times a cosine to zero at the end."""
    rate = config.lr * min(1.0, (step + 1) / max(1.0, config.warmup))
    return rate if steps is None else rate * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def _optimiser(network: nn.Module, head: nn.Module, config: CopiesConfig) -> torch.optim.Optimizer:
    """AdamW; the pooling's exponent moves faster and without decay, which would pull it to 0."""
    powers = [p for p in exponents(network) if isinstance(p, nn.Parameter)]
    apart = {id(p) for p in powers}
    rest = [p for p in (*network.parameters(), *head.parameters()) if id(p) not in apart]
    groups: list[dict[str, Any]] = [{"params": rest, "factor": 1.0, "weight_decay": config.weight_decay}]
    if powers:
        groups.append({"params": powers, "factor": _P_RATE, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=config.lr)

"""The trainer: epochs of mined tuples, steps, checkpoints. What comes before (data, model, folder) is prepared elsewhere.

All that is decided at random follows from (seed, epoch): the draw, what is mined from it, the augmentation of each picture,
torch's random state. So a run that is resumed from a checkpoint in the middle of an epoch goes on as if nothing had been.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from retrieval.errors import DatasetError, ModelError
from retrieval.messages import Bars, no_bars
from retrieval.models.checkpoint import save_checkpoint
from retrieval.models.network import Describer, RetrievalNetwork
from retrieval.models.spec import ModelSpec
from retrieval.system.heap import keep_freed_memory
from retrieval.system.processes import Processes
from retrieval.training.augmentation import view_seed
from retrieval.training.batchnorm import estimate_statistics, normalisations
from retrieval.training.checkpoints import Progress, digest, load_state, save_state
from retrieval.training.config import TrainingConfig, default_margin
from retrieval.training.curves import plot_curves
from retrieval.training.frozen_folding import find_pairs
from retrieval.training.guard import hold_in_range, probe_positions, require_apart, require_finite_weights, spread
from retrieval.training.losses import create_loss
from retrieval.training.mining import Mined, draw_epoch, mine, require_clusters
from retrieval.training.optimiser import (
    WeightAverage,
    create_optimiser,
    exponents,
    freeze_statistics,
    learning_rate,
    set_learning_rate,
)
from retrieval.training.pictures import (
    LiveEngine,
    Pictures,
    Unreadable,
    ahead,
    decode_workers,
    describe_pictures,
    evaluating,
)
from retrieval.training.run_folder import RunFolder
from retrieval.training.sources import TrainingSet
from retrieval.training.steps import Steps
from retrieval.training.validation import Validation

_STATISTICS = 64  # pictures that normalisation statistics are measured on
_STATISTICS_EVERY = 20  # steps, in training from random weights
_MOST_LOST = 0.5  # of an epoch's tuples, above which training stops

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: figures by epoch, and the best mAP (None without validation) with its epoch (0: before training)."""

    metrics: list[dict[str, Any]]
    best: float | None
    best_epoch: int


class Trainer:
    """Trains ``network``, which ``spec`` describes, on ``data``; ``random_start``: its weights have never been trained.

    :meth:`begin` or :meth:`resume` first, then :meth:`run`.
    """

    def __init__(
        self,
        network: RetrievalNetwork,
        spec: ModelSpec,
        data: TrainingSet,
        config: TrainingConfig,
        folder: RunFolder,
        *,
        validation: Validation | None = None,
        processes: Processes | None = None,
        random_start: bool = False,
        workers: int | None = None,
        say: Say = lambda line: None,
        bars: Bars = no_bars,
        watch: Callable[[dict[str, Any]], object] = lambda line: None,
        look: Callable[[Mined, str], object] = lambda mined, preset: None,
    ) -> None:
        require_clusters(data, config.negatives)
        self.processes = processes or Processes()
        self.device = self.processes.device
        keep_freed_memory()
        self.network, self.spec, self.data, self.config, self.folder = network, spec, data, config, folder
        self.validation, self.random_start = validation, random_start
        self.workers = decode_workers(workers)
        self.say = say if self.processes.first else lambda line: None
        self.bars = bars if self.processes.first else no_bars
        self.watch, self.look = watch, look
        self.rule = replace(spec.image, size=config.size, scales=(1.0,))
        self.preset = config.augment or ("views" if data.two_views else "light")
        self.pictures = Pictures(data.paths, self.rule, self.preset)
        self.describer = Describer(network, self.rule).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.engine = LiveEngine(network, self.rule, self.device, spec.dim)
        self.optimiser = create_optimiser(network, config)
        self.average = WeightAverage(network, config.ema) if config.ema else None
        sample = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).to(self.device)
        with evaluating(network):
            pairs = find_pairs(network.backbone, sample)
        self.steps = Steps(
            self.describer,
            create_loss(config.loss, **self._loss_parameters()),
            data,
            config,
            self.processes,
            pairs=pairs,
            dim=spec.dim,
            lost=lambda position, why: self._note_unreadable({position: why}),
        )
        self.progress = Progress()
        self.spread = math.nan  # between descriptors, where this process began
        self._told_held = False

    def _loss_parameters(self) -> dict[str, float]:
        whitened = self.network.fc is not None
        margin = self.config.margin
        if margin is None:
            margin = default_margin(self.config.loss, self.spec.backbone, whitened)
        return {} if margin is None else {"margin": margin}

    # ------------------------------------------------------------ the run

    def begin(self) -> None:
        """Measure the model as it is, and keep it as the best so far."""
        self._estimate_statistics()
        self.spread = spread(self._probed()[0])
        self.progress.best = self._validated()
        line = {"epoch": 0, "mAP": self.progress.best, "p": self._exponent()}
        if self.processes.first:
            self._save_model(self.folder.best)
            self._save_model(self.folder.last)
            self.folder.write_metrics([line])
            self._save_state()
        self._tell(line)

    def resume(self) -> None:
        """Go back to the last checkpoint. Raises ModelError where there is none, DatasetError where the data have changed."""
        self.progress, facts = load_state(self.folder.state, self.network, self.optimiser, self.average, self.device)
        if facts["data"] != digest(self.data):
            raise DatasetError(f"{self.data.name} is not what this run was begun with: its pictures or classes changed")
        if self.processes.first:  # what was written after the checkpoint comes again
            self.folder.write_metrics([line for line in self.folder.metrics() if line["epoch"] <= self.progress.epoch])
        self.spread = spread(self._probed()[0])
        self.say(f"resuming at epoch {self.progress.epoch + 1}, step {self.progress.step}")

    def run(self) -> Outcome:
        """All epochs that remain. Raises RetrievalError when the loss is no number any more, DatasetError when too many
        pictures cannot be read, ModelError when a checkpoint cannot be written; the last good checkpoint stays."""
        while self.progress.epoch < self.config.epochs and not self._enough():
            if self.progress.tuples is None:
                self._mine()
            self._train_epoch()
            self._end_epoch()
        return Outcome(
            self.folder.metrics() if self.processes.first else [], self.progress.best, self.progress.best_epoch
        )

    def _enough(self) -> bool:
        """Whether early stopping says so."""
        patience = self.config.patience
        if patience is None or self.validation is None or self.progress.epoch - self.progress.best_epoch < patience:
            return False
        self.say(f"stopping: no better mAP in {patience} epochs")
        return True

    # ------------------------------------------------------------ an epoch

    def _mine(self) -> None:
        config, progress = self.config, self.progress
        draw = draw_epoch(self.data, queries=config.queries, pool=config.pool, seed=config.seed, epoch=progress.epoch)
        wanted = np.concatenate([draw.pairs[:, 0], draw.pool, *([draw.pairs[:, 1]] if config.repick else [])])
        vectors, reasons = self._described(wanted)
        if len(reasons) == len(np.unique(wanted)):
            why = next(iter(reasons.values()))
            raise DatasetError(f"{self.data.name}: none of the pictures drawn can be described: {why}")
        self._note_unreadable(reasons)
        queries, pool = len(draw.pairs), len(draw.pool)
        mined = mine(
            self.data,
            draw,
            vectors[:queries],
            vectors[queries : queries + pool],
            negatives=config.negatives,
            positive_descriptors=vectors[queries + pool :] if config.repick else None,
            repick_positives=config.repick,
        )
        if progress.epoch == 0:
            for note in mined.notes:
                self.say(note)
            if self.processes.first:
                self.look(mined, self.preset)
        self.progress = Progress(
            epoch=progress.epoch,
            tuples=mined.tuples,
            negative_distance=mined.negative_distance,
            best=progress.best,
            best_epoch=progress.best_epoch,
            bad=progress.bad,
        )
        torch.manual_seed(view_seed(config.seed, progress.epoch, 0, 0) % 2**63)
        if self.processes.first:
            self._save_state()

    def _described(self, positions: np.ndarray) -> tuple[np.ndarray, dict[int, str]]:
        """Descriptors of pictures by the network as it is, each process doing its share."""
        different, rows = np.unique(positions, return_inverse=True)
        own = different[self.processes.rank :: self.processes.count]
        with self.bars(f"epoch {self.progress.epoch + 1}: mining") as update:
            found, reasons = describe_pictures(
                own, self.pictures.load, self.engine, workers=self.workers, update=update
            )
        return self.processes.gather_rows(found, len(different))[rows], reasons

    def _note_unreadable(self, reasons: dict[int, str]) -> None:
        for position, why in reasons.items():
            if position not in self.progress.bad:
                self.progress.bad[position] = why
                self.say(f"left out: {self.data.paths[position]}: {why}")

    def _estimate_statistics(self) -> None:
        """For weights that began at random: measure what normalisations divide by, for the weights as they are now."""
        if not (self.random_start and normalisations(self.network)):
            return
        progress, seed = self.progress, self.config.seed
        chosen = np.random.default_rng([seed, progress.epoch, progress.step, 0xB4]).permutation(len(self.data))[
            :_STATISTICS
        ]
        views = [(int(i), view_seed(seed, progress.epoch, int(i), 0)) for i in chosen]
        groups = ahead([[view] for view in views], self.pictures.view, self.workers)
        estimate_statistics(self.describer, [g[0] for g in groups if not isinstance(g, Unreadable)], self.device)
        self.processes.share(buffer for layer in normalisations(self.network) for buffer in layer.buffers())

    def _train_epoch(self) -> None:
        progress, config, tuples = self.progress, self.config, self.progress.tuples or []
        size = config.tuples_per_step
        steps = [tuples[i : i + size] for i in range(0, len(tuples), size)]
        freeze_statistics(self.network)
        groups = ahead(self.steps.views(steps, progress.step, progress.epoch), self.pictures.view, self.workers)
        started, before = time.monotonic(), progress.seconds
        with self.bars(f"epoch {progress.epoch + 1}/{config.epochs}") as update:
            for step in range(progress.step, len(steps)):
                if step and step % _STATISTICS_EVERY == 0:
                    self._estimate_statistics()
                rate = learning_rate(config, progress.epoch, step, len(steps))
                losses = self.processes.sum(self.steps.gradients(steps[step], groups))
                if bool(losses[:, 1].any()):
                    self.processes.sum_gradients(self.network.parameters())
                    where = f"epoch {progress.epoch + 1}, step {step + 1}"
                    self.steps.require_finite(losses[:, 0], steps[step], where, self._kept_hint())
                    set_learning_rate(self.optimiser, rate)
                    self.optimiser.step()
                    self._hold(where)
                    if self.average is not None:
                        self.average.update(self.network)
                # Room for gradients is taken once, however many tuples are added.
                self.optimiser.zero_grad(set_to_none=False)
                progress.loss += float(losses[:, 0].sum())
                progress.trained += int(losses[:, 1].sum())
                progress.lost += len(steps[step]) - int(losses[:, 1].sum())
                progress.step = step + 1
                progress.seconds = before + time.monotonic() - started
                if progress.step % config.save_every == 0 and progress.step < len(steps) and self.processes.first:
                    self._save_state()
                update(progress.trained * (2 + config.negatives), len(tuples) * (2 + config.negatives))
        if progress.lost > _MOST_LOST * len(tuples):
            raise DatasetError(
                f"{progress.lost} of {len(tuples)} tuples of epoch {progress.epoch + 1} have pictures that cannot be read",
                "Mend the training set and continue with --resume.",
            )

    def _kept_hint(self) -> str:
        return f"The last good checkpoint is kept in {self.folder.path}; try a lower --lr."

    def _hold(self, where: str) -> None:
        """What a step may have broken: exponents go back into their range, weights must be numbers."""
        require_finite_weights(self.network, where, self._kept_hint())
        if hold_in_range(self.network) and not self._told_held:
            self._told_held = True
            self.say(f"warning: an exponent p left its range at {where} and is held at its border; try a lower --p-lr")

    def _probed(self) -> tuple[np.ndarray, list[bool]]:
        """Descriptors of a few pictures by the network as it is, in each process, and which of them can be read."""
        chosen = probe_positions(len(self.data))
        found, reasons = describe_pictures(chosen, self.pictures.load, self.engine, workers=self.workers)
        return found, [int(position) not in reasons for position in chosen]

    # ------------------------------------------------------------ between epochs

    def _end_epoch(self) -> None:
        progress = self.progress
        self._estimate_statistics()
        require_apart(self.spread, *self._probed(), f"epoch {progress.epoch + 1}", self._kept_hint())
        progress.epoch += 1
        line: dict[str, Any] = {
            "epoch": progress.epoch,
            "loss": progress.loss / max(1, progress.trained),
            "mAP": self._validated(),
            "p": self._exponent(),
            "lr": learning_rate(self.config, progress.epoch - 1, 0, 1),
            "negative_distance": progress.negative_distance,
            "tuples": progress.trained,
            "lost_tuples": progress.lost,
            "seconds": round(progress.seconds, 3),
            "images_per_second": round(progress.trained * (2 + self.config.negatives) / max(progress.seconds, 1e-9), 2),
        }
        score = line["mAP"]
        better = score is None or progress.best is None or score > progress.best
        if better:
            progress.best, progress.best_epoch = score, progress.epoch
        progress.step, progress.tuples = 0, None
        if self.processes.first:
            if better:
                self._save_model(self.folder.best)
            self._save_model(self.folder.last)
            lines = [kept for kept in self.folder.metrics() if kept["epoch"] < progress.epoch]
            self.folder.write_metrics([*lines, line])
            plot_curves([*lines, line], self.folder.curves, f"{self.folder.path.name}: {self.spec.name}")
            self.watch(line)
            self._save_state()
        self._tell(line)

    def _validated(self) -> float | None:
        """mAP of the weights that would be kept, None without validation."""
        if self.validation is None:
            return None
        averaged = nullcontext() if self.average is None else self.average.in_place_of(self.network)
        with self.bars("validation") as update, averaged:
            return self.validation.mean_average_precision(
                self.engine, self.rule, self.processes, workers=self.workers, update=update
            )

    def _exponent(self) -> float | str | None:
        """The mean exponent of the poolings, "inf" for a maximum, None where there is none."""
        found = exponents(self.network)
        if not found:
            return None
        mean = float(torch.cat([p.detach().flatten().float().cpu() for p in found]).mean())
        return mean if math.isfinite(mean) else "inf"

    def _tell(self, line: dict[str, Any]) -> None:
        parts = [] if "loss" not in line else [f"loss {line['loss']:.4f}"]
        if line["mAP"] is not None:
            best = "" if self.progress.best_epoch == line["epoch"] else f" (best {100 * (self.progress.best or 0):.2f})"
            parts.append(f"mAP {100 * line['mAP']:.2f}{best}")
        if isinstance(line["p"], float):
            parts.append(f"p {line['p']:.4f}")
        if "seconds" in line:
            parts.append(f"{line['images_per_second']:.1f} images/s, {line['seconds']:.0f} s")
        label = f"epoch {line['epoch']}/{self.config.epochs}" if line["epoch"] else "before training"
        self.say(f"{label}: {', '.join(parts)}" if parts else label)

    # ------------------------------------------------------------ checkpoints

    def _save_model(self, path: Any) -> None:
        from safetensors import SafetensorError

        origin = f"{self.spec.weights.id} trained in {self.folder.path.name}".replace("random:", "random ")
        averaged = nullcontext() if self.average is None else self.average.in_place_of(self.network)
        try:
            with averaged:
                save_checkpoint(self.network, self.spec, path, origin=origin)
        except SafetensorError as error:  # how a full disk shows
            raise ModelError(f"could not write the checkpoint {path}: {error}") from error

    def _save_state(self) -> None:
        save_state(
            self.folder.state, self.network, self.optimiser, self.average, self.progress, self.device, self._facts()
        )

    def _facts(self) -> dict[str, Any]:
        return {"spec": self.spec.to_dict(), "random_start": self.random_start, "data": digest(self.data)}

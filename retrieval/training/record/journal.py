"""The figures of a run, epoch by epoch: written into its folder, drawn, and told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from retrieval.training.config import TrainingConfig
from retrieval.training.machine import Machine
from retrieval.training.record.curves import plot_curves
from retrieval.training.record.drawing import Seldom
from retrieval.training.record.progress import Progress
from retrieval.training.record.run_folder import RunFolder

Line = dict[str, Any]
"""The figures of one epoch, by name; epoch 0 is the model before training."""


class Journal:
    """Lines of figures for ``folder``; ``watch`` is handed each as it is written, ``title`` stands above the curves. Only the
    first process writes and speaks."""

    def __init__(
        self,
        folder: RunFolder,
        config: TrainingConfig,
        machine: Machine,
        *,
        title: str = "",
        watch: Callable[[Line], object] = lambda line: None,
    ) -> None:
        self.folder, self.config, self.machine, self.title, self.watch = folder, config, machine, title, watch
        self.writes = machine.processes.first
        self._drawing = Seldom()

    def lines(self) -> list[Line]:
        """All so far; none in a process that does not write."""
        return self.folder.metrics() if self.writes else []

    def begin(self, line: Line) -> None:
        """The first line."""
        if self.writes:
            self.folder.write_metrics([line])

    def back_to(self, epoch: int) -> None:
        """Forget what was written after the checkpoint at ``epoch``: it comes again."""
        if self.writes:
            self.folder.write_metrics([line for line in self.folder.metrics() if line["epoch"] <= epoch])

    def add(self, line: Line) -> None:
        """One more line, in place of what an earlier try wrote of its epoch."""
        if self.writes:
            lines = [*(kept for kept in self.folder.metrics() if kept["epoch"] < line["epoch"]), line]
            self.folder.write_metrics(lines)
            if self._drawing.due():
                plot_curves(lines, self.folder.curves, self.title)
            self.watch(line)

    def finish(self) -> None:
        """The curves to the last line."""
        if self._drawing.left():
            plot_curves(self.folder.metrics(), self.folder.curves, self.title)

    def figures(self, progress: Progress, *, score: float | None, exponent: float | str | None, rate: float) -> Line:
        """The line of the epoch that ``progress`` is at the end of."""
        pictures = progress.trained * (2 + self.config.negatives)
        return {
            "epoch": progress.epoch + 1,
            "loss": progress.loss / max(1, progress.trained),
            "mAP": score,
            "p": exponent,
            "lr": rate,
            "negative_distance": progress.negative_distance,
            "tuples": progress.trained,
            "lost_tuples": progress.lost,
            "seconds": round(progress.seconds, 3),
            "images_per_second": round(pictures / max(progress.seconds, 1e-9), 2),
        }

    def tell(self, line: Line, progress: Progress) -> None:
        """Say what a line holds."""
        parts = [] if "loss" not in line else [f"loss {line['loss']:.4f}"]
        if line["mAP"] is not None:
            best = "" if progress.best_epoch == line["epoch"] else f" (best {100 * (progress.best or 0):.2f})"
            parts.append(f"mAP {100 * line['mAP']:.2f}{best}")
        if isinstance(line["p"], float):
            parts.append(f"p {line['p']:.4f}")
        if "seconds" in line:
            parts.append(f"{line['images_per_second']:.1f} images/s, {line['seconds']:.0f} s")
        label = f"epoch {line['epoch']}/{self.config.epochs}" if line["epoch"] else "before training"
        self.machine.say(f"{label}: {', '.join(parts)}" if parts else label)

"""The folder of a run: its configuration, where it ran, its figures by epoch, plots and checkpoints.

::

    config.json          everything that decides the result; `retrieve train --config` repeats it
    environment.json     versions and machine
    metrics.jsonl        a line for each epoch, epoch 0 being the model before training
    curves.png           loss, mAP and the exponent p over the epochs
    best.safetensors     the model of the best epoch: `--model runs/x` means this one
    last/                model.safetensors of the last epoch, and state.safetensors, from which the run is resumed
    left_out.json        training pictures that were too close to a benchmark's queries, if any
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from retrieval.errors import ModelError, UsageError
from retrieval.files.whole import write_whole
from retrieval.training.config import TrainingConfig


class Form(Protocol):
    """A configuration that can be written down."""

    def to_json(self) -> str: ...


class RunFolder:
    """``RunFolder.create`` begins a run, ``RunFolder.open`` finds one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.metrics_file = path / "metrics.jsonl"
        self.curves = path / "curves.png"
        self.best = path / "best.safetensors"
        self.last = path / "last" / "model.safetensors"
        self.state = path / "last" / "state.safetensors"
        self.left_out_file = path / "left_out.json"
        self.tensorboard = path / "tensorboard"

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Form, environment: Mapping[str, Any]) -> RunFolder:
        """A new run. Raises UsageError where the folder holds anything, ModelError where it cannot be written."""
        folder = cls(Path(path))
        folder.require_free()
        try:
            (folder.path / "last").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(f"{folder.path} cannot be made ({error.strerror})") from error
        folder._write(folder.path / "environment.json", json.dumps(environment, indent=1) + "\n")
        folder.write_config(config)
        return folder

    def write_config(self, config: Form) -> None:
        """Write down what the run is asked to do, in place of what it was. Raises ModelError."""
        self._write(self.config_file, config.to_json())

    def require_free(self) -> None:
        """Raises UsageError where there is a run, or anything else, in the folder."""
        if self.config_file.exists():
            raise UsageError(
                f"{self.path} holds a run already", f"Continue it with --resume {self.path}, or name another --out."
            )
        if self.path.is_file() or (self.path.is_dir() and any(self.path.iterdir())):
            raise UsageError(f"{self.path} is not an empty folder", "Name another --out.")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> tuple[RunFolder, TrainingConfig]:
        folder = cls(Path(path))
        if not folder.config_file.is_file():
            raise UsageError(f"{folder.path} holds no run: there is no config.json")
        return folder, TrainingConfig.load(folder.config_file)

    def metrics(self) -> list[dict[str, Any]]:
        """The figures of each epoch so far. A last line that a kill cut off does not count."""
        found = []
        if self.metrics_file.is_file():
            for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
                try:
                    found.append(json.loads(line))
                except (ValueError, RecursionError):
                    break
        return found

    def write_metrics(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Replace the figures; a kill leaves the old ones or the new ones."""
        self._write(self.metrics_file, "".join(json.dumps(line) + "\n" for line in lines))

    def write_left_out(self, form: Mapping[str, Any]) -> None:
        self._write(self.left_out_file, json.dumps(form, indent=1) + "\n")

    def left_out(self) -> dict[str, Any]:
        """What :meth:`write_left_out` was given; empty where nothing was left out."""
        if not self.left_out_file.is_file():
            return {}
        try:
            return json.loads(self.left_out_file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{self.left_out_file} is damaged ({error})") from error

    @staticmethod
    def _write(path: Path, text: str) -> None:
        try:
            write_whole(path, text)
        except OSError as error:
            raise ModelError(f"{path} cannot be written ({error.strerror})") from error

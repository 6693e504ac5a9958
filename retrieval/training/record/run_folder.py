"""The folder of a run: its configuration, where it ran, its figures by epoch, plots and checkpoints.

::

    config.json          everything that decides the result; `retrieve train --config` repeats it
    environment.json     versions and machine
    metrics.jsonl        a line for each epoch, epoch 0 being the model before training
    curves.png           loss, mAP and the exponent p over the epochs
    best.safetensors     the model of the best epoch: `--model runs/x` means this one
    last/                model.safetensors of the last epoch, and state.safetensors, from which the run is resumed
    left_out.json        training pictures that were too close to a benchmark's queries, if any; left_out_*.jpg show them

A run that ends before its first checkpoint leaves the first of these files and no state. Such a folder is free again: the same
command begins anew in it, if no other process is preparing a run there.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from retrieval.errors import ModelError, UsageError
from retrieval.files.whole import UNFINISHED, remove_unfinished, write_whole
from retrieval.training.config import TrainingConfig

_LEFT_OUT_SHEET = re.compile(r"left_out_.*\.jpg")


class Form(Protocol):
    """A configuration that can be written down."""

    def to_json(self) -> str: ...


class RunFolder:
    """``RunFolder.create`` begins a run, and holds the folder against a second one until :meth:`close`; ``RunFolder.open`` finds
    one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.environment_file = path / "environment.json"
        self.metrics_file = path / "metrics.jsonl"
        self.curves = path / "curves.png"
        self.best = path / "best.safetensors"
        self.last = path / "last" / "model.safetensors"
        self.state = path / "last" / "state.safetensors"
        self.left_out_file = path / "left_out.json"
        self.tensorboard = path / "tensorboard"
        self._held: int | None = None

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Form, environment: Mapping[str, Any]) -> RunFolder:
        """A new run. Raises UsageError where the folder is not free, ModelError where it cannot be written."""
        folder = cls(Path(path))
        folder.require_free()
        try:
            folder._clear()
            folder.state.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ModelError(f"{folder.path} cannot be made ({error.strerror})") from error
        folder._write(folder.environment_file, json.dumps(environment, indent=1) + "\n")
        folder.write_config(config)
        folder._hold()
        return folder

    def close(self) -> None:
        """The run has ended, or begun well: hold the folder no longer."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def write_config(self, config: Form) -> None:
        """Write down what the run is asked to do, in place of what it was. Raises ModelError."""
        self._write(self.config_file, config.to_json())

    def require_free(self) -> None:
        """Raises UsageError where there is a run, or anything else, in the folder. What a run left that came to no checkpoint
        does not count."""
        if self.state.is_file():
            raise UsageError(
                f"{self.path} holds a run already", f"Continue it with --resume {self.path}, or name another --out."
            )
        if self.path.is_file() or (others := self._others()):
            named = (
                "" if self.path.is_file() else f": it holds {', '.join(others[:3])}{' and more' * (len(others) > 3)}"
            )
            raise UsageError(f"{self.path} is not an empty folder{named}", "Name another --out.")
        if self._is_held():
            raise UsageError(f"another process is preparing a run in {self.path}", "Name another --out.")

    def require_begun(self) -> None:
        """Raises ModelError where there is no checkpoint to go on from."""
        if self.state.is_file():
            return
        if self.path.is_dir() and not self._others():
            again = f"Begin it again: the same command as before, or --config {self.config_file} --out {self.path}."
            raise ModelError(f"the run in {self.path} came to no checkpoint: there is nothing to resume", again)
        raise ModelError(f"{self.state} is not there: nothing to resume", "Name another --out for a new run.")

    def _others(self) -> list[str]:
        """What is in the folder besides what a run leaves that came to no checkpoint: names below it.

        Each file of a run counts as one only together with those that are written before it, and models only while the figures
        say that nothing was trained: a finished run whose state was taken away is none that may be written over.
        """
        if not self.path.is_dir():
            return []
        found = {place.relative_to(self.path).as_posix() for place in (*self.path.glob("*"), *self.path.glob("last/*"))}
        ours = {name for name in found if UNFINISHED.fullmatch(name.removeprefix("last/"))}
        if self.last.parent.is_dir():
            ours |= {"last", self.environment_file.name}
        if self.environment_file.name in found:
            ours.add(self.config_file.name)
        if {self.environment_file.name, self.config_file.name} <= found:
            ours |= {self.left_out_file.name, *filter(_LEFT_OUT_SHEET.fullmatch, found)}
            if self._nothing_trained():
                ours |= {self.metrics_file.name, self.best.name, f"last/{self.last.name}"}
        return sorted(found - ours)

    def _nothing_trained(self) -> bool:
        """Whether there are figures, and none of an epoch or a step."""
        if not self.metrics_file.is_file():
            return False
        lines = self.metrics_file.read_bytes().count(b"\n")
        return lines == 0 or (lines == 1 and [line.get("epoch") for line in self.metrics()] == [0])

    def _clear(self) -> None:
        """Take away what :meth:`require_free` passed over and a new run might not write anew; models first, since they are
        known by the figures."""
        sheets = [place for place in self.path.glob("left_out_*") if _LEFT_OUT_SHEET.fullmatch(place.name)]
        for file in (self.best, self.last, self.metrics_file, self.left_out_file, *sheets):
            file.unlink(missing_ok=True)
        for place in (self.path, self.last.parent):
            remove_unfinished(place)

    def _hold(self) -> None:
        """Until it is closed, or its process ends. Where the file system has no locks nothing is held."""
        try:
            self._held = os.open(self.config_file, os.O_RDWR)
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()

    def _is_held(self) -> bool:
        try:
            file = os.open(self.config_file, os.O_RDWR)
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(file)
        return False

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> tuple[RunFolder, TrainingConfig]:
        """A run that is there, and what it was asked to do. Raises UsageError where there is none."""
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

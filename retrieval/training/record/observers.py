"""Who looks on while a run goes: a sheet of the first epoch's tuples, and tensorboard."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.errors import UsageError
from retrieval.training.data.mining import Mined
from retrieval.training.data.preview import preview_sheet
from retrieval.training.data.training_set import TrainingSet
from retrieval.views.sheet import save_sheet

_SHOWN = ("loss", "mAP", "p", "lr", "negative_distance", "images_per_second")


@dataclass(frozen=True)
class Observers:
    """``look`` gets the tuples of the first epoch and the preset that their pictures are augmented by; ``watch`` the figures
    of each epoch."""

    look: Callable[[Mined, str], object] = lambda mined, preset: None
    watch: Callable[[dict[str, Any]], object] = lambda line: None


def sheet_into(
    preview: str | os.PathLike[str], data: TrainingSet, *, seed: int, exif: bool
) -> Callable[[Mined, str], object]:
    """A ``look`` that draws the first tuples into the picture file ``preview``. It raises UsageError where that cannot be
    written."""

    def look(mined: Mined, preset: str) -> None:
        save_sheet(preview_sheet(data, mined, preset=preset, seed=seed, epoch=0, exif=exif), preview)

    return look


def board_in(folder: Path) -> Callable[[dict[str, Any]], object]:
    """A ``watch`` that keeps tensorboard's logs in ``folder``. Raises UsageError where tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            f"--tensorboard needs the package tensorboard ({error})", "Install it: pip install tensorboard."
        ) from error
    writer: list[Any] = []

    def watch(line: dict[str, Any]) -> None:
        if not writer:  # what an interrupted run wrote beyond its checkpoint is hidden
            writer.append(SummaryWriter(str(folder), purge_step=line["epoch"]))
        for key in _SHOWN:
            if isinstance(line.get(key), int | float):
                writer[0].add_scalar(key, line[key], line["epoch"])
        writer[0].flush()

    return watch

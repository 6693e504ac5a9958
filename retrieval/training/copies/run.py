"""A run of the recipe "copies", from its configuration to a model, at the start or after an interruption."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch

from retrieval.describe.model import Model, load_model
from retrieval.errors import UsageError
from retrieval.messages import Bars, Say, count_of, no_bars, say_nothing
from retrieval.models.loading import build_network, empty_network
from retrieval.models.spec import ModelSpec
from retrieval.system.environment import environment
from retrieval.system.processes import Processes
from retrieval.training.copies.config import CopiesConfig
from retrieval.training.copies.feed import preview_pairs
from retrieval.training.copies.things import read_things
from retrieval.training.copies.trainer import CopiesTrainer
from retrieval.training.data.pictures import decode_workers
from retrieval.training.machine import Machine
from retrieval.training.network.half import require_half_precision
from retrieval.training.record.run_folder import RunFolder
from retrieval.training.record.state import read_state


def train_copies(
    config: CopiesConfig,
    out: str | os.PathLike[str],
    *,
    workers: int | None = None,
    preview: str | os.PathLike[str] | None = None,
    say: Say = say_nothing,
    bars: Bars = no_bars,
) -> Path:
    """Train as ``config`` says, into the new folder ``out``; returns the model's file.

    ``workers``: threads that alter pictures; ``preview``: a picture file for a sheet of the first step's pairs. Raises
    UsageError for what cannot be asked, DatasetError for data that cannot be used, ModelError for models and checkpoints.
    """
    folder, config = RunFolder(Path(out)), config.anchored()
    require_half_precision(config.amp)
    folder.require_free()
    model = load_model(config.model, say=say)
    if config.model == "auto":  # which model that is may change
        config = replace(config, model=model.spec.name)
    teacher = _teacher(config, say)
    if config.teacher == "auto":
        config = replace(config, teacher=teacher.spec.name if teacher else None)
    if model.spec.whitening is not None:
        raise UsageError(f"{config.model} is whitened", "Train the model that it was made of, and whiten the result.")
    things = read_things([config.data, *config.also])
    say(f"{count_of(len(things.single), 'picture')}, and {count_of(len(things.groups), 'group')} of views")
    network = build_network(model.spec, model.checkpoint)
    with closing(RunFolder.create(folder.path, config, environment())) as folder:
        machine = _machine(workers, say, bars)
        trainer = CopiesTrainer(network, model.spec, things, config, folder, machine, teacher=teacher)
        if preview is not None:
            preview_pairs(trainer.feed, trainer.steps, preview)
        folder.write_metrics([])  # before any model: what is there is of no step
        trainer.save()
        return trainer.run()


def resume_copies(
    out: str | os.PathLike[str], *, workers: int | None = None, say: Say = say_nothing, bars: Bars = no_bars
) -> Path:
    """Continue the run in ``out`` from its last checkpoint to its end. Errors are those of :func:`train_copies`."""
    folder = RunFolder(Path(out))
    config = CopiesConfig.load(folder.config_file)
    folder.require_begun()
    require_half_precision(config.amp)
    _, facts = read_state(folder.state)
    spec = ModelSpec.from_dict(facts["spec"])
    things = read_things([config.data, *config.also])
    machine, teacher = _machine(workers, say, bars), _teacher(config, say)
    trainer = CopiesTrainer(empty_network(spec), spec, things, config, folder, machine, teacher=teacher)
    trainer.resume()
    return trainer.run()


def _machine(workers: int | None, say: Say, bars: Bars) -> Machine:
    """One process, on a GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Machine(Processes(device=device), decode_workers(workers), say, bars)


def _teacher(config: CopiesConfig, say: Say) -> Model | None:
    return None if config.teacher is None else load_model(config.teacher, say=say)

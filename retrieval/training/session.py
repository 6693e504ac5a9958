"""A run from its configuration: data, model and folder made ready for the trainer, at the start or after an interruption."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np

from retrieval.describe.model import load_model
from retrieval.errors import UsageError
from retrieval.messages import Bars, Say, no_bars, say_nothing
from retrieval.models.loading import build_network, empty_network
from retrieval.models.spec import ModelSpec
from retrieval.system.environment import environment
from retrieval.training.avoiding import avoid_leaks
from retrieval.training.config import TrainingConfig
from retrieval.training.data.enough import require_clusters
from retrieval.training.data.sources import read_training_set
from retrieval.training.held_out import split
from retrieval.training.machine import joined
from retrieval.training.network.learner import Learner
from retrieval.training.network.whitening_layer import add_whitening_layer
from retrieval.training.record.observers import Observers, board_in, sheet_into
from retrieval.training.record.run_folder import RunFolder
from retrieval.training.record.state import read_state
from retrieval.training.trainer import Outcome, Trainer
from retrieval.training.validation import validation_of

_HOW_TO_VALIDATE = "--validate names a share of the classes or a ground truth (0.1 by itself, of 20 classes or more)"


def train(
    config: TrainingConfig,
    out: str | os.PathLike[str],
    *,
    device: str = "auto",
    workers: int | None = None,
    preview: str | os.PathLike[str] | None = None,
    tensorboard: bool = False,
    say: Say = say_nothing,
    bars: Bars = no_bars,
) -> Outcome:
    """Train as ``config`` says, into the new folder ``out``, and return how it went.

    ``workers``: threads that decode pictures; ``preview``: a picture file for a sheet of the first epoch's tuples;
    ``tensorboard``: keep logs for it too. Under ``torchrun`` each process calls this. Raises UsageError for what cannot be
    asked, DatasetError for data that cannot be used, ModelError for models and checkpoints.
    """
    folder, config = RunFolder(Path(out)), config.anchored()
    config.require_possible(device)
    with joined(device, workers, say, bars) as machine, ExitStack() as held_open:
        processes, say = machine.processes, machine.say
        if processes.first:
            folder.require_free()
        data = read_training_set(config.data, kind=config.kind, images=config.images)
        for note in data.notes:
            say(note)
        model = load_model(config.model, say=say)
        if config.model == "auto":
            config = replace(config, model=model.spec.name)
        _require_trainable(model.spec, config)
        data, held = split(data, config, say)
        require_clusters(data, config.negatives, held)
        validation = validation_of(config, model.spec, held)
        how = "" if config.validate == "none" else f"; {_HOW_TO_VALIDATE}"
        say(f"validation: {validation.about if validation else f'none, so the last epoch is kept as the best{how}'}")
        if processes.first:
            folder = RunFolder.create(folder.path, config, {**environment(), "processes": processes.count})
            held_open.callback(folder.close)
        data = avoid_leaks(data, config, model, folder, machine)
        network = build_network(model.spec, model.checkpoint)
        if config.size != model.spec.image.size:
            say(
                f"trained at {config.size} pixels; the model will describe at {model.spec.image.size}, as it did before, "
                "where --size says nothing else"
            )
        spec = add_whitening_layer(network, model.spec, data, config, machine)
        observers = Observers()
        if preview is not None:
            observers = replace(observers, look=sheet_into(preview, data, seed=config.seed, exif=spec.image.exif))
        if tensorboard:
            observers = replace(observers, watch=board_in(folder.tensorboard))
        untrained = model.spec.weights.id.startswith("random:")
        learner = Learner(network, spec, config, processes.device, random_start=untrained)
        trainer = Trainer(learner, data, config, folder, machine, validation=validation, observers=observers)
        trainer.begin()
        return trainer.run()


def resume(
    out: str | os.PathLike[str],
    *,
    epochs: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    tensorboard: bool = False,
    say: Say = say_nothing,
    bars: Bars = no_bars,
) -> Outcome:
    """Continue the run in ``out`` from its last checkpoint to its end. Errors are those of :func:`train`.

    ``epochs``: where it ends from now on, of which the run's configuration is changed. With a schedule that does not look
    at the end (all but cosine), a run made longer has the weights of one that was begun that long.
    """
    folder, config = RunFolder.open(out)
    folder.require_begun()
    if epochs is not None:
        config = replace(config, epochs=epochs)
    config.require_possible(device)
    with joined(device, workers, say, bars) as machine:
        _, facts = read_state(folder.state)
        spec = ModelSpec.from_dict(facts["spec"])
        data, held = split(read_training_set(config.data, kind=config.kind, images=config.images), config, say_nothing)
        left_out = set(folder.left_out().get("pictures", ()))
        data = data.subset(np.array([str(path) not in left_out for path in data.paths], bool))
        observers = Observers()
        if tensorboard or folder.tensorboard.is_dir():
            observers = Observers(watch=board_in(folder.tensorboard))
        untrained = facts["random_start"]
        learner = Learner(empty_network(spec), spec, config, machine.processes.device, random_start=untrained)
        validation = validation_of(config, spec, held)
        trainer = Trainer(learner, data, config, folder, machine, validation=validation, observers=observers)
        trainer.resume()
        if epochs is not None and machine.processes.first:
            folder.write_config(config)
        return trainer.run()


def _require_trainable(spec: ModelSpec, config: TrainingConfig) -> None:
    kind = None if spec.whitening is None else spec.whitening.get("kind")
    if kind not in (None, "fc"):
        raise UsageError(f"{config.model} is whitened", "Train the model that it was made of, and whiten the result.")
    if kind == "fc" and config.whiten_layer is not None:
        raise UsageError(f"{config.model} has a whitening layer already", "Leave out --whiten-layer.")

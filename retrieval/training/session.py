"""A run from its configuration: data, model and folder made ready for the trainer, at the start or after an interruption."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from retrieval.datasets.groundtruth import load_groundtruth
from retrieval.describe.model import Model, load_model
from retrieval.errors import UsageError
from retrieval.messages import Bars, no_bars, say_nothing
from retrieval.models.loading import build_network, empty_network
from retrieval.models.network import RetrievalNetwork
from retrieval.models.spec import ModelSpec
from retrieval.models.whitening import fit_pairs
from retrieval.system.environment import environment
from retrieval.system.processes import Processes, join_processes, leave_processes
from retrieval.training.augmentation import require_preset
from retrieval.training.config import TrainingConfig
from retrieval.training.leaks import check_leaks, leak_sheet
from retrieval.training.losses import create_loss
from retrieval.training.mining import Mined, draw_epoch, require_clusters
from retrieval.training.pictures import LiveEngine, Pictures, decode_workers, describe_pictures
from retrieval.training.preview import preview_sheet
from retrieval.training.run_folder import RunFolder
from retrieval.training.sources import TrainingSet, hold_out, read_training_set
from retrieval.training.state import read_state
from retrieval.training.trainer import Outcome, Say, Trainer
from retrieval.training.validation import HeldOut, OnTruth, Validation

_LW_PAIRS = 20_000  # that a whitening layer starts from


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
    _check(config, device)
    processes = join_processes(device)
    try:
        if processes.first:
            folder.require_free()
        else:
            say, bars = say_nothing, no_bars
        data = read_training_set(config.data, kind=config.kind, images=config.images)
        for note in data.notes:
            say(note)
        model = load_model(config.model, say=say)
        if config.model == "auto":
            config = replace(config, model=model.spec.name)
        _check_trainable(model.spec, config)
        data, held = _split(data, config, say)
        require_clusters(data, config.negatives)
        validation = _validation(config, model.spec, held)
        say(f"validation: {validation.about if validation else 'none, so the last epoch is kept as the best'}")
        if processes.first:
            folder = RunFolder.create(folder.path, config, {**environment(), "processes": processes.count})
        data = _avoid(data, config, model, folder, processes, say, bars)
        network, spec = _network(model, data, config, processes, workers, say, bars)
        look, watch = _looks(data, config, spec, folder, preview, tensorboard)
        trainer = Trainer(
            network,
            spec,
            data,
            config,
            folder,
            validation=validation,
            processes=processes,
            random_start=model.spec.weights.id.startswith("random:"),
            workers=workers,
            say=say,
            bars=bars,
            watch=watch,
            look=look,
        )
        trainer.begin()
        return trainer.run()
    finally:
        leave_processes()


def resume(
    out: str | os.PathLike[str],
    *,
    device: str = "auto",
    workers: int | None = None,
    tensorboard: bool = False,
    say: Say = say_nothing,
    bars: Bars = no_bars,
) -> Outcome:
    """Continue the run in ``out`` from its last checkpoint to its end. Errors are those of :func:`train`."""
    folder, config = RunFolder.open(out)
    _check(config, device)
    if int(os.environ.get("RANK", "0")) > 0:
        say, bars = say_nothing, no_bars
    _, facts = read_state(folder.state)
    data, held = _split(read_training_set(config.data, kind=config.kind, images=config.images), config, say_nothing)
    left_out = set(folder.left_out().get("pictures", ()))
    data = data.subset(np.array([str(path) not in left_out for path in data.paths], bool))
    spec = ModelSpec.from_dict(facts["spec"])
    validation = _validation(config, spec, held)
    processes = join_processes(device)
    try:
        _, watch = _looks(data, config, spec, folder, None, tensorboard or folder.tensorboard.is_dir())
        trainer = Trainer(
            empty_network(spec),
            spec,
            data,
            config,
            folder,
            validation=validation,
            processes=processes,
            random_start=facts["random_start"],
            workers=workers,
            say=say,
            bars=bars,
            watch=watch,
        )
        trainer.resume()
        return trainer.run()
    finally:
        leave_processes()


# ---------------------------------------------------------------- what a run needs


def _check(config: TrainingConfig, device: str) -> None:
    """What can be known to be wrong before anything is read."""
    if config.augment is not None:
        require_preset(config.augment)
    create_loss(config.loss, **({} if config.margin is None else {"margin": config.margin}))
    if config.amp and (device == "cpu" or not torch.cuda.is_available()):
        raise UsageError("--amp needs a CUDA device, and there is none here", "Leave it out.")


def _check_trainable(spec: ModelSpec, config: TrainingConfig) -> None:
    kind = None if spec.whitening is None else spec.whitening.get("kind")
    if kind not in (None, "fc"):
        raise UsageError(f"{config.model} is whitened", "Train the model that it was made of, and whiten the result.")
    if kind == "fc" and config.whiten_layer is not None:
        raise UsageError(f"{config.model} has a whitening layer already", "Leave out --whiten-layer.")


def _split(data: TrainingSet, config: TrainingConfig, say: Say) -> tuple[TrainingSet, TrainingSet | None]:
    """What is trained on, and what is held out of it, if anything."""
    if config.truth is not None:
        return data, None
    clusters = len(np.unique(data.clusters[data.clusters >= 0]))
    share = 0.0 if config.validate is None and data.two_views else config.share_held_out(clusters)
    if share == 0 or config.validate == "none":
        return data, None
    if data.two_views:
        raise UsageError("unlabelled pictures have nothing to validate on", "Name a ground truth with --validate.")
    kept, held = hold_out(data, share, config.seed)
    say(f"training on {len(kept):,} pictures; {len(held):,} are held out for validation")
    return kept, held


def _validation(config: TrainingConfig, spec: ModelSpec, held: TrainingSet | None) -> Validation | None:
    if held is not None:
        return HeldOut(held)
    if config.truth is None:
        return None
    made = OnTruth(load_groundtruth(config.truth))
    made.check(spec.image)
    return made


def _avoid(
    data: TrainingSet,
    config: TrainingConfig,
    model: Model,
    folder: RunFolder,
    processes: Processes,
    say: Say,
    bars: Bars,
) -> TrainingSet:
    """The training set without what is too close to a benchmark's queries; a list and sheets of it go to the folder."""
    if not config.avoid:
        return data
    # Random weights see nothing: then the best model at hand looks.
    looking = load_model("auto") if model.spec.weights.id.startswith("random:") else model
    keep = np.ones(len(data), bool)
    for path in config.avoid:
        truth = load_groundtruth(path)
        with bars(f"avoiding {truth.name}") as update:
            found = check_leaks(
                truth,
                data,
                looking,
                config.avoid_above,
                whole_clusters=bool(len(data.pairs)),
                progress=update,
            )
        for note in found.notes:
            say(note)
        keep &= found.keep
        if found.leaks and processes.first:
            leak_sheet(truth, data, found.leaks).save(folder.path / f"left_out_{truth.name.replace(os.sep, '_')}.jpg")
    if processes.first:
        gone = [str(path) for path, kept in zip(data.paths, keep, strict=True) if not kept]
        folder.write_left_out({"above": config.avoid_above, "model": looking.spec.name, "pictures": gone})
    return data.subset(keep)


def _network(
    model: Model,
    data: TrainingSet,
    config: TrainingConfig,
    processes: Processes,
    workers: int | None,
    say: Say,
    bars: Bars,
) -> tuple[RetrievalNetwork, ModelSpec]:
    """Where training starts: the model, with a whitening layer on top where one is asked for."""
    network, spec = build_network(model.spec, model.checkpoint), model.spec
    if config.whiten_layer is None:
        return network, spec
    draw = draw_epoch(data, queries=_LW_PAIRS, pool=1, seed=config.seed, epoch=0)
    rule = replace(spec.image, size=config.size, scales=(1.0,))
    pictures = Pictures(data.paths, rule)
    engine = LiveEngine(network, rule, processes.device, spec.dim)
    with bars("whitening layer") as update:
        vectors, _ = describe_pictures(
            draw.pairs.reshape(-1), pictures.load, engine, workers=decode_workers(workers), update=update
        )
    vectors = vectors.reshape(len(draw.pairs), 2, -1)
    fine = np.isfinite(vectors).all(axis=(1, 2))
    different, rows = np.unique(draw.pairs[fine].reshape(-1), return_inverse=True)
    table = np.empty((len(different), spec.dim), np.float32)
    table[rows] = vectors[fine].reshape(-1, spec.dim)
    try:
        learned = fit_pairs(table, [(int(a), int(b)) for a, b in rows.reshape(-1, 2)], config.whiten_layer)
    except UsageError as error:
        raise UsageError(error.message, "Take more data, or leave out --whiten-layer.") from error
    network.fc = nn.Linear(spec.dim, config.whiten_layer)
    with torch.no_grad():
        network.fc.weight.copy_(torch.from_numpy(learned.projection))
        network.fc.bias.copy_(torch.from_numpy(learned.bias))
    processes.share(network.fc.parameters())
    say(f"a whitening layer to {config.whiten_layer} dimensions starts from {int(fine.sum()):,} pairs")
    return network, replace(
        spec, dim=config.whiten_layer, whitening={"kind": "fc", "dim": config.whiten_layer, "normalised": True}
    )


def _looks(
    data: TrainingSet,
    config: TrainingConfig,
    spec: ModelSpec,
    folder: RunFolder,
    preview: str | os.PathLike[str] | None,
    tensorboard: bool,
) -> tuple[Callable[[Mined, str], object], Callable[[dict[str, Any]], object]]:
    """What is done with the first epoch's tuples, and with every epoch's figures."""

    def look(mined: Mined, preset: str) -> None:
        if preview is not None:
            sheet = preview_sheet(data, mined, preset=preset, seed=config.seed, epoch=0, exif=spec.image.exif)
            try:
                sheet.save(preview)
            except (OSError, ValueError) as error:
                raise UsageError(f"the preview {preview} cannot be written ({error})") from error

    if not tensorboard:
        return look, lambda line: None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UsageError(
            f"--tensorboard needs the package tensorboard ({error})", "Install it: pip install tensorboard."
        ) from error
    writer: list[Any] = []

    def watch(line: dict[str, Any]) -> None:
        if not writer:  # what an interrupted run wrote beyond its checkpoint is hidden
            writer.append(SummaryWriter(str(folder.tensorboard), purge_step=line["epoch"]))
        for key in ("loss", "mAP", "p", "lr", "negative_distance", "images_per_second"):
            if isinstance(line.get(key), int | float):
                writer[0].add_scalar(key, line[key], line["epoch"])
        writer[0].flush()

    return look, watch

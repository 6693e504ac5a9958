"""Training pictures that a benchmark's queries resemble too much, left out of a run."""

from __future__ import annotations

import os

import numpy as np

from retrieval.datasets.reading import load_groundtruth
from retrieval.describe.model import Model, load_model
from retrieval.training.config import TrainingConfig
from retrieval.training.data.leaks import check_leaks, leak_sheet
from retrieval.training.data.training_set import TrainingSet
from retrieval.training.machine import Machine
from retrieval.training.record.run_folder import RunFolder


def avoid_leaks(
    data: TrainingSet, config: TrainingConfig, model: Model, folder: RunFolder, machine: Machine
) -> TrainingSet:
    """``data`` without what is too close to the queries of the ground truths that ``config`` names. A list of it and sheets go
    to ``folder``."""
    if not config.avoid:
        return data
    # Random weights see nothing: then the best model at hand looks.
    looking = load_model("auto") if model.spec.weights.id.startswith("random:") else model
    keep = np.ones(len(data), bool)
    first = machine.processes.first
    for path in config.avoid:
        truth = load_groundtruth(path)
        with machine.bars(f"avoiding {truth.name}") as update:
            found = check_leaks(
                truth,
                data,
                looking,
                config.avoid_above,
                whole_clusters=bool(len(data.pairs)),
                progress=update,
            )
        for note in found.notes:
            machine.say(note)
        keep &= found.keep
        if found.leaks and first:
            leak_sheet(truth, data, found.leaks).save(folder.path / f"left_out_{truth.name.replace(os.sep, '_')}.jpg")
    if first:
        gone = [str(path) for path, kept in zip(data.paths, keep, strict=True) if not kept]
        folder.write_left_out({"above": config.avoid_above, "model": looking.spec.name, "pictures": gone})
    return data.subset(keep)

"""A run's checkpoint: weights, optimiser, averages, where the run is and torch's random state, as tensors and facts."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from retrieval.models.network import RetrievalNetwork
from retrieval.training.mining import MinedTuple
from retrieval.training.optimiser import WeightAverage
from retrieval.training.sources import TrainingSet
from retrieval.training.state import optimiser_tensors, read_state, restore_optimiser, write_state


@dataclass
class Progress:
    """How far a run is: ``epoch`` (from 0) and ``step`` in it; ``tuples`` of this epoch once mined; sums over its steps."""

    epoch: int = 0
    step: int = 0
    tuples: list[MinedTuple] | None = None
    loss: float = 0.0
    trained: int = 0  # tuples
    lost: int = 0  # tuples, for a picture that could not be read
    seconds: float = 0.0  # of training steps
    negative_distance: float = math.nan
    best: float | None = None
    best_epoch: int = 0
    bad: dict[int, str] = field(default_factory=dict)  # pictures that could not be read


def save_state(
    path: Path,
    network: RetrievalNetwork,
    optimiser: torch.optim.Optimizer,
    average: WeightAverage | None,
    progress: Progress,
    device: torch.device,
    facts: Mapping[str, Any],
) -> None:
    """Write all that the next step depends on, and ``facts`` about the run. Raises ModelError."""
    tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"optimiser/{name}": value for name, value in optimiser_tensors(optimiser).items()}
    tensors["run/random"] = torch.get_rng_state()
    if device.type == "cuda":
        tensors["run/random_cuda"] = torch.cuda.get_rng_state(device)
    if average is not None:
        tensors |= {f"average/{name}": value for name, value in average.weights.items()}
    if progress.tuples is not None:
        tensors["run/tuples"] = torch.tensor([[t.query, t.positive, *t.negatives] for t in progress.tuples])
    own = {
        "place": asdict(replace(progress, tuples=None)),
        "average_steps": average.steps if average is not None else 0,
    }
    write_state(path, tensors, {**own, **facts})


def load_state(
    path: Path,
    network: RetrievalNetwork,
    optimiser: torch.optim.Optimizer,
    average: WeightAverage | None,
    device: torch.device,
) -> tuple[Progress, dict[str, Any]]:
    """Put everything back as :func:`save_state` found it; returns where the run was, and its facts. Raises ModelError."""
    tensors, facts = read_state(path)
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "optimiser": {}, "average": {}, "run": {}}
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = value
    network.load_state_dict(parts["network"])
    restore_optimiser(optimiser, parts["optimiser"])
    if average is not None:
        for name, value in average.weights.items():
            value.copy_(parts["average"][name])
        average.steps = facts["average_steps"]
    place = facts["place"]
    table = parts["run"].get("tuples")
    place["tuples"] = None if table is None else [MinedTuple(q, p, tuple(n)) for q, p, *n in table.tolist()]
    place["bad"] = {int(position): why for position, why in place["bad"].items()}
    torch.set_rng_state(parts["run"]["random"])
    if "random_cuda" in parts["run"] and device.type == "cuda":
        torch.cuda.set_rng_state(parts["run"]["random_cuda"], device)
    return Progress(**place), facts


def digest(data: TrainingSet) -> str:
    """A hash over a training set's pictures, clusters and pairs: which they are, not what they show."""
    found = hashlib.blake2b("\0".join(map(str, data.paths)).encode("utf-8", "surrogateescape"), digest_size=16)
    found.update(np.ascontiguousarray(data.clusters).tobytes() + np.ascontiguousarray(data.pairs).tobytes())
    return found.hexdigest()

"""A whitening layer on top of a network, which starts as a whitening learned from the training pairs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from retrieval.errors import UsageError
from retrieval.messages import count_of
from retrieval.models.network import RetrievalNetwork
from retrieval.models.spec import ModelSpec
from retrieval.models.whitening import fit_pairs
from retrieval.training.config import TrainingConfig
from retrieval.training.data.mining import draw_epoch
from retrieval.training.data.pictures import Pictures
from retrieval.training.data.training_set import TrainingSet
from retrieval.training.machine import Machine
from retrieval.training.network.live import LiveEngine, describe_pictures

_PAIRS = 20_000  # that it starts from


def add_whitening_layer(
    network: RetrievalNetwork, spec: ModelSpec, data: TrainingSet, config: TrainingConfig, machine: Machine
) -> ModelSpec:
    """Put a layer of ``config.whiten_layer`` outputs onto ``network``, and return the specification that it has then.

    Without such a number nothing happens. Raises UsageError where the pairs are too few to learn a whitening from.
    """
    if config.whiten_layer is None:
        return spec
    draw = draw_epoch(data, queries=_PAIRS, pool=1, seed=config.seed, epoch=0)
    rule = replace(spec.image, size=config.size, scales=(1.0,))
    engine = LiveEngine(network, rule, machine.processes.device, spec.dim)
    with machine.bars("whitening layer") as update:
        vectors, _ = describe_pictures(
            draw.pairs.reshape(-1), Pictures(data.paths, rule).load, engine, workers=machine.workers, update=update
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
    machine.processes.share(network.fc.parameters())
    machine.say(
        f"a whitening layer to {config.whiten_layer} dimensions starts from {count_of(int(fine.sum()), 'pair')}"
    )
    return replace(
        spec, dim=config.whiten_layer, whitening={"kind": "fc", "dim": config.whiten_layer, "normalised": True}
    )

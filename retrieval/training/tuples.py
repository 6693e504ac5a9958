"""The tuples of an epoch: drawn, described by the network as it is, mined."""

from __future__ import annotations

import numpy as np

from retrieval.errors import DatasetError
from retrieval.training.config import TrainingConfig
from retrieval.training.data.mining import Mined, draw_epoch, mine
from retrieval.training.data.pictures import Pictures
from retrieval.training.data.training_set import TrainingSet
from retrieval.training.machine import Machine
from retrieval.training.network.live import LiveEngine, describe_together


def mine_epoch(
    epoch: int, data: TrainingSet, pictures: Pictures, engine: LiveEngine, config: TrainingConfig, machine: Machine
) -> tuple[Mined, dict[int, str]]:
    """The tuples of ``epoch`` (from 0), and the drawn pictures that this process could not describe, with reasons.

    Each process describes its share; all mine the same. Raises DatasetError where none of the pictures can be described.
    """
    draw = draw_epoch(data, queries=config.queries, pool=config.pool, seed=config.seed, epoch=epoch)
    wanted = np.concatenate([draw.pairs[:, 0], draw.pool, *([draw.pairs[:, 1]] if config.repick else [])])
    vectors, reasons = describe_together(wanted, pictures.load, engine, machine, f"epoch {epoch + 1}: mining")
    if len(reasons) == len(np.unique(wanted)):
        why = next(iter(reasons.values()))
        raise DatasetError(f"{data.name}: none of the pictures drawn can be described: {why}")
    queries, pool = len(draw.pairs), len(draw.pool)
    mined = mine(
        data,
        draw,
        vectors[:queries],
        vectors[queries : queries + pool],
        negatives=config.negatives,
        positive_descriptors=vectors[queries + pool :] if config.repick else None,
        repick_positives=config.repick,
    )
    return mined, reasons

"""The learning rate over time."""

from __future__ import annotations

import math

from retrieval.training.config import TrainingConfig

_EPOCH_DECAY = 0.01  # exponential schedule: times exp(-0.01) an epoch


def learning_rate(config: TrainingConfig, epoch: int, step: int, steps: int) -> float:
    """The rate at ``step`` of ``steps`` of ``epoch``, both counted from 0: a function of the place alone, so that nothing
    needs to be kept of it. Exponential falls by the epoch, cosine and warm-up go by the step."""
    done = epoch + step / max(1, steps)
    rate = config.lr
    if config.schedule == "exponential":
        rate *= math.exp(-_EPOCH_DECAY * epoch)
    elif config.schedule == "cosine":
        rate *= 0.5 * (1 + math.cos(math.pi * done / config.epochs))
    if done < config.warmup:
        rate *= min(1.0, (done + 1 / max(1, steps)) / config.warmup)
    return rate

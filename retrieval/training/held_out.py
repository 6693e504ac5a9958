"""What of the training data is held out, whole clusters at a time, to validate on."""

from __future__ import annotations

import numpy as np

from retrieval.errors import UsageError
from retrieval.messages import Say, count_of
from retrieval.training.config import TrainingConfig
from retrieval.training.data.training_set import TrainingSet


def split(data: TrainingSet, config: TrainingConfig, say: Say) -> tuple[TrainingSet, TrainingSet | None]:
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
    say(f"training on {count_of(len(kept), 'picture')}; {len(held):,} are held out for validation")
    return kept, held


def hold_out(data: TrainingSet, share: float, seed: int) -> tuple[TrainingSet, TrainingSet]:
    """Two sets, to train on and held out: ``share`` of the clusters, drawn by ``seed``, go whole to the second.

    Drawn are clusters of two pictures or more, which can be asked for (of unlabelled pictures: all), two of them at least:
    among pictures of one cluster every ranking is perfect. Pictures of no cluster stay with the first. Raises UsageError for
    a share outside (0, 1), or where too few clusters would be left to train on.
    """
    if not 0 < share < 1:
        raise UsageError(f"the share to hold out must lie between 0 and 1, not {share}")
    numbers, counts = np.unique(data.clusters[data.clusters >= 0], return_counts=True)
    choice = numbers if data.two_views else numbers[counts > 1]
    count = max(2, round(share * len(choice)))
    others = len(numbers) - count + int((data.clusters < 0).sum())
    if len(choice) - count < 1 or others < 2:
        raise UsageError(
            f"{data.name} has {count_of(len(choice), *data.cluster_word)} to ask for: too few to hold out {count}",
            "Hold out less (--validate none), take more data, or judge by a ground truth (--validate GT.json).",
        )
    drawn = np.random.default_rng([seed, 0x401D]).choice(choice, count, replace=False)
    held = np.isin(data.clusters, drawn)
    return data.subset(~held), data.subset(held)

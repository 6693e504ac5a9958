"""How far a run is: a place in it from which it can go on, and what was summed up on the way there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from retrieval.training.data.mining import Mined, MinedTuple


@dataclass
class Progress:
    """``epoch`` (from 0) and ``step`` in it; ``tuples`` of this epoch once mined; sums over its steps."""

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

    def begin_epoch(self, mined: Mined) -> None:
        """At the first step of an epoch with these tuples."""
        self.step, self.tuples, self.negative_distance = 0, mined.tuples, mined.negative_distance
        self.loss, self.trained, self.lost, self.seconds = 0.0, 0, 0, 0.0

    def end_epoch(self, score: float | None) -> bool:
        """Between epochs; whether the one that ended, of this mAP, is the best so far: without a mAP each is."""
        self.epoch += 1
        self.step, self.tuples = 0, None
        better = score is None or self.best is None or score > self.best
        if better:
            self.best, self.best_epoch = score, self.epoch
        return better

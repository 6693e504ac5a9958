"""A training run that several processes do together; each writes down what it ended with. For test_training_run.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tiny  # noqa: F401  # makes its backbones known

from retrieval.models.checkpoint import tensors_sha256
from retrieval.training import machine
from retrieval.training import session as run
from retrieval.training.config import TrainingConfig
from retrieval.training.trainer import Outcome, Trainer


class Observed(Trainer):
    def _mine(self) -> None:
        super()._mine()
        self.seen = [[t.query, t.positive, *t.negatives] for t in self.progress.tuples or []]

    def run(self) -> Outcome:
        outcome = super().run()
        form = {
            "weights": tensors_sha256(self.learner.network.state_dict()),
            "tuples": self.seen,
            "best": self.progress.best,
        }
        rank = self.machine.processes.rank
        Path(f"{self.checkpoints.folder.path}-rank{rank}.json").write_text(json.dumps(form))
        return outcome


if __name__ == "__main__":
    run.Trainer = Observed  # type: ignore[misc]
    machine.leave_processes = lambda: None  # the second run joins the same group
    for loss in sys.argv[3:]:
        config = TrainingConfig.load(sys.argv[1])
        config = TrainingConfig(**{**config.__dict__, "loss": loss})
        run.train(config, f"{sys.argv[2]}-{loss}", device="cpu", workers=1)

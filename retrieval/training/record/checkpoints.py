"""A run's checkpoints: the models of its best and its last epoch, and the state from which it goes on.

The state is weights, optimiser, averages and torch's random state as tensors, and where the run is as facts.
"""

from __future__ import annotations

from dataclasses import asdict, replace

import torch

from retrieval.errors import DatasetError
from retrieval.training.data.mining import MinedTuple
from retrieval.training.data.training_set import TrainingSet
from retrieval.training.network.learner import Learner
from retrieval.training.record.progress import Progress
from retrieval.training.record.run_folder import RunFolder
from retrieval.training.record.state import by_part, optimiser_tensors, read_state, restore_optimiser, write_state


class Checkpoints:
    """Checkpoints in a run's ``folder`` of ``learner``, trained on ``data``: all processes read them, one ``writes``."""

    def __init__(self, folder: RunFolder, learner: Learner, data: TrainingSet, *, writes: bool) -> None:
        self.folder, self.learner, self.data, self.writes = folder, learner, data, writes

    def save_models(self, *, best: bool) -> None:
        """The model as it is, as that of the last epoch, and as the ``best`` too. Raises ModelError."""
        if self.writes:
            for path in (self.folder.best, self.folder.last) if best else (self.folder.last,):
                self.learner.save(path, self.folder.path.name)

    def save_state(self, progress: Progress) -> None:
        """All that the next step depends on. Raises ModelError."""
        if not self.writes:
            return
        learner = self.learner
        tensors = {f"network/{name}": value for name, value in learner.network.state_dict().items()}
        tensors |= {f"optimiser/{name}": value for name, value in optimiser_tensors(learner.optimiser).items()}
        tensors["run/random"] = torch.get_rng_state()
        if learner.device.type == "cuda":
            tensors["run/random_cuda"] = torch.cuda.get_rng_state(learner.device)
        if learner.average is not None:
            tensors |= {f"average/{name}": value for name, value in learner.average.weights.items()}
        if progress.tuples is not None:
            tensors["run/tuples"] = torch.tensor([[t.query, t.positive, *t.negatives] for t in progress.tuples])
        facts = {
            "place": asdict(replace(progress, tuples=None)),
            "average_steps": 0 if learner.average is None else learner.average.steps,
            "spec": learner.spec.to_dict(),
            "random_start": learner.random_start,
            "data": self.data.digest(),
        }
        write_state(self.folder.state, tensors, facts)

    def load_state(self) -> Progress:
        """Put everything back as :meth:`save_state` found it, and return where the run was. Raises ModelError where there is
        no state, DatasetError where the data have changed."""
        learner = self.learner
        tensors, facts = read_state(self.folder.state)
        if facts["data"] != self.data.digest():
            raise DatasetError(f"{self.data.name} is not what this run was begun with: its pictures or classes changed")
        parts = by_part(tensors)
        learner.network.load_state_dict(parts["network"])
        restore_optimiser(learner.optimiser, parts["optimiser"])
        if learner.average is not None:
            for name, value in learner.average.weights.items():
                value.copy_(parts["average"][name])
            learner.average.steps = facts["average_steps"]
        place = facts["place"]
        table = parts["run"].get("tuples")
        place["tuples"] = None if table is None else [MinedTuple(q, p, tuple(n)) for q, p, *n in table.tolist()]
        place["bad"] = {int(position): why for position, why in place["bad"].items()}
        torch.set_rng_state(parts["run"]["random"])
        if "random_cuda" in parts["run"] and learner.device.type == "cuda":
            torch.cuda.set_rng_state(parts["run"]["random_cuda"], learner.device)
        return Progress(**place)

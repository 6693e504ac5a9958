"""A model in training: a network, what moves its weights, and which of its weights are kept."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from retrieval.errors import ModelError
from retrieval.models.checkpoint import save_checkpoint
from retrieval.models.network import Describer, RetrievalNetwork
from retrieval.models.spec import ModelSpec
from retrieval.system.heap import keep_freed_memory
from retrieval.system.processes import CPU
from retrieval.training.config import TrainingConfig
from retrieval.training.network.averaging import WeightAverage
from retrieval.training.network.frozen_folding import foldable
from retrieval.training.network.live import LiveEngine
from retrieval.training.network.optimiser import create_optimiser, mean_exponent, set_learning_rate


class Learner:
    """``network``, which ``spec`` describes, moved as ``config`` says; ``random_start``: its weights were never trained.

    ``rule``: how its pictures are read while it learns. ``describer`` gives descriptors with their graph, ``engine`` those
    of the network as it is; ``pairs``: what is folded in between, see :mod:`retrieval.training.network.frozen_folding`.
    ``average``: of the weights, if they are averaged.
    """

    def __init__(
        self,
        network: RetrievalNetwork,
        spec: ModelSpec,
        config: TrainingConfig,
        device: torch.device = CPU,
        *,
        random_start: bool = False,
    ) -> None:
        keep_freed_memory()
        self.network, self.spec, self.device, self.random_start = network, spec, device, random_start
        self.rule = replace(spec.image, size=config.size, scales=(1.0,))
        self.describer = Describer(network, self.rule).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pairs = foldable(network, device)
        self.engine = LiveEngine(network, self.rule, device, spec.dim, config.amp, self.pairs)
        self.optimiser = create_optimiser(network, config)
        self.average = WeightAverage(network, config.ema) if config.ema else None

    def step(self, rate: float) -> None:
        """Move the weights by the gradients that were added up, at a learning rate."""
        set_learning_rate(self.optimiser, rate)
        self.optimiser.step()

    def update_average(self) -> None:
        """Let the average, if there is one, follow the weights."""
        if self.average is not None:
            self.average.update(self.network)

    def clear_gradients(self) -> None:
        """Room for gradients is taken once, however many tuples are added."""
        self.optimiser.zero_grad(set_to_none=False)

    def kept(self) -> AbstractContextManager[None]:
        """Within this, the network has the weights that are validated and kept: the averaged ones, if they are averaged."""
        return nullcontext() if self.average is None else self.average.in_place_of(self.network)

    def exponent(self) -> float | str | None:
        """The mean exponent of the poolings, "inf" for a maximum, None where there is none."""
        mean = mean_exponent(self.network)
        return "inf" if mean is not None and not math.isfinite(mean) else mean

    def save(self, path: Path, run: str) -> None:
        """Write the weights that are kept as a model, trained in ``run``. Raises ModelError."""
        from safetensors import SafetensorError

        origin = f"{self.spec.weights.id} trained in {run}".replace("random:", "random ")
        try:
            with self.kept():
                save_checkpoint(self.network, self.spec, path, origin=origin)
        except SafetensorError as error:  # how a full disk shows
            raise ModelError(f"could not write the checkpoint {path}: {error}") from error

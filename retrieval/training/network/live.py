"""A network in training as it is now: an engine for mining, validation and whatever else looks in between the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from retrieval.describe.extraction import describe_all
from retrieval.messages import no_update
from retrieval.models.network import Describer, RetrievalNetwork
from retrieval.models.spec import ImageRule
from retrieval.training.machine import Machine
from retrieval.training.network.frozen_folding import Pair, folded
from retrieval.training.network.half import half_precision
from retrieval.training.network.modes import evaluating


class LiveEngine:
    """A network in training as an engine (:class:`retrieval.engines.base.Engine`): in evaluation mode while it describes,
    without a trace in the network or in torch's random state. ``amp``: in bfloat16; ``pairs``: what is folded meanwhile."""

    name = "live"

    def __init__(
        self,
        network: RetrievalNetwork,
        rule: ImageRule,
        device: torch.device,
        dim: int,
        amp: bool = False,
        pairs: Sequence[Pair] = (),
    ) -> None:
        self.describer = Describer(network, replace(rule, scales=(1.0,))).to(device)
        self.device = device
        self.dim, self.amp, self.pairs = dim, amp, pairs
        self.batch_pixels = 16_000_000 if device.type == "cuda" else 1_200_000

    def describe(self, images: np.ndarray) -> np.ndarray:
        with (
            evaluating(self.describer),
            torch.inference_mode(),
            folded(self.pairs),
            half_precision(self.device, self.amp),
        ):
            return self.describer(torch.from_numpy(images).to(self.device)).float().cpu().numpy()


def describe_pictures(
    positions: Sequence[int] | np.ndarray,
    load: Callable[[int], np.ndarray],
    engine: LiveEngine,
    *,
    workers: int,
    update: Callable[[int, int], object] = no_update,
) -> tuple[np.ndarray, dict[int, str]]:
    """Descriptors of pictures, float32 (N, D) in the order of ``positions``, and the reasons by position of those that cannot
    be described, whose rows are NaN. Each different picture is described once."""
    different, rows = np.unique(np.asarray(positions, np.int64), return_inverse=True)
    out = np.full((len(different), engine.dim), np.nan, np.float32)
    place = {int(position): row for row, position in enumerate(different)}
    reasons: dict[int, str] = {}
    for done, result in enumerate(describe_all(place, load, lambda: engine, workers=workers), 1):
        if result.error is not None:
            reasons[result.item] = result.error.message
        else:
            out[place[result.item]] = result.descriptor
        update(done, len(place))
    return out[rows], reasons


def describe_together(
    positions: Sequence[int] | np.ndarray,
    load: Callable[[int], np.ndarray],
    engine: LiveEngine,
    machine: Machine,
    label: str,
) -> tuple[np.ndarray, dict[int, str]]:
    """What :func:`describe_pictures` gives, each process describing its share: all rows, and the reasons of this process.
    ``label`` stands before the progress bar."""
    processes = machine.processes
    different, rows = np.unique(np.asarray(positions, np.int64), return_inverse=True)
    own = different[processes.rank :: processes.count]
    with machine.bars(label) as update:
        found, reasons = describe_pictures(own, load, engine, workers=machine.workers, update=update)
    return processes.gather_rows(found, len(different))[rows], reasons

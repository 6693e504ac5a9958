"""How fast training is, and in what memory, against the plain loop of the field: one picture after the other, in float32.

    python scripts/training_speed.py
    python scripts/training_speed.py --model efficientnet_lite0-gem --size 362 --ways plain,float32

Tuples of made-up pictures, upright and across, contrastive loss. Each way has a process of its own, and they are asked in
turns: for the gradients of one tuple, and for the descriptors that mining needs. Reading pictures is left out.
"""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import click
import numpy as np


def made_up(size: int, pictures: int, seed: int) -> list[np.ndarray]:
    """Pictures of noise, uint8 (H, W, 3), every other one upright."""
    rng = np.random.default_rng(seed)
    across, upright = (size * 3 // 4 // 32 * 32, size, 3), (size, size * 3 // 4 // 32 * 32, 3)
    return [rng.integers(0, 256, upright if i % 2 else across, np.uint8) for i in range(pictures)]


class Plain:
    """The loop that the field's reference code trains with (Radenovic et al., TPAMI 2019): every picture alone."""

    def __init__(self, network: Any, config: Any, spec: Any) -> None:
        from retrieval.models.network import Describer
        from retrieval.training.network.batchnorm import freeze_statistics

        self.describer = Describer(network, spec.image)
        freeze_statistics(network)

    def train(self, loss: Any, arrays: list[np.ndarray]) -> None:
        import torch

        described = [self.describer(torch.from_numpy(array)[None]) for array in arrays]
        loss(torch.cat(described)[None]).backward()

    def mine(self, arrays: list[np.ndarray]) -> None:
        import torch

        with torch.no_grad():
            for array in arrays:
                self.describer(torch.from_numpy(array)[None])


class Ours:
    """The steps of ``retrieve train``."""

    def __init__(self, network: Any, config: Any, spec: Any) -> None:
        from retrieval.training.network.batchnorm import freeze_statistics
        from retrieval.training.network.learner import Learner

        self.learner, self.amp = Learner(network, spec, config), config.amp
        freeze_statistics(network)

    def train(self, loss: Any, arrays: list[np.ndarray]) -> None:
        from retrieval.training.network.gradients import tuple_backward

        tuple_backward(self.learner.describer, loss, arrays, self.learner.device, self.amp, pairs=self.learner.pairs)

    def mine(self, arrays: list[np.ndarray]) -> None:
        from retrieval.describe.extraction import describe_all

        for _ in describe_all(range(len(arrays)), lambda i: arrays[i], lambda: self.learner.engine):
            pass


def serve(connection: Connection, way: str, model: str, size: int, pictures: int) -> None:
    """The process of one way: answers "train" and "mine" with seconds, "peak" with gigabytes."""
    from retrieval import load_model
    from retrieval.models.loading import build_network
    from retrieval.training.config import TrainingConfig
    from retrieval.training.losses import create_loss

    loaded = load_model(model)
    config = TrainingConfig("", model, size=size, amp=way == "bf16")
    config.require_possible("cpu")
    network = build_network(loaded.spec, loaded.checkpoint)
    made = (Plain if way == "plain" else Ours)(network, config, loaded.spec)
    loss, arrays = create_loss("contrastive"), made_up(size, pictures, 0)
    while (asked := connection.recv()) is not None:
        if asked == "peak":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            connection.send(peak * (1 if sys.platform == "darwin" else 1024) / 1e9)
            continue
        started = time.perf_counter()
        if asked == "train":
            made.train(loss, arrays)
        else:
            made.mine(arrays)
        connection.send(time.perf_counter() - started)


@click.command()
@click.option("--model", default="resnet50-gem@random:0", show_default=True)
@click.option("--size", default=362, show_default=True, help="Longest side in pixels.")
@click.option("--negatives", default=5, show_default=True)
@click.option("--rounds", default=10, show_default=True)
@click.option("--ways", default="plain,float32,bf16", show_default=True)
def main(model: str, size: int, negatives: int, rounds: int, ways: str) -> None:
    """Print pictures a second of training and of mining, and the peak memory, by way."""
    pictures, names = 2 + negatives, ways.split(",")
    context = multiprocessing.get_context("spawn")
    asked: dict[str, Connection] = {}
    for way in names:
        here, there = context.Pipe()
        context.Process(target=serve, args=(there, way, model, size, pictures), daemon=True).start()
        asked[way] = here
    seconds: dict[tuple[str, str], list[float]] = {}
    for round_ in range(rounds + 2):  # the first two warm up
        for what in ("train", "mine"):
            for way, connection in asked.items():
                connection.send(what)
                took = connection.recv()
                if round_ >= 2:
                    seconds.setdefault((what, way), []).append(took)
    for way, connection in asked.items():
        parts = []
        for what in ("train", "mine"):
            own, first = seconds[what, way], seconds[what, names[0]]
            ratio = statistics.median(b / a for a, b in zip(own, first, strict=True))
            parts.append(f"{what} {pictures / statistics.median(own):6.2f} pictures/s, {ratio:.2f} times {names[0]}")
        connection.send("peak")
        click.echo(f"{way:8} {'; '.join(parts)}; peak {connection.recv():.2f} GB")
        connection.send(None)


if __name__ == "__main__":
    main()

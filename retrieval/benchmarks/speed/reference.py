"""The loops that are usual in the field, in processes of their own.

What our engines do to memory and threads must neither help them nor harm them.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from retrieval.describe.model import Model
from retrieval.errors import RetrievalError
from retrieval.models.loading import build_network
from retrieval.models.network import Describer
from retrieval.models.spec import ModelSpec


def reference_loop(
    spec: ModelSpec, checkpoint: str | os.PathLike[str] | None, batch: int = 1
) -> Callable[[Sequence[np.ndarray]], np.ndarray]:
    """One picture at a time, or ``batch`` of one shape, through eager float32 torch, channels first, nothing folded:
    uint8 (H, W, 3) each -> (N, D)."""
    describer = Describer(build_network(spec, checkpoint), spec.image).eval()

    def run(pictures: Sequence[np.ndarray]) -> np.ndarray:
        shapes: dict[tuple[int, ...], list[int]] = {}
        for i, picture in enumerate(pictures):
            shapes.setdefault(picture.shape if batch > 1 else (i,), []).append(i)
        out = np.empty((len(pictures), spec.dim), np.float32)
        with torch.no_grad():
            for same in shapes.values():
                for first in range(0, len(same), batch):
                    chosen = same[first : first + batch]
                    channels_first = np.ascontiguousarray(np.stack([pictures[i].transpose(2, 0, 1) for i in chosen]))
                    out[chosen] = describer(torch.from_numpy(channels_first).permute(0, 2, 3, 1)).numpy()
        return out

    return run


class ReferenceProcess:
    """Called with pictures, it gives descriptors (N, D) and the seconds the loop took (no transfer). A context manager."""

    def __init__(self, model: Model, batch: int = 1) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "retrieval.benchmarks.speed.reference"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._ask((model.spec, model.checkpoint, batch))

    def __call__(self, pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        return self._ask(list(pictures))

    def _ask(self, message: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
            return pickle.load(self._process.stdout)
        except (OSError, EOFError) as error:
            raise RetrievalError("the reference loop's process ended; its message is above") from error

    def __enter__(self) -> ReferenceProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _answer() -> None:
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to where messages go
    run = reference_loop(*pickle.load(sys.stdin.buffer))
    answer: Any = "ready"
    while True:
        pickle.dump(answer, answers)
        answers.flush()
        try:
            pictures = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        began = time.perf_counter()
        descriptors = run(pictures)
        answer = descriptors, time.perf_counter() - began


if __name__ == "__main__":
    _answer()

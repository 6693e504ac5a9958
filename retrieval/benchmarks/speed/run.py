"""How fast each engine is, against the loop that is usual in the field, all in one run on the same pictures."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from retrieval.benchmarks.speed.limit import matrix_rate, multiplications
from retrieval.benchmarks.speed.pictures import load_at
from retrieval.benchmarks.speed.reference import ReferenceProcess
from retrieval.benchmarks.speed.results import SpeedReport, SpeedRow
from retrieval.describe.extraction import describe_all
from retrieval.describe.model import Model
from retrieval.engines.base import Engine, EngineUnavailable
from retrieval.engines.choose import create_engine
from retrieval.errors import ModelError, UsageError
from retrieval.messages import say_nothing
from retrieval.system.environment import environment
from retrieval.system.processor import has_bf16

REFERENCE, BATCHED = "reference", "batched"
_BATCH = 8
Loop = Callable[[Sequence[np.ndarray]], tuple[np.ndarray, float]]
"""From pictures, uint8 (H, W, 3) each, to their descriptors (N, D) and the seconds it took."""


@dataclass
class _Contender:
    engine_name: str
    precision: str
    run: Loop
    start: float
    quantised: Path | None = None


def engine_loop(engine: Engine) -> Loop:
    """What indexing does with pictures that are decoded already."""

    def run(pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, float]:
        began = time.perf_counter()
        out = np.empty((len(pictures), engine.dim), np.float32)
        for result in describe_all(range(len(pictures)), lambda i: pictures[i], lambda: engine):
            if result.error is not None:
                raise result.error
            out[result.item] = result.descriptor
        return out, time.perf_counter() - began

    return run


def benchmark_speed(
    model: Model,
    paths: Sequence[str],
    *,
    sizes: Sequence[int] = (1024,),
    engines: Sequence[str] = ("torch", "openvino"),
    precisions: Sequence[str] = ("fp32",),
    count: int = 16,
    rounds: int = 3,
    index: bool = True,
    say: Callable[[str], None] = say_nothing,
) -> SpeedReport:
    """Time the reference loop and every engine and precision on ``count`` of the pictures, ``rounds`` times in turn.
    The engine "batched" is the reference loop with eight pictures of one shape at a time.

    The reference has a process of its own (:mod:`retrieval.benchmarks.speed.reference`); the engines share this one.
    What cannot run here is left out with a note. ``index``: also index all ``paths``, each engine in a process of its
    own, at the largest size. Raises UsageError for no pictures or no engine.
    """
    if not paths or not sizes or count < 1 or rounds < 1:
        raise UsageError("a benchmark needs pictures, sizes and rounds")
    notes: list[str] = []
    rows: list[SpeedRow] = []
    counted: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="retrieval-speed-") as folder:
        began = time.perf_counter()
        with ExitStack() as processes:
            contenders = [
                _Contender(
                    REFERENCE, "fp32", processes.enter_context(ReferenceProcess(model)), time.perf_counter() - began
                )
            ]
            if BATCHED in engines:
                began = time.perf_counter()
                loop = processes.enter_context(ReferenceProcess(model, _BATCH))
                contenders.append(_Contender(BATCHED, "fp32", loop, time.perf_counter() - began))
            ours = _contenders(model, paths, [e for e in engines if e != BATCHED], precisions, Path(folder), notes, say)
            for size in sizes:
                pictures = load_at(paths, size, count)
                counted[str(size)] = multiplications(model.spec, pictures)
                rows += _race(contenders + ours, pictures, size, rounds, say)
            rate = matrix_rate()
        if index:
            rows += _index_rows(ours, model, paths, max(sizes), rows, Path(folder), notes, say)
    about = {
        "model": model.spec.name,
        "fingerprint": model.fingerprint,
        "scales": list(model.spec.image.scales),
        "rounds": rounds,
        "multiplications": counted,
        "matrix_rate": rate,
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        **environment(),
    }
    return SpeedReport(rows, about, notes)


def _contenders(
    model: Model,
    paths: Sequence[str],
    engines: Sequence[str],
    precisions: Sequence[str],
    folder: Path,
    notes: list[str],
    say: Callable[[str], None],
) -> list[_Contender]:
    """All engines that can run."""
    found = []
    for name in engines:
        for precision in precisions:
            if precision == "int8" and name == "torch":
                continue
            began = time.perf_counter()
            quantised: Path | None = None
            try:
                if precision == "bf16" and not has_bf16():
                    raise EngineUnavailable("bf16 is left out: this processor has no instructions for it")
                if precision == "int8":
                    quantised = folder / "int8"
                    notes.append(str(model.quantise(paths, quantised, refuse=False, say=say).loss))
                    began = time.perf_counter()
                engine = create_engine(
                    model.spec, name, model.checkpoint, quantised=quantised, precision=precision, say=say
                )
            except ModelError as error:
                notes.append(str(error))
                continue
            start = time.perf_counter() - began
            found.append(_Contender(name, precision, engine_loop(engine), start, quantised))
    return found


def _race(
    contenders: list[_Contender], pictures: list[np.ndarray], size: int, rounds: int, say: Callable[[str], None]
) -> list[SpeedRow]:
    seconds: list[list[float]] = [[] for _ in contenders]
    latency: list[float] = []
    descriptors = []
    for contender in contenders:
        say(f"{contender.engine_name} {contender.precision} at {size}: warming up")
        contender.run(pictures[:1])
        latency.append(min(contender.run([picture])[1] for picture in pictures[:5]))
        descriptors.append(contender.run(pictures)[0].astype(np.float64))
    for round_ in range(rounds):
        say(f"round {round_ + 1} of {rounds} at {size}")
        for contender, times in zip(contenders, seconds, strict=True):
            times.append(contender.run(pictures)[1])
    rows = []
    for contender, times, single, vectors in zip(contenders, seconds, latency, descriptors, strict=True):
        ratios = [reference / own for reference, own in zip(seconds[0], times, strict=True)]
        cosines = (vectors * descriptors[0]).sum(1)
        each = [1000 * t / len(pictures) for t in times]
        rows.append(
            SpeedRow(
                "network",
                contender.engine_name,
                contender.precision,
                size,
                len(pictures),
                median(each),
                min(each),
                max(each),
                median(ratios),
                min(ratios),
                max(ratios),
                latency=1000 * single,
                cosine=float(cosines.min()),
                mean_cosine=float(cosines.mean()),
                start=contender.start,
            )
        )
    return rows


def _index_rows(
    contenders: list[_Contender],
    model: Model,
    paths: Sequence[str],
    size: int,
    rows: list[SpeedRow],
    folder: Path,
    notes: list[str],
    say: Callable[[str], None],
) -> list[SpeedRow]:
    """Indexing, each engine in a process of its own, so that its memory can be told."""
    reference = next(r for r in rows if r.engine == REFERENCE and r.size == size)
    found = []
    for i, contender in enumerate(contenders):
        say(f"indexing {len(paths)} pictures with {contender.engine_name} {contender.precision}")
        task = {
            "model": model.spec.with_image(size=size).to_dict(),
            "checkpoint": None if model.checkpoint is None else os.fspath(model.checkpoint),
            "engine": contender.engine_name,
            "bf16": contender.precision == "bf16",
            "quantised": None if contender.quantised is None else os.fspath(contender.quantised),
            "paths": [os.path.abspath(path) for path in paths],
            "gallery": os.fspath(folder / f"gallery-{i}"),
        }
        done = subprocess.run(
            [sys.executable, "-m", "retrieval.benchmarks.speed.index"],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["it was killed"]
            notes.append(f"indexing with {contender.engine_name} {contender.precision} failed: {last[0]}")
            continue
        result = json.loads(done.stdout)
        each = 1000 * result["seconds"] / result["pictures"]
        ratio = reference.milliseconds / each
        found.append(
            SpeedRow(
                "index",
                contender.engine_name,
                contender.precision,
                size,
                result["pictures"],
                each,
                each,
                each,
                ratio if result["at_size"] else math.nan,
                ratio if result["at_size"] else math.nan,
                ratio if result["at_size"] else math.nan,
                start=result["start"],
                share=result["own"] / result["seconds"],
                peak=result["peak"] / 1e6,
            )
        )
    return found

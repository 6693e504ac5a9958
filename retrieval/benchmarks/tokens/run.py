"""Schedules and methods of Token Pooling on one model: multiplications, time, cosine to the unreduced, mAP; all in one run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from retrieval.benchmarks.speed.pictures import load_at
from retrieval.benchmarks.speed.run import engine_loop
from retrieval.datasets.groundtruth import GroundTruth
from retrieval.describe.model import Model
from retrieval.engines.choose import create_engine
from retrieval.errors import RetrievalError, UsageError
from retrieval.evaluation.evaluator import KS, labels_of, protocols_of
from retrieval.evaluation.protocol import evaluate_rankings
from retrieval.files.whole import write_json
from retrieval.messages import Say, say_nothing
from retrieval.models.spec import TOKENS
from retrieval.models.token_reduction import cost_of, with_tokens
from retrieval.pooling.schedules import METHODS, USUAL
from retrieval.system.environment import environment

UNREDUCED = ""
"""The schedule of the first row."""


@dataclass(frozen=True)
class TokensRow:
    """One schedule by one method. ``saved``: of the unreduced network's multiplications at square pictures of the size, in
    fractions of 1, ``saved_in_all`` with the clustering's own counted. ``milliseconds`` a picture, the median over the rounds;
    ``ratio``: how many times as fast as unreduced, round by round, its median and extremes. ``cosine``: of the descriptors to
    the unreduced ones, mean and ``least_cosine``, over the timed pictures. ``mean_ap`` of the set (medium, or its one
    protocol), None without one.
    """

    schedule: str
    method: str
    saved: float
    saved_in_all: float
    milliseconds: float
    ratio: float
    ratio_least: float
    ratio_most: float
    cosine: float
    least_cosine: float
    mean_ap: float | None


def reduced_models(
    model: Model, schedules: Sequence[str], methods: Sequence[str], say: Say = say_nothing
) -> list[Model]:
    """The model, and it with every schedule by every method; no network is built yet. Raises UsageError for a model without
    tokens or with a schedule, and for unknown schedules and methods."""
    if model.spec.pooling.get(TOKENS):
        raise UsageError(f"{model.spec.name} has a schedule already", "Name the model without one.")
    if unknown := [method for method in methods if method not in METHODS]:
        raise UsageError(f"there is no method {unknown[0]!r}", f"Known: {', '.join(METHODS)}.")
    models = [model]
    for schedule in schedules:
        for method in methods:
            words = schedule if method == USUAL else f"{schedule}+{method}"
            models.append(Model(with_tokens(model.spec, words), model.checkpoint, model.engine_name, say=say))
    return models


def benchmark_tokens(
    model: Model,
    paths: Sequence[str],
    *,
    schedules: Sequence[str] = ("42%",),
    methods: Sequence[str] = (USUAL,),
    truth: GroundTruth | None = None,
    count: int = 16,
    rounds: int = 3,
    say: Say = say_nothing,
) -> list[TokensRow]:
    """The unreduced model and every schedule by every method, timed in turn on ``count`` of the pictures brought to the model's
    size; with ``truth`` its set is described by each and scored. The first row is the unreduced one.
    Raises UsageError for a model without tokens, unknown methods or no pictures."""
    models = reduced_models(model, schedules, methods, say)
    size = model.spec.image.size or 224
    pictures = load_at(paths, size, count)
    engines = [create_engine(m.spec, m.engine_name, m.checkpoint, say=say) for m in models]
    loops = [engine_loop(engine) for engine in engines]
    vectors = [loop(pictures)[0].astype(np.float64) for loop in loops]  # each shape is met before it is timed
    seconds: list[list[float]] = [[] for _ in loops]
    for round_ in range(rounds):
        say(f"round {round_ + 1} of {rounds}")
        for loop, times in zip(loops, seconds, strict=True):
            times.append(loop(pictures)[1])
    rows = []
    for one, found, times in zip(models, vectors, seconds, strict=True):
        if truth is not None:
            say(f"describing {truth.name} with {one.spec.name}")
        cost = cost_of(one.spec, size)
        schedule, _, method = str(one.spec.pooling.get(TOKENS, UNREDUCED)).rpartition("+")
        if method not in METHODS:
            schedule, method = str(one.spec.pooling.get(TOKENS, UNREDUCED)), USUAL if one is not model else ""
        ratios = [whole / own for whole, own in zip(seconds[0], times, strict=True)]
        cosines = (found * vectors[0]).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(vectors[0], axis=1)
        rows.append(
            TokensRow(
                schedule,
                method,
                1 - cost.network / cost.whole,
                1 - (cost.network + cost.own) / cost.whole,
                1000 * median(times) / len(pictures),
                median(ratios),
                min(ratios),
                max(ratios),
                float(cosines.mean()),
                float(cosines.min()),
                None if truth is None else mean_ap(one, truth),
            )
        )
    return rows


def mean_ap(model: Model, truth: GroundTruth) -> float:
    """Of the ranking by cosine, in fractions of 1; ties by the order of the set. Raises ImageError."""
    vectors = model.describe([str(truth.root / path) for path in truth.gallery]).astype(np.float64)
    queries = [model.describe(str(truth.root / query.image), query.bbox) for query in truth.queries]
    rankings = [np.argsort(-(vectors @ query.astype(np.float64)), kind="stable") for query in queries]
    results = evaluate_rankings(
        rankings, labels_of(truth), len(truth.gallery), truncated=False, protocols=protocols_of(truth), ks=KS
    )
    return float((results.get("medium") or next(iter(results.values()))).mean_average_precision)


def table(rows: Sequence[TokensRow]) -> str:
    """The rows as text."""
    head = ["schedule", "method", "saved, %", "in all, %", "ms", "times as fast", "cosine", "least"]
    scored = rows[0].mean_ap is not None
    lines = [head + (["mAP", "lost"] if scored else [])]
    for row in rows:
        line = [
            row.schedule or "unreduced",
            row.method or "-",
            f"{100 * row.saved:.1f}",
            f"{100 * row.saved_in_all:.1f}",
            f"{row.milliseconds:.1f}",
            f"{row.ratio:.2f} ({row.ratio_least:.2f}-{row.ratio_most:.2f})",
            f"{row.cosine:.4f}",
            f"{row.least_cosine:.4f}",
        ]
        if row.mean_ap is not None and rows[0].mean_ap is not None:
            line += [f"{100 * row.mean_ap:.2f}", f"{100 * (rows[0].mean_ap - row.mean_ap):+.2f}"]
        lines.append(line)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def write_rows(rows: Sequence[TokensRow], model: Model, path: str | os.PathLike[str]) -> None:
    """Rows, model and machine as JSON. Raises RetrievalError where it cannot be written."""
    about: dict[str, Any] = {"model": model.spec.name, "size": model.spec.image.size, **environment()}
    try:
        write_json(path, {"about": about, "rows": [asdict(row) for row in rows]})
    except OSError as error:
        raise RetrievalError(f"could not write {path}: {error.strerror or error}") from error

"""The rows a pooling benchmark gives, as files and as text."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from retrieval.benchmarks.pooling.race import TASKS
from retrieval.errors import UsageError
from retrieval.files.whole import write_json


@dataclass(frozen=True)
class Row:
    """One pooling under one protocol. Quality is in fractions of 1; NaN where a figure does not exist for the set.

    ``p``: the exponent of a power mean (infinity: the maximum), None for other poolings. ``whitened``: None, "other"
    (PCA-whitened, fitted on other pictures) or "gallery" (fitted on the very gallery that is searched).
    ``mAP`` with the limits of its 95 % bootstrap interval over queries. ``difference`` (of mAP) with its interval,
    ``wins``, ``losses`` and ``ties`` (queries) and ``p_value`` compare with the unwhitened ``baseline``, query by query.
    ``similarity_auc``, ``centroid_accuracy``, ``retained``: see ``race`` and ``retention`` beside this file; of the
    method, the same in each protocol. ``noise``: mAP by the noise's strength in standard deviations of the features, on
    the queries that were chosen for it; "0" is without noise. ``parameters``; ``flops`` (None: no formula) and
    ``microseconds`` to pool one picture's features.
    """

    method: str
    pooling: str
    p: float | None
    whitened: str | None
    protocol: str
    dim: int
    queries: int
    mAP: float
    low: float
    high: float
    baseline: str
    difference: float
    difference_low: float
    difference_high: float
    wins: int
    losses: int
    ties: int
    p_value: float
    similarity_auc: float
    centroid_accuracy: float
    retained: float
    noise: dict[str, float] = field(default_factory=dict)
    parameters: int = 0
    flops: int | None = None
    microseconds: float = math.nan

    @property
    def name(self) -> str:
        """The method, marked where it is whitened."""
        return self.method + {None: "", "other": " +w", "gallery": " +w(gallery!)"}[self.whitened]

    def to_dict(self) -> dict[str, Any]:
        """For JSON: NaN becomes None and an infinite p the text "inf"."""
        return {key: _plain(value) for key, value in asdict(self).items()}


@dataclass(frozen=True)
class PoolingReport:
    """All rows (methods in the order asked for, whitened ones after the plain ones, protocols within), the name of the
    protocol that ranks, and what belongs to all of them: ``notes`` for people, ``setting`` for files."""

    rows: list[Row]
    ranked_by: str
    notes: list[str]
    setting: dict[str, Any]

    def ranked(self) -> list[Row]:
        """The rows of the ranking protocol alone: one for each method."""
        return [row for row in self.rows if row.protocol == self.ranked_by]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "inf"
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def race(rows: Sequence[Row]) -> dict[str, list[tuple[str, float]]]:
    """For each task (retrieval, similarity, classification) the names and their figures, best first; equal ones in the
    order of the rows. A task without figures is left out."""
    figures = dict(zip(TASKS, ("mAP", "similarity_auc", "centroid_accuracy"), strict=True))
    out = {}
    for task, key in figures.items():
        known = [(row.name, getattr(row, key)) for row in rows if not math.isnan(getattr(row, key))]
        if known:
            out[task] = sorted(known, key=lambda item: -item[1])
    return out


def write_results(report: PoolingReport, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``results.csv``, ``results.json`` (a list of rows, see :class:`Row`) and ``environment.json`` (the set, the model,
    the options, timings, the machine) into ``folder``, which is made. Returns their paths. Raises UsageError where that
    is impossible."""
    folder = Path(folder)
    paths = [folder / name for name in ("results.csv", "results.json", "environment.json")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(paths[0], "w", newline="", encoding="utf-8") as file:
            write_csv(report.rows, file)
        write_json(paths[1], [row.to_dict() for row in report.rows])
        write_json(paths[2], report.setting)
    except OSError as error:
        raise UsageError(f"cannot write results to {folder}: {error.strerror}") from error
    return paths


def write_csv(rows: Sequence[Row], file: IO[str]) -> None:
    """The rows with a header; noise in columns ``mAP_noise_0.5``, an empty cell for what does not exist."""
    flat = []
    for row in rows:
        data = row.to_dict()
        noise = data.pop("noise")
        flat.append({**data, **{f"mAP_noise_{strength}": value for strength, value in noise.items()}})
    writer = csv.DictWriter(file, fieldnames=list(flat[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)


def tables(report: PoolingReport) -> str:
    """The figures for people: quality in percent against the baseline, then robustness and cost, then the race, and what the
    columns mean."""
    ranked = report.ranked()
    return "\n\n".join([_quality(report), _cost(ranked), _race(ranked), _LEGEND])


def _quality(report: PoolingReport) -> str:
    ranked = report.ranked()
    protocols = list(dict.fromkeys(row.protocol for row in report.rows))
    by_key = {(row.name, row.protocol): row for row in report.rows}
    head = ["method", "dim", *(f"mAP {name}" for name in protocols)]
    head += [f"against {ranked[0].baseline} ({report.ranked_by})", "better/worse/equal"]
    lines = []
    for row in ranked:
        cells = [row.name, str(row.dim)]
        for name in protocols:
            other = by_key[row.name, name]
            cells.append(f"{_percent(other.mAP)} [{_percent(other.low)}, {_percent(other.high)}]")
        if row.method == row.baseline and row.whitened is None:
            cells += ["", ""]
        else:
            limits = f"[{_percent(row.difference_low, True)}, {_percent(row.difference_high, True)}]"
            cells.append(f"{_percent(row.difference, True)} {limits}")
            cells.append(f"{row.wins}/{row.losses}/{row.ties}")
        lines.append(cells)
    return _aligned([head, *lines])


def _cost(rows: Sequence[Row]) -> str:
    strengths = list(rows[0].noise)
    head = ["method", *(f"noise {s}" for s in strengths), "kept", "parameters", "FLOPs", "microseconds"]
    lines = []
    for row in rows:
        noise = [_percent(row.noise[s]) for s in strengths]
        work = "" if row.flops is None else f"{row.flops:,}"
        lines.append([row.name, *noise, _percent(row.retained), f"{row.parameters:,}", work, f"{row.microseconds:.0f}"])
    return _aligned([head, *lines])


def _race(rows: Sequence[Row]) -> str:
    """Each task with its own places: equal figures share one, as they do not say which method is better."""
    ranking = race(rows)
    head = [f"{task} ({_UNITS[task]})" for task in ranking]
    columns = []
    for found in ranking.values():
        values = [round(value, 9) for _, value in found]  # best first
        columns.append(
            [f"{values.index(v) + 1:>2}  {_percent(v):>5}  {name}" for v, (name, _) in zip(values, found, strict=True)]
        )
    lines = [list(cells) for cells in zip_longest(*columns, fillvalue="")]
    return _aligned([head, *lines], numbers=False)


_UNITS = dict(zip(TASKS, ("mAP", "AUC of same or different", "nearest centroid"), strict=True))
_LEGEND = """mAP, kept and the figures after the places in %; [low, high]: 95 % interval; better/worse/equal: queries.
noise S: mAP with noise of S standard deviations on the queries' features. kept: how much of a coarse feature map its
descriptor restores. parameters, FLOPs, microseconds: of the pooling alone, a picture. Equal figures share a place."""


def _percent(value: float, sign: bool = False) -> str:
    return "-" if math.isnan(value) else f"{100 * value:{'+' if sign else ''}.1f}"


def _aligned(lines: list[list[str]], numbers: bool = True) -> str:
    """Columns two spaces apart: the first to the left, the others (if ``numbers``) to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    left = [i == 0 or not numbers for i in range(len(widths))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if to_left else c.rjust(w) for c, w, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    )

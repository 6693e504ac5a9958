"""The figures of a speed benchmark: as rows, as a table, as JSON."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from retrieval.errors import RetrievalError
from retrieval.files.whole import write_json


@dataclass(frozen=True)
class SpeedRow:
    """One engine at one precision and size (longest side in pixels).

    ``part``: "network" (decoded pictures in, descriptors out) or "index" (files in, gallery out, whole).
    ``milliseconds``: for a picture, the median over the rounds, between ``least`` and ``most``. ``ratio``: how many times
    faster than the reference loop, round by round, its median and extremes. ``latency``: milliseconds for one picture at
    a time. ``cosine``: the smallest, and ``mean_cosine`` the average, of the descriptors with the reference's.
    ``start``: seconds until the engine was ready (the time to prepare a model that was not in the cache included).
    ``share``: of the engine's own rate that indexing reaches; ``peak``: MB of memory at most.
    NaN (in JSON: null) for what a row does not have.
    """

    part: str
    engine: str
    precision: str
    size: int
    pictures: int
    milliseconds: float
    least: float
    most: float
    ratio: float
    ratio_least: float
    ratio_most: float
    latency: float = math.nan
    cosine: float = math.nan
    mean_cosine: float = math.nan
    start: float = math.nan
    share: float = math.nan
    peak: float = math.nan


@dataclass
class SpeedReport:
    """``about``: the model, the settings and the machine (:func:`retrieval.system.environment.environment`), with its
    ``matrix_rate`` and by size the ``multiplications`` of a picture (:mod:`retrieval.benchmarks.speed.limit`)."""

    rows: list[SpeedRow]
    about: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def table(report: SpeedReport) -> str:
    """The rows as text."""
    head = (
        "part",
        "size",
        "engine",
        "precision",
        "ms a picture",
        "ratio",
        "one picture",
        "cosine",
        "of its own rate",
        "MB",
    )
    lines: list[tuple[str, ...]] = [head]
    for r in report.rows:
        lines.append(
            (
                r.part,
                str(r.size),
                r.engine,
                r.precision,
                f"{r.milliseconds:.1f}" + (f" ({r.least:.1f}-{r.most:.1f})" if r.least != r.most else ""),
                _cell(
                    r.ratio,
                    f"{r.ratio:.2f}" + (f" ({r.ratio_least:.2f}-{r.ratio_most:.2f})" if r.least != r.most else ""),
                ),
                _cell(r.latency, f"{r.latency:.1f}"),
                _cell(r.cosine, f"{r.cosine:.6f}"),
                _cell(r.share, f"{100 * r.share:.0f} %"),
                _cell(r.peak, f"{r.peak:.0f}"),
            )
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    about = report.about
    text.append("")
    text.append(f"{about['model']}, {about['processor']}, {about['cores']} cores, {about['threads']} threads")
    return "\n".join([*text, *report.notes])


def _cell(value: float, text: str) -> str:
    return "-" if math.isnan(value) else text


def row_dict(row: SpeedRow) -> dict[str, Any]:
    """For JSON: null for what is not there."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(row).items()}


def write_report(report: SpeedReport, path: str | os.PathLike[str]) -> None:
    """Rows, notes and the machine as JSON. Raises RetrievalError where it cannot be written."""
    data = {"about": report.about, "notes": report.notes, "rows": [row_dict(row) for row in report.rows]}
    try:
        write_json(path, data)
    except OSError as error:
        raise RetrievalError(f"could not write {path}: {error.strerror or error}") from error

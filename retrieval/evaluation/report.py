"""Results as data: saved as one JSON file, read again, and two of them compared query by query."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.errors import DatasetError, UsageError
from retrieval.evaluation.evaluator import Measured
from retrieval.evaluation.protocol import ProtocolResult
from retrieval.evaluation.statistics import Comparison, Interval, bootstrap_interval, compare
from retrieval.files.whole import write_json
from retrieval.pictures.replacing import spare_pictures
from retrieval.system.environment import environment
from retrieval.views.sheet import SheetCell, SheetRow

LEVEL = 0.95


def truth_digest(truth: GroundTruth) -> str:
    """Identifies a ground truth by its paths, boxes and labels, wherever it lies and whatever it is called."""
    form = truth.to_json()
    del form["name"]
    return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()[:16]


def metrics_of(result: ProtocolResult) -> dict[str, np.ndarray]:
    """The values for each query of mAP and mP@k, by their names in a report."""
    return {"mAP": result.average_precisions, **{f"mP@{k}": values for k, values in result.precisions.items()}}


def intervals_of(result: ProtocolResult, resamples: int) -> dict[str, Interval]:
    """Bootstrap intervals of a protocol's means over queries; none with ``resamples`` 0."""
    if not resamples:
        return {}
    return {
        name: bootstrap_interval(values, level=LEVEL, resamples=resamples)
        for name, values in metrics_of(result).items()
    }


def protocols_form(measured: Measured, resamples: int) -> dict[str, Any]:
    """The figures of each protocol as fractions, with intervals; None stands for NaN."""
    form = {}
    for name, result in measured.results.items():
        intervals = intervals_of(result, resamples)
        form[name] = {
            **result.to_dict(),
            "intervals": {
                metric: None if math.isnan(interval.low) else [interval.low, interval.high]
                for metric, interval in intervals.items()
            },
        }
    return form


def report_form(
    measured: Measured, truth: GroundTruth, settings: dict[str, Any], pictures: Sequence[str], resamples: int
) -> dict[str, Any]:
    """A result as one JSON object: ``protocols``, ``settings``, ``environment``, and for each query its first answers.

    ``pictures``: the paths of the gallery by position. ``AP`` lists follow the order of ``queries``.
    """
    queries = []
    for query, first in zip(truth.queries, measured.first, strict=True):
        labels = {path: kind for kind in ("easy", "hard", "junk") for path in getattr(query, kind)}
        queries.append(
            {
                "image": query.image,
                "bbox": None if query.bbox is None else list(query.bbox),
                "first": [
                    [path, labels.get(path, "wrong")] for path in (pictures[int(position)] for position in first)
                ],
            }
        )
    settings = {
        "set": truth.name,
        "root": str(truth.root.resolve()),
        "groundtruth": truth_digest(truth),
        "gallery": len(pictures),
        **settings,
        "bootstrap": {"resamples": resamples, "level": LEVEL},
        "cost": {
            "prepare_seconds": round(measured.prepare_seconds, 4),
            "query_ms": None if measured.query_seconds is None else round(1000 * measured.query_seconds, 3),
        },
    }
    return {
        "protocols": protocols_form(measured, resamples),
        "settings": settings,
        "environment": environment(),
        "queries": queries,
    }


def save_report(form: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Write a report, whole or not at all. Raises UsageError for a picture, which would be lost, and DatasetError."""
    path = Path(path)
    spare_pictures(path)
    try:
        write_json(path, form)  # names that are not UTF-8 survive as JSON escapes of lone surrogates
    except OSError as error:
        raise DatasetError(f"{path} cannot be written ({error.strerror})") from error


def load_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a report and check what comparing needs of it. Raises DatasetError."""
    try:
        form = json.loads(Path(path).read_bytes())
        count = len(form["queries"])
        for name, protocol in form["protocols"].items():
            scores = protocol["AP"]
            if len(scores) != count or not all(s is None or (0 <= float(s) <= 1) for s in scores):
                raise ValueError(f"AP of {name} is not a list of {count} fractions")
        for query in form["queries"]:
            if not all(isinstance(p, str) and isinstance(label, str) for p, label in query["first"]):
                raise ValueError("first answers are not paths with labels")
            str(query["image"]), query["bbox"]
        for key in ("set", "root", "groundtruth"):
            str(form["settings"][key])
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DatasetError(
            f"{path} is not a saved evaluation ({type(error).__name__}: {error})", "Make one with --save."
        ) from error
    result: dict[str, Any] = form
    return result


@dataclass(frozen=True)
class Regression:
    """A query on which B's average precision is lower than A's."""

    query: int
    image: str
    before: float
    after: float


def compare_reports(a: dict[str, Any], b: dict[str, Any], resamples: int = 10_000) -> dict[str, Comparison]:
    """B against A by average precision, for each protocol with queries. Raises UsageError when they are of different sets."""
    if a["settings"]["groundtruth"] != b["settings"]["groundtruth"]:
        names = " and ".join(repr(form["settings"]["set"]) for form in (a, b))
        raise UsageError(f"the two results are of different ground truths: {names}")
    common = [name for name in a["protocols"] if name in b["protocols"]]
    compared = {name: compare(_scores(a, name), _scores(b, name), level=LEVEL, resamples=resamples) for name in common}
    return {name: result for name, result in compared.items() if result.difference.queries}


def regressions(a: dict[str, Any], b: dict[str, Any], protocol: str, count: int = 10) -> list[Regression]:
    """The queries that lose most from A to B under a protocol, worst first."""
    before, after = _scores(a, protocol), _scores(b, protocol)
    lost = after - before
    worst = [int(i) for i in np.argsort(lost, kind="stable") if lost[i] < -1e-12]
    return [Regression(i, a["queries"][i]["image"], float(before[i]), float(after[i])) for i in worst[:count]]


def regression_rows(a: dict[str, Any], b: dict[str, Any], worst: Sequence[Regression]) -> list[SheetRow]:
    """For a contact sheet: of each regression the first answers in A, and below them those in B, framed by what they are."""
    marks: dict[str, Any] = {"easy": "positive", "hard": "positive", "junk": "junk", "wrong": "negative"}
    rows = []
    for lost in worst:
        for name, form, score in (("A", a, lost.before), ("B", b, lost.after)):
            query, root = form["queries"][lost.query], form["settings"]["root"]
            own = SheetCell(
                os.path.join(root, query["image"]),
                f"{name}: AP {100 * score:.1f}",
                os.path.basename(query["image"]),
                bbox=query["bbox"],
            )
            answers = [
                SheetCell(os.path.join(root, path), label, os.path.basename(path), mark=marks.get(label))
                for path, label in query["first"]
            ]
            rows.append(SheetRow(own, answers))
    return rows


def _scores(form: dict[str, Any], protocol: str) -> np.ndarray:
    return np.array([np.nan if score is None else score for score in form["protocols"][protocol]["AP"]], np.float64)

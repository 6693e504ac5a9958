"""The plots of a pooling benchmark: mAP over p, robustness, the race."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from retrieval.benchmarks.pooling.methods import SWEPT
from retrieval.benchmarks.pooling.results import PoolingReport, Row, race
from retrieval.pictures.replacing import spare_photos
from retrieval.views.plots import Curve, Entry, plot_exponents, plot_race, plot_robustness

_AVERAGES, _MAXIMA = ("avg", "mean"), ("max", "token-max")
_COLOURED = 7
_NAMES = ("map_over_p.png", "robustness.png", "race.png")
_MOST_IN_RACE = 24


def check_figures(folder: str | os.PathLike[str]) -> None:
    """Known before hours are spent: raises UsageError where a figure would take the place of a picture that is none of ours."""
    for name in _NAMES:
        spare_photos(Path(folder) / name)


def write_figures(report: PoolingReport, folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``map_over_p.png`` (where p was varied), ``robustness.png`` (where noise was added) and ``race.png`` into the
    folder, which must exist. Returns their paths. Raises UsageError where they cannot be written."""
    folder, rows, setting = Path(folder), report.ranked(), report.setting
    subtitle = (
        f"{setting['set']}: {setting['gallery']:,} pictures, {setting['queries']:,} queries, {report.ranked_by} protocol; "
        f"{setting['spec']['backbone']}, longest side {setting['spec']['image']['size']}"
    )
    written = []
    plain = [row for row in rows if row.whitened is None]
    if len(_sweep(plain)) > 1:
        curves = []
        for whitened in dict.fromkeys(row.whitened for row in rows):
            sweep = _sweep([row for row in rows if row.whitened == whitened])
            name = {None: "generalised mean", "other": "whitened", "gallery": "whitened on the gallery itself"}[
                whitened
            ]
            low, high = [row.low for row in sweep], [row.high for row in sweep]
            curves.append(Curve(name, [row.mAP for row in sweep], low, high))
        references = {
            word: row.mAP
            for word, names in (("average", _AVERAGES), ("maximum", _MAXIMA))
            for row in plain
            if row.method in names
        }
        ps = [float(row.p) for row in _sweep(plain) if row.p is not None]
        title = "mAP over the exponent p, with 95 % intervals over queries"
        written.append(folder / "map_over_p.png")
        plot_exponents(written[-1], ps, curves, references, title=title, subtitle=subtitle)
    strengths = [float(strength) for strength in plain[0].noise]
    if len(strengths) > 1:
        chosen = _chosen(plain)
        written.append(folder / "robustness.png")
        plot_robustness(
            written[-1],
            strengths,
            [_noise_curve(row) for row in chosen],
            [_noise_curve(row) for row in plain if row not in chosen],
            title=f"mAP under noise ({setting['noise_queries']} queries)",
            subtitle=subtitle,
        )
    by_name = {row.name: row for row in rows}
    units = {"retrieval": "mAP", "similarity": "AUC of same or different", "classification": "nearest centroid"}
    panels = {
        f"{task} ({units[task]})": [_entry(by_name[name], value, task) for name, value in found[:_MOST_IN_RACE]]
        for task, found in race(rows).items()
    }
    written.append(folder / "race.png")
    plot_race(written[-1], panels, title="The race: one set of features, three jobs", subtitle=subtitle)
    return written


def _sweep(rows: Sequence[Row]) -> list[Row]:
    """The points of the curve over p, by ascending p."""
    points = [row for row in rows if row.p is not None and row.method == f"{row.pooling}:p={row.p:g}"]
    return sorted((row for row in points if row.pooling in SWEPT), key=lambda row: row.p or 0)


def _chosen(rows: Sequence[Row]) -> list[Row]:
    """Those to be told apart by colour: average, maximum, GeM with p = 3, then the best without noise."""
    known = [*_AVERAGES, *_MAXIMA, *(f"{name}:p=3" for name in SWEPT)]
    first = [row for name in known for row in rows if row.method == name]
    # Points of the sweep look alike; one stands for them.
    rest = [row for row in sorted(rows, key=lambda row: -row.mAP) if row not in first and row not in _sweep(rows)]
    return [*first, *rest][:_COLOURED]


def _noise_curve(row: Row) -> Curve:
    return Curve(row.name, list(row.noise.values()))


def _entry(row: Row, value: float, task: str) -> Entry:
    low, high = (row.low, row.high) if task == "retrieval" else (None, None)
    return Entry(row.name, value, low, high, _group(row))


def _group(row: Row) -> str:
    if row.whitened is not None:
        return "whitened"
    for word, names in {
        "average": _AVERAGES,
        "maximum": _MAXIMA,
        "generalised mean": SWEPT,
        "regions": ("rmac", "rgem"),
        "grids": ("grid-avg", "grid-max", "spp"),
        "local, then global": ("local-max", "local-avg", "strided-conv"),
        "class token": ("cls", "cls-mean", "cls-gem"),
    }.items():
        if row.pooling in names:
            return word
    return "others"

"""The course of a run of the recipe "copies" in one picture."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.errors import ModelError
from retrieval.files.whole import whole_file
from retrieval.views.plots import BLUE, GREEN, VERMILION

_PANELS = (
    ("info_nce", "InfoNCE", BLUE, 1.0),
    ("koleo", "KoLeo", BLUE, 1.0),
    ("found", "partners found (%)", VERMILION, 100.0),
    ("p", "exponent p", GREEN, 1.0),
)


def plot_steps(metrics: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str) -> None:
    """Draw the figures of ``metrics.jsonl`` over the steps into the .png ``path``. Raises ModelError where it cannot be
    written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    for axes, (key, label, colour, factor) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        points = [(line["step"], line[key] * factor) for line in metrics if isinstance(line.get(key), int | float)]
        axes.set_title(label, fontsize=9)
        axes.set_xlabel("step", fontsize=9)
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.tick_params(labelsize=8)
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=2)
    try:
        with whole_file(Path(path)) as file, open(file, "wb") as stream:
            figure.savefig(stream, format="png")
    except OSError as error:
        raise ModelError(f"the plot {path} cannot be written ({error.strerror})") from error

"""The course of a run in one picture: loss, mAP and the pooling's exponent over the epochs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrieval.errors import ModelError
from retrieval.files.whole import whole_file
from retrieval.views.plots import BLUE, GREEN, VERMILION

_PANELS = (
    ("loss", "loss a tuple", BLUE, 1.0),
    ("mAP", "validation mAP (%)", VERMILION, 100.0),
    ("p", "exponent p", GREEN, 1.0),
)


def plot_curves(metrics: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], title: str) -> None:
    """Draw the figures of ``metrics.jsonl`` into the picture file ``path`` (.png), replacing it as a whole.

    Epochs without a figure leave a gap; a panel without any says so. Raises ModelError where it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(10.5, 3.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    for axes, (key, label, colour, factor) in zip(figure.subplots(1, 3), _PANELS, strict=True):
        points = [(line["epoch"], line[key] * factor) for line in metrics if isinstance(line.get(key), int | float)]
        axes.set_title(label, fontsize=9)
        axes.set_xlabel("epoch", fontsize=9)
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3)
        else:
            axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes, color="#444444")
    path = Path(path)
    try:
        with whole_file(path) as file, open(file, "wb") as stream:
            figure.savefig(stream, format="png")
    except OSError as error:
        raise ModelError(f"the plot {path} cannot be written ({error.strerror})") from error

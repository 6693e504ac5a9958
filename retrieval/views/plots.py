"""Plots of results, from plain numbers to picture files (the format follows the name: .png, .svg, .pdf).

Colours are those of Okabe and Ito, which people with any kind of colour vision can tell apart; what they say is also said by
the line's style, its marker or a label beside it. No display is needed and no global state is touched.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from retrieval.errors import UsageError
from retrieval.messages import first_line
from retrieval.pictures.replacing import MARK, spare_photos

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#B59F00",  # darker than the original, which is too pale for lines
    "#000000",
)
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK, YELLOW)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
_GREY = "#BBBBBB"
_TEXT = "#444444"


@dataclass(frozen=True)
class Curve:
    """A line with an optional band around it: values and limits go with the plot's x, all as fractions of 1."""

    name: str
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Entry:
    """One competitor in a panel: a value and perhaps its interval, as fractions of 1; ``group`` decides the colour."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    group: str = ""


def plot_exponents(
    path: str | os.PathLike[str],
    ps: Sequence[float],
    curves: Sequence[Curve],
    references: Mapping[str, float],
    *,
    title: str,
    subtitle: str = "",
) -> None:
    """Quality over the exponent p (logarithmic; an infinite p stands at the right end), with horizontal reference lines.

    ``ps`` ascends; ``references`` are values by name. Raises UsageError where the file cannot be written.
    """
    figure, axes = _figure(8.0, 4.8, title, subtitle)
    finite = [p for p in ps if math.isfinite(p)]
    end = 1.6 * finite[-1] if finite else 1.0
    places = [p if math.isfinite(p) else end for p in ps]
    split = len(finite)
    for i, curve in enumerate(curves):
        colour, marker, values = COLOURS[i], _MARKERS[i], _percent(curve.values)
        axes.plot(places[:split], values[:split], color=colour, marker=marker, label=curve.name, zorder=3)
        if split < len(places):  # infinity is not on the scale: the last stretch is dotted
            axes.plot(places[split - 1 :], values[split - 1 :], color=colour, marker=marker, linestyle=":", zorder=3)
        if curve.low is not None and curve.high is not None:
            low, high = _percent(curve.low), _percent(curve.high)
            axes.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0, zorder=1)
            for limit in (low, high):
                axes.plot(places, limit, color=colour, alpha=0.4, linewidth=0.8, zorder=2)
    heights = _apart([100 * value for value in references.values()], axes, 0.05)
    for i, ((name, value), height) in enumerate(zip(references.items(), heights, strict=True)):
        style, colour = ("--", "-.", ":")[i % 3], (ORANGE, VERMILION, GREEN)[i % 3]
        axes.axhline(100 * value, color=colour, linestyle=style, linewidth=1.4, zorder=2)
        _beside(axes, height, f"{name} {100 * value:.1f}", colour)
    axes.set_xscale("log")
    axes.set_xticks(places, [f"{p:g}" if math.isfinite(p) else "∞" for p in ps])
    axes.minorticks_off()
    axes.set_xlabel("p of the generalised mean (1: average, ∞: maximum)")
    axes.set_ylabel("mAP (%)")
    if len(curves) > 1:
        axes.legend(frameon=False, loc="best")
    _save(figure, path)


def plot_robustness(
    path: str | os.PathLike[str],
    strengths: Sequence[float],
    curves: Sequence[Curve],
    others: Sequence[Curve] = (),
    *,
    title: str,
    subtitle: str = "",
) -> None:
    """Quality over the strength of noise: up to eight ``curves`` in colour, each named at its right end, ``others`` in grey.

    Raises UsageError where the file cannot be written.
    """
    figure, axes = _figure(8.0, 4.8, title, subtitle)
    for curve in others:
        axes.plot(strengths, _percent(curve.values), color=_GREY, linewidth=0.9, zorder=1)
    for i, curve in enumerate(curves):
        axes.plot(strengths, _percent(curve.values), color=COLOURS[i % 8], marker=_MARKERS[i % 8], zorder=3)
    heights = _apart([100 * curve.values[-1] for curve in curves], axes, 0.055)
    for i, (curve, height) in enumerate(zip(curves, heights, strict=True)):
        _beside(axes, height, f"{curve.name} {100 * curve.values[-1]:.1f}", COLOURS[i % 8])
    if others:
        axes.plot([], [], color=_GREY, label=f"{len(others)} other poolings")
        axes.legend(frameon=False, loc="lower left")
    axes.set_xticks(list(strengths), [f"{s:g}" for s in strengths])
    axes.set_xlabel("noise on the queries' features, in standard deviations of the features")
    axes.set_ylabel("mAP (%)")
    _save(figure, path)


def plot_race(
    path: str | os.PathLike[str], panels: Mapping[str, Sequence[Entry]], *, title: str, subtitle: str = ""
) -> None:
    """A panel for each task, in it the competitors from best to worst as dots (with interval where there is one), named at
    the left and coloured by group. Values axes do not begin at 0: they are positions, not lengths.

    Raises UsageError where the file cannot be written.
    """
    from matplotlib.ticker import MaxNLocator

    groups = list(dict.fromkeys(entry.group for entries in panels.values() for entry in entries))
    colours = {group: COLOURS[i % 8] for i, group in enumerate(groups)}
    markers = {group: _MARKERS[i % 8] for i, group in enumerate(groups)}
    most = max(len(entries) for entries in panels.values())
    figure, many = _figure(4.3 * len(panels), 1.9 + 0.235 * most, title, subtitle, panels=len(panels))
    for axes, (task, entries) in zip(many, panels.items(), strict=True):
        axes.set_title(task, fontsize=10, loc="left", color=_TEXT)
        for place, entry in enumerate(entries):
            colour = colours[entry.group]
            if entry.low is not None and entry.high is not None:
                axes.plot([100 * entry.low, 100 * entry.high], [place, place], color=colour, alpha=0.35, linewidth=3)
            axes.plot(100 * entry.value, place, color=colour, marker=markers[entry.group], linestyle="", markersize=6)
        labels = [f"{entry.name}  {100 * entry.value:.1f}" for entry in entries]
        axes.set_yticks(range(len(entries)), labels, fontsize=8.5)
        axes.set_ylim(most - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel("%")
    if len(groups) > 1:
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], color=colours[g], marker=markers[g], linestyle="", label=g) for g in groups]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(groups), frameon=False, fontsize=9)
    _save(figure, path)


def _figure(width: float, height: float, title: str, subtitle: str, panels: int = 0) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    made = figure.subplots(1, max(1, panels), squeeze=False)[0]
    for axes in made:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(color="#E6E6E6", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=_TEXT, labelsize=9)
    lines = [title, *textwrap.wrap(subtitle, int(13 * width))]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)
    return figure, made if panels else made[0]


def _percent(values: Sequence[float]) -> list[float]:
    return [100 * value for value in values]


def _beside(axes: Axes, height: float, text: str, colour: str) -> None:
    """A label to the right of the axes, at a height in their own units."""
    axes.annotate(
        text, (1.0, height), xycoords=("axes fraction", "data"), xytext=(6, 0), textcoords="offset points",
        color=_dark(colour), va="center", fontsize=9, annotation_clip=False,
    )  # fmt: skip


def _dark(colour: str) -> tuple[float, ...]:
    """The colour as it can be read as a text on white."""
    return tuple(0.72 * int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _apart(heights: Sequence[float], axes: Axes, share: float) -> list[float]:
    """The heights moved so that neighbours are at least ``share`` of the axes' range apart, as little as may be."""
    low, high = axes.get_ylim()
    low, high = min([low, *heights]), max([high, *heights])
    gap = share * (high - low)
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = list(heights)
    for _ in range(200):
        for below, above in pairwise(order):
            lack = gap - (moved[above] - moved[below])
            if lack > 1e-9:
                moved[below] -= lack / 2
                moved[above] += lack / 2
    return moved


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    spare_photos(path)
    try:
        figure.savefig(path, metadata={"Software": MARK} if os.fspath(path).lower().endswith(".png") else None)
    except (OSError, ValueError) as error:
        raise UsageError(f"the plot {os.fspath(path)} cannot be written: {first_line(error)}") from error

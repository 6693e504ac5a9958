"""``retrieve benchmark local``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.common import (
    NumberList,
    engine_option,
    model_options,
    print_json,
    rows_option,
    teller,
    verbosity_options,
)
from retrieval.cli.grouped import GroupedCommand
from retrieval.messages import human_bytes, progress_bar

if TYPE_CHECKING:
    from retrieval.benchmarks.local.run import LocalRow, SizeRow


@click.command(
    "local",
    cls=GroupedCommand,
    groups={
        "What is compared": "sides points codebooks sizes",
        "Output": "form",
    },
)
@click.argument("dataset", required=False, metavar="[DATASET|GROUNDTRUTH]")
@model_options
@engine_option
@click.option("--sides", type=NumberList(), default="400,512,640", show_default=True, help="Longest sides in pixels.")
@click.option(
    "--points",
    type=NumberList(),
    default="300,400,500",
    show_default=True,
    help="Points a picture, one for each side.",
)
@click.option("--codebook", "codebooks", multiple=True, metavar="FILE", help="Other codebooks, several times.")
@click.option("--sizes", type=NumberList(), help="Instead of a set: galleries of so many drawn codes, for their time.")
@rows_option
@verbosity_options
def command(
    dataset: str | None,
    model: str | None,
    size: int | None,
    scales: tuple[float, ...] | None,
    engine: str,
    sides: tuple[float, ...],
    points: tuple[float, ...],
    codebooks: tuple[str, ...],
    sizes: tuple[float, ...] | None,
    form: str,
    quiet: bool,
    verbose: int,
) -> None:
    """Measure local features: points, picture sizes and codebooks against time, bytes and mAP; or time against gallery size."""
    from retrieval.benchmarks.local.run import benchmark_local, benchmark_sizes, read_codebook
    from retrieval.datasets.load import load_truth
    from retrieval.describe.model import load_model
    from retrieval.errors import UsageError
    from retrieval.ranking.asmk import standard_codebook

    rows: Sequence[LocalRow | SizeRow]
    if sizes:
        if dataset is not None:
            raise UsageError("--sizes goes without a set: its codes are drawn")
        rows = list(benchmark_sizes([int(n) for n in sizes]))
    elif dataset is None:
        raise UsageError("no set was named", "Example: retrieve benchmark local groundtruth.json, or --sizes 10000.")
    else:
        books = [standard_codebook(), *map(read_codebook, codebooks)]
        chosen = load_model(model or "auto", size=size, scales=scales, engine=engine, say=teller(quiet))
        rows = list(
            benchmark_local(
                load_truth(dataset),
                chosen,
                sides=[int(n) for n in sides],
                points=[int(n) for n in points],
                codebooks=books,
                bars=lambda label: progress_bar(label, quiet),
            )
        )
    _print(rows, form)


def _print(rows: Sequence[LocalRow | SizeRow], form: str) -> None:
    if form == "json":
        for row in rows:
            print_json(asdict(row))
        return
    for line in _table(rows):
        print("  ".join(cell.rjust(12) for cell in line))


def _table(rows: Sequence[Any]) -> list[list[str]]:
    if hasattr(rows[0], "pictures"):
        head = ["pictures", "ms a query", "95 %", "of bytes"]
        return [head] + [
            [str(r.pictures), f"{r.milliseconds:.1f}", f"{r.p95:.1f}", human_bytes(int(r.bytes * r.pictures))]
            for r in rows
        ]
    head = ["words", "side", "points", "ms a picture", "bytes", "cosine mAP", "local mAP", "fused mAP"]
    return [head] + [
        [
            str(r.words),
            str(r.side),
            str(r.points),
            f"{r.milliseconds:.1f}",
            f"{r.bytes:.0f}",
            *(f"{100 * value:.2f}" for value in (r.cosine, r.local, r.fused)),
        ]
        for r in rows
    ]

"""``retrieve benchmark tokens``."""

from __future__ import annotations

import click

from retrieval.cli.common import (
    OutputFile,
    engine_option,
    model_options,
    print_json,
    rows_option,
    teller,
    verbosity_options,
)
from retrieval.cli.grouped import GroupedCommand


@click.command(
    "tokens",
    cls=GroupedCommand,
    groups={
        "What is compared": "schedules methods",
        "Measuring": "images count rounds",
        "Output": "save form",
    },
)
@click.argument("dataset", required=False, metavar="[DATASET|GROUNDTRUTH]")
@model_options
@engine_option
@click.option(
    "--schedules",
    default="30%,42%,55%",
    show_default=True,
    help="Schedules of Token Pooling, separated by commas: 42%, 4:0.37, 4:0.5+8:0.25.",
)
@click.option(
    "--methods", default="kmeans", show_default=True, help="kmeans, kmedoids, weighted-kmeans ..., topk; or all."
)
@click.option("--images", metavar="DIR", help="Pictures to time (default: the set's, or drawn ones).")
@click.option(
    "--count", type=click.IntRange(min=1), default=16, show_default=True, help="How many pictures a round takes."
)
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Each runs once in each.")
@click.option(
    "--save", type=OutputFile(), metavar="FILE", help="Also write the rows and the machine they belong to, as JSON."
)
@rows_option
@verbosity_options
def command(
    dataset: str | None,
    model: str | None,
    size: int | None,
    scales: tuple[float, ...] | None,
    engine: str,
    schedules: str,
    methods: str,
    images: str | None,
    count: int,
    rounds: int,
    save: str | None,
    form: str,
    quiet: bool,
    verbose: int,
) -> None:
    """Compare schedules and methods of Token Pooling for a vision transformer: multiplications and time saved, cosine to the
    unreduced descriptors and, on a set with ground truth, mAP lost. All run on the same pictures in turn.
    """
    import tempfile
    from dataclasses import asdict

    from retrieval.benchmarks.speed.pictures import draw_pictures
    from retrieval.benchmarks.tokens.run import benchmark_tokens, reduced_models, table, write_rows
    from retrieval.datasets.load import load_truth
    from retrieval.describe.model import load_model
    from retrieval.errors import UsageError
    from retrieval.pictures.scan import pictures_in
    from retrieval.pooling.schedules import METHODS

    tell = teller(quiet)
    if model is None:
        raise UsageError("no vision transformer was named", "Example: --model deit_small-cls@random:0.")
    chosen = load_model(model, size=size, scales=scales, engine=engine, say=tell)
    asked, by = schedules.split(","), METHODS if methods == "all" else methods.split(",")
    reduced_models(chosen, asked, by)  # what cannot be is refused before pictures are drawn
    truth = None if dataset is None else load_truth(dataset)
    with tempfile.TemporaryDirectory(prefix="retrieval-pictures-") as folder:
        if images is not None:
            paths = [str(path) for path in pictures_in([images])]
        elif truth is not None:
            paths = [str(truth.root / path) for path in truth.gallery]
        else:
            tell(f"drawing {count} pictures")
            paths = draw_pictures(folder, count)
        if not paths:
            raise UsageError(f"there are no pictures in {images}")
        rows = benchmark_tokens(
            chosen,
            paths,
            schedules=asked,
            methods=by,
            truth=truth,
            count=count,
            rounds=rounds,
            say=tell,
        )
    if save is not None:
        write_rows(rows, chosen, save)
    if form == "json":
        for row in rows:
            print_json(asdict(row))
    else:
        print(table(rows))

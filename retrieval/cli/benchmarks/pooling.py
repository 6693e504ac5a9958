"""``retrieve benchmark pooling``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from retrieval.cli.common import NumberList, form_option, print_json, teller, verbosity_options
from retrieval.cli.grouped import GroupedCommand
from retrieval.messages import progress_bar

if TYPE_CHECKING:
    from retrieval.datasets.groundtruth import GroundTruth


@click.command(
    "pooling",
    cls=GroupedCommand,
    groups={
        "Set": "data images exif",
        "What is compared": "methods ps baseline whiten_on",
        "Measuring": "noise bootstrap seed",
        "Output": "out form",
    },
)
@click.argument("truth", metavar="SET")
@click.option(
    "--model", metavar="NAME", default="auto", show_default=True, help="Whose backbone looks at the pictures."
)
@click.option(
    "--size", type=click.IntRange(16, 16384), help="Longest side in pixels, downscale only (default: the model's)."
)
@click.option("--p", "ps", type=NumberList(), help="Exponents of GeM (default: 1,1.5,2,3,4,5,6,8,10,inf).")
@click.option(
    "--methods",
    default="all",
    show_default=True,
    help="Poolings, such as avg,max,gem:p=3,spp:mode=avg; gem alone stands for all of --p.",
)
@click.option("--baseline", metavar="METHOD", help="What the others are compared with (default: the average).")
@click.option(
    "--noise",
    type=NumberList(),
    default="0.1,0.25,0.5,1",
    show_default=True,
    help="Noise on the queries' features, in their standard deviations; 0 for none.",
)
@click.option(
    "--bootstrap", type=click.IntRange(min=1), default=1000, show_default=True, help="Resamples for the intervals."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of noise and resamples.")
@click.option(
    "--whiten-on",
    metavar="FOLDER",
    help="Other pictures to fit a PCA-whitening on; 'gallery' fits it on the searched gallery and marks the rows.",
)
@click.option("--data", default="data", show_default=True, metavar="DIR", help="The folder of downloaded sets.")
@click.option("--images", metavar="DIR", help="The folder of the pictures, where it is not found by itself.")
@click.option(
    "--exif/--no-exif", default=None, help="Apply EXIF orientation (default: the model's rule; off for benchmarks)."
)
@click.option("--out", type=click.Path(file_okay=False), help="Folder for results.csv, results.json and plots.")
@form_option("How results are printed; json is one row a line.", "csv")
@verbosity_options
def command(
    truth: str,
    model: str,
    size: int | None,
    ps: tuple[float, ...] | None,
    methods: str,
    baseline: str | None,
    noise: tuple[float, ...],
    bootstrap: int,
    seed: int,
    whiten_on: str | None,
    data: str,
    images: str | None,
    exif: bool | None,
    out: str | None,
    form: str,
    quiet: bool,
    verbose: int,
) -> None:
    """Compare poolings on a set with ground truth: GeM over p, average, maximum and the others.

    SET is a ground truth (.json, or the .pkl of Revisited Oxford and Paris), a list of path,label lines, a folder of
    labelled pictures, a downloaded set by its name, or the word synthetic for a set drawn by code. The backbone sees each
    picture once; every pooling gets what it saw.

    \b
    retrieve benchmark pooling truth.json --out report   all of them, with plots
    retrieve benchmark pooling photos/ --methods gem,avg --noise 0    quickly
    """
    import sys

    from retrieval.benchmarks.pooling.methods import split_names
    from retrieval.benchmarks.pooling.results import tables, write_csv, write_results
    from retrieval.benchmarks.pooling.run import benchmark_pooling
    from retrieval.describe.model import load_model

    tell = teller(quiet)
    if out is not None:
        from retrieval.benchmarks.pooling.figures import check_figures

        check_figures(out)
    with _ground_truth(truth, data, images, tell) as (ground_truth, published):
        if exif is None and published:
            exif = False  # the benchmarks' boxes and published figures know no orientation
        chosen = load_model(model, size=size, scales=(1.0,), exif=exif, say=tell)
        with progress_bar("extract", quiet) as update:
            report = benchmark_pooling(
                chosen,
                ground_truth,
                ps=ps,
                methods=split_names(methods),
                baseline=baseline,
                noise=noise,
                bootstrap=bootstrap,
                seed=seed,
                whiten_on=whiten_on,
                progress=update,
                say=tell,
            )
    for note in report.notes:
        tell(f"note: {note}")
    if out is not None:
        from retrieval.benchmarks.pooling.figures import write_figures

        written = [*write_results(report, out), *write_figures(report, out)]
        tell(f"written: {', '.join(str(path) for path in written)}")
    if form == "json":
        for row in report.rows:
            print_json(row.to_dict())
    elif form == "csv":
        write_csv(report.rows, sys.stdout)
    else:
        print(tables(report))


@contextmanager
def _ground_truth(
    name: str, data: str, images: str | None, tell: Callable[[str], None]
) -> Iterator[tuple[GroundTruth, bool]]:
    """The set, and whether it is one of the published benchmarks. ``synthetic`` is drawn into a temporary folder, unless
    there is a file or folder of that name."""
    import os
    import tempfile

    if name != "synthetic" or os.path.exists(name):
        from retrieval.datasets.load import load_truth
        from retrieval.datasets.published.sets import SETS

        truth = load_truth(name, data, images, tell)
        yield truth, truth.name in SETS or name.lower().endswith(".pkl")
        return
    from retrieval.datasets.synthetic.make import make_synthetic

    with tempfile.TemporaryDirectory(prefix="retrieval-synthetic-") as folder:
        tell("drawing a synthetic set of 40 objects")
        yield make_synthetic(folder, train_objects=0), False

"""``retrieve benchmark``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from retrieval.cli.common import NumberList, print_json, progress_bar, safe, say, verbosity_options

if TYPE_CHECKING:
    from retrieval.datasets.groundtruth import GroundTruth


@click.group("benchmark")
def command() -> None:
    """Measure and compare."""


@command.command("pooling")
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
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv"]),
    default="table",
    show_default=True,
    help="How results are printed; json is one row a line.",
)
@verbosity_options
def pooling(
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
    """
    import sys

    from retrieval.benchmarks.pooling.methods import DEFAULT_PS, split_names
    from retrieval.benchmarks.pooling.results import tables, write_csv, write_results
    from retrieval.benchmarks.pooling.run import benchmark_pooling
    from retrieval.describe.model import load_model

    def tell(message: str) -> None:
        say(safe(message), quiet)

    with _ground_truth(truth, data, images, tell) as (ground_truth, published):
        if exif is None and published:
            exif = False  # the benchmarks' boxes and published figures know no orientation
        chosen = load_model(model, size=size, scales=(1.0,), exif=exif, say=tell)
        with progress_bar("extract", quiet) as update:
            report = benchmark_pooling(
                chosen,
                ground_truth,
                ps=ps or DEFAULT_PS,
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


form_option = click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How results are printed; json is one row a line.",
)


@command.command("ann")
@click.option(
    "--sizes",
    type=NumberList(),
    default="10000,100000,1000000",
    show_default=True,
    help="How many vectors, one gallery for each number.",
)
@click.option(
    "--kinds",
    default="ivf",
    show_default=True,
    help="Search indexes to compare with exact search: ivf,hnsw,ivfpq; a FAISS factory string goes alone.",
)
@click.option("--gallery", metavar="DIR", help="A gallery whose vectors are varied (default: vectors are drawn).")
@click.option(
    "--dim", type=click.IntRange(8, 8192), default=512, show_default=True, help="Dimensions of vectors that are drawn."
)
@click.option(
    "--recall",
    type=click.FloatRange(0.5, 1),
    default=0.98,
    show_default=True,
    help="What each kind must find of the first 10.",
)
@click.option(
    "--queries", type=click.IntRange(min=1), default=200, show_default=True, help="Queries besides the labelled ones."
)
@click.option("--threads", type=click.IntRange(min=1), help="Threads for FAISS (default: all).")
@click.option("--dtype", type=click.Choice(["float32", "float16"]), default="float32", show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the vectors.")
@click.option(
    "--work", type=click.Path(exists=True, file_okay=False), help="Where galleries are made (default: $TMPDIR)."
)
@click.option("--save", metavar="FILE", help="Also write the figures and the machine they belong to, as JSON.")
@form_option
@verbosity_options
def ann(
    sizes: tuple[float, ...],
    kinds: str,
    gallery: str | None,
    dim: int,
    recall: float,
    queries: int,
    threads: int | None,
    dtype: str,
    seed: int,
    work: str | None,
    save: str | None,
    form: str,
    quiet: bool,
    verbose: int,
) -> None:
    """Compare approximate search with exact search: recall, mAP, time for a query, memory, building, keeping up.

    Galleries of vectors that look like descriptors are made in a temporary folder; the index answers one query at a time,
    with the catalog and exact scores included. A million vectors of 512 dimensions take 5 GB of disk.
    """
    from dataclasses import asdict

    from retrieval.benchmarks.ann.run import benchmark_ann, table, write_report
    from retrieval.gallery.search.kind import KINDS

    names = kinds.split(",")
    if not all(name in KINDS for name in names):
        names = [kinds]  # a factory string has commas of its own
    options = {
        "dim": dim,
        "recall": recall,
        "queries": queries,
        "threads": threads,
        "dtype": dtype,
        "folder": work,
        "seed": seed,
        "say": lambda message: say(safe(message), quiet),
    }
    counts = [int(size) for size in sizes]
    if gallery is None:
        report = benchmark_ann(counts, names, **options)  # type: ignore[arg-type]
    else:
        from retrieval.gallery.gallery import Gallery

        with Gallery.open(gallery) as opened:
            report = benchmark_ann(counts, names, gallery=opened, **options)  # type: ignore[arg-type]
    if save is not None:
        write_report(report, save)
    if form == "json":
        for row in report.rows:
            print_json(asdict(row))
    else:
        print(table(report))


@command.command("speed")
@click.option(
    "--model", metavar="NAME", default="auto", show_default=True, help="BACKBONE-POOLING, or a checkpoint's path."
)
@click.option("--random-weights", is_flag=True, help="Untrained weights: as fast, and nothing is downloaded.")
@click.option(
    "--size", "sizes", type=NumberList(), help="Longest sides in pixels, such as 512,1024 (default: the model's)."
)
@click.option("--scales", type=NumberList(), help="Multi-scale description, such as 1,0.7071,0.5 (default: 1).")
@click.option("--images", metavar="DIR", help="A folder of pictures (default: pictures are drawn).")
@click.option("--engines", default="torch,openvino", show_default=True, help="Compared with the reference loop.")
@click.option("--precision", "precisions", default="fp32", show_default=True, help="fp32, int8 or fp32,int8.")
@click.option(
    "--count", type=click.IntRange(min=1), default=16, show_default=True, help="How many pictures a round takes."
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Each engine runs once in each."
)
@click.option("--index/--no-index", "whole", default=True, help="Also index all the pictures, end to end.")
@click.option("--save", metavar="FILE", help="Also write the rows and the machine they belong to, as JSON.")
@form_option
@verbosity_options
def speed(
    model: str,
    random_weights: bool,
    sizes: tuple[float, ...] | None,
    scales: tuple[float, ...] | None,
    images: str | None,
    engines: str,
    precisions: str,
    count: int,
    rounds: int,
    whole: bool,
    save: str | None,
    form: str,
    quiet: bool,
    verbose: int,
) -> None:
    """Time every engine against the field's usual loop: one picture at a time through eager float32 torch.

    All run on the same pictures in turn, so that the ratios hold where the machine's speed drifts; descriptors are
    compared with the reference's. Then all pictures are indexed, from files to a gallery, and memory is measured.
    """
    import tempfile

    from retrieval.benchmarks.speed.pictures import draw_pictures
    from retrieval.benchmarks.speed.run import benchmark_speed, row_dict, table, write_report
    from retrieval.describe.model import load_model
    from retrieval.engines.base import ENGINES, PRECISIONS
    from retrieval.errors import UsageError
    from retrieval.models.zoo import EMBEDDED
    from retrieval.pictures.scan import pictures_in

    def tell(message: str) -> None:
        say(safe(message), quiet)

    lists = {"--engines": (engines.split(","), ENGINES), "--precision": (precisions.split(","), PRECISIONS)}
    for option, (given, known) in lists.items():
        if unknown := [name for name in given if name not in known]:
            raise UsageError(f"{option} does not know {unknown[0]!r}", f"Known: {', '.join(known)}.")
    if random_weights and "@" not in model:
        model = f"{EMBEDDED if model == 'auto' else model}@random:0"
    chosen = load_model(model, scales=scales, say=tell)
    with tempfile.TemporaryDirectory(prefix="retrieval-pictures-") as folder:
        if images is None:
            tell(f"drawing {max(count, 32)} pictures")
            paths = draw_pictures(folder, max(count, 32))
        else:
            paths = pictures_in([images])
            if not paths:
                raise UsageError(f"there are no pictures in {images}")
        report = benchmark_speed(
            chosen,
            paths,
            sizes=[int(size) for size in sizes or (chosen.spec.image.size or 1024,)],
            engines=engines.split(","),
            precisions=precisions.split(","),
            count=count,
            rounds=rounds,
            index=whole,
            say=tell,
        )
    if save is not None:
        write_report(report, save)
    if form == "json":
        for row in report.rows:
            print_json(row_dict(row))
    else:
        print(table(report))


@contextmanager
def _ground_truth(
    name: str, data: str, images: str | None, tell: Callable[[str], None]
) -> Iterator[tuple[GroundTruth, bool]]:
    """The set, and whether it is one of the published benchmarks. ``synthetic`` is drawn into a temporary folder, unless
    there is a file or folder of that name."""
    import os
    import tempfile

    if name != "synthetic" or os.path.exists(name):
        from retrieval.cli.evaluate import load_truth
        from retrieval.datasets.published.sets import SETS

        truth = load_truth(name, data, images)
        yield truth, truth.name in SETS or name.lower().endswith(".pkl")
        return
    from retrieval.datasets.synthetic.make import make_synthetic

    with tempfile.TemporaryDirectory(prefix="retrieval-synthetic-") as folder:
        tell("drawing a synthetic set of 40 objects")
        yield make_synthetic(folder, train_objects=0), False

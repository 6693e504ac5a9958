"""``retrieve benchmark ann``."""

from __future__ import annotations

import click

from retrieval.cli.common import NumberList, OutputFile, print_json, rows_option, teller, verbosity_options
from retrieval.cli.grouped import GroupedCommand


@click.command(
    "ann",
    cls=GroupedCommand,
    groups={
        "What is compared": "kinds recall",
        "Vectors": "sizes gallery dim dtype seed",
        "Measuring": "queries threads work",
        "Output": "save form",
    },
)
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
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="How vectors are stored.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the vectors.")
@click.option(
    "--work", type=click.Path(exists=True, file_okay=False), help="Where galleries are made (default: $TMPDIR)."
)
@click.option(
    "--save", type=OutputFile(), metavar="FILE", help="Also write the figures and the machine they belong to, as JSON."
)
@rows_option
@verbosity_options
def command(
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

    from retrieval.benchmarks.ann.results import table, write_report
    from retrieval.benchmarks.ann.run import benchmark_ann
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
        "say": teller(quiet),
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

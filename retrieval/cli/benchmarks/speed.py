"""``retrieve benchmark speed``."""

from __future__ import annotations

import click

from retrieval.cli.common import (
    NumberList,
    OutputFile,
    print_json,
    rows_option,
    teller,
    tokens_option,
    verbosity_options,
)
from retrieval.cli.grouped import GroupedCommand


@click.command(
    "speed",
    cls=GroupedCommand,
    groups={
        "What is compared": "engines precisions sizes scales tokens",
        "Model": "model random_weights",
        "Measuring": "images count rounds whole",
        "Output": "save form",
    },
)
@click.option(
    "--model", metavar="NAME", default="auto", show_default=True, help="BACKBONE-POOLING, or a checkpoint's path."
)
@click.option("--random-weights", is_flag=True, help="Untrained weights: as fast, and nothing is downloaded.")
@click.option(
    "--size", "sizes", type=NumberList(), help="Longest sides in pixels, such as 512,1024 (default: the model's)."
)
@click.option("--scales", type=NumberList(), help="Multi-scale description, such as 1,0.7071,0.5 (default: 1).")
@tokens_option
@click.option("--images", metavar="DIR", help="A folder of pictures (default: pictures are drawn).")
@click.option(
    "--engines",
    default="torch,openvino",
    show_default=True,
    help="Compared with the reference loop; batched is that loop on eight pictures of one shape.",
)
@click.option(
    "--precision",
    "precisions",
    default="fp32",
    show_default=True,
    help="Several of fp32, bf16, int8, such as fp32,bf16.",
)
@click.option(
    "--count", type=click.IntRange(min=1), default=16, show_default=True, help="How many pictures a round takes."
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Each engine runs once in each."
)
@click.option("--index/--no-index", "whole", default=True, help="Also index all the pictures, end to end.")
@click.option(
    "--save", type=OutputFile(), metavar="FILE", help="Also write the rows and the machine they belong to, as JSON."
)
@rows_option
@verbosity_options
def command(
    model: str,
    random_weights: bool,
    sizes: tuple[float, ...] | None,
    scales: tuple[float, ...] | None,
    tokens: str | None,
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
    from retrieval.benchmarks.speed.results import row_dict, table, write_report
    from retrieval.benchmarks.speed.run import BATCHED, benchmark_speed
    from retrieval.describe.model import load_model
    from retrieval.engines.base import ENGINES, PRECISIONS
    from retrieval.errors import UsageError
    from retrieval.models.registry import EMBEDDED
    from retrieval.pictures.scan import pictures_in

    tell = teller(quiet)
    lists = {"--engines": (engines.split(","), (*ENGINES, BATCHED)), "--precision": (precisions.split(","), PRECISIONS)}
    for option, (given, known) in lists.items():
        if unknown := [name for name in given if name not in known]:
            raise UsageError(f"{option} does not know {unknown[0]!r}", f"Known: {', '.join(known)}.")
    if random_weights and "@" not in model:
        model = f"{EMBEDDED if model == 'auto' else model}@random:0"
    chosen = load_model(model, scales=scales, tokens=tokens, say=tell)
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

"""``retrieve describe``."""

from __future__ import annotations

from typing import Any

import click

from retrieval.cli.common import (
    Name,
    engine_option,
    form_option,
    model_options,
    print_json,
    say,
    tell_saving,
    teller,
    tokens_option,
    verbosity_options,
)
from retrieval.cli.grouped import GroupedCommand
from retrieval.messages import count_of, progress_bar, safe


class Share(click.ParamType):
    """``3/64``: the third of 64."""

    name = "I/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        own, _, count = str(value).partition("/")
        if not (own.isdecimal() and count.isdecimal() and 1 <= int(own) <= int(count)):
            self.fail(f"{value!r} is not I/N with 1 <= I <= N", param, ctx)
        return int(own), int(count)


@click.command(
    "describe",
    cls=GroupedCommand,
    groups={
        "Parts": "out share shard_size no_local",
        "Model": "model size scales tokens no_exif engine",
        "Ray": "where workers cpus gpus",
        "Running": "picture_memory timeout form",
    },
)
@click.argument("source", type=Name(), metavar="SOURCE")
@click.option("--out", required=True, metavar="PARTS", help="Folder of the parts, which all workers reach.")
@model_options
@tokens_option
@engine_option
@click.option(
    "--shard",
    "share",
    type=Share(),
    default=(1, 1),
    metavar="I/N",
    help="The work of the I-th of N processes alone (default: 1/1, all of it).",
)
@click.option(
    "--shard-size",
    type=click.IntRange(1, 1_000_000),
    default=1000,
    show_default=True,
    help="Pictures in a shard, when the manifest is made.",
)
@click.option("--no-local", is_flag=True, help="No local codes, by which the same thing is found and verified.")
@click.option("--no-exif", is_flag=True, help="Ignore EXIF orientation (as the published benchmarks do).")
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 3600),
    default=20.0,
    show_default=True,
    help="Seconds that a picture at a web address may take, each of three tries.",
)
@click.option("--on", "where", metavar="ray[://HOST:PORT]", help="Describe on Ray: here, or on a cluster.")
@click.option("--workers", type=click.IntRange(1), help="On Ray: at most so many (default: the CPUs but one).")
@click.option("--cpus-per-worker", "cpus", type=click.FloatRange(0.01), default=1.0, show_default=True, help="On Ray.")
@click.option("--gpus-per-worker", "gpus", type=click.FloatRange(0), default=0.0, show_default=True, help="On Ray.")
@form_option("How the summary is printed.")
@verbosity_options
def command(
    source: str,
    out: str,
    model: str | None,
    size: int | None,
    scales: tuple[float, ...] | None,
    tokens: str | None,
    engine: str,
    share: tuple[int, int],
    shard_size: int,
    no_local: bool,
    no_exif: bool,
    timeout: float,
    where: str | None,
    workers: int | None,
    cpus: float,
    gpus: float,
    form: str,
    quiet: bool,
    verbose: int,
) -> int:
    """Describe the pictures of SOURCE into parts, which `retrieve index PARTS` takes into a gallery.

    SOURCE: a folder, WebDataset .tar files, .parquet files with bytes or addresses, a .txt with a path or URI a line; here or
    at s3://, gs://, memory:// (fsspec). Any number of processes may work on one PARTS, each with its --shard I/N. What is
    there is not described again; a shard that fails three times is reported, and the exit status is 1.
    """
    from retrieval.describe.choice import ModelChoice
    from retrieval.errors import UsageError
    from retrieval.parts.on_ray import check_ray, describe_on_ray
    from retrieval.parts.run import describe_parts

    tell = teller(quiet)
    if out.startswith("memory://"):
        tell(f"warning: {out} is gone when this command ends; name a folder, or a place that stays")
    if where is not None:
        check_ray(where)
        if share != (1, 1):
            raise UsageError("--shard is for processes without an engine", "Ray divides the shards by itself.")
    chosen = ModelChoice(model, size, scales, not no_exif, tokens).load(engine, tell)
    if tokens:
        tell_saving(chosen.spec, tell)
    with progress_bar("describe", quiet, unit="shard") as update:
        local = not no_local
        if where is None:
            report = describe_parts(
                source,
                out,
                chosen,
                share=share,
                shard_size=shard_size,
                local=local,
                timeout=timeout,
                progress=update,
                say=tell,
            )
        else:
            report = describe_on_ray(
                source,
                out,
                chosen,
                where=where,
                workers=workers,
                cpus=cpus,
                gpus=gpus,
                shard_size=shard_size,
                local=local,
                timeout=timeout,
                progress=update,
                say=tell,
            )
    if form == "json":
        print_json({"parts": out, **vars(report)})
    else:
        before = report.shards - report.described - len(report.failed)
        print(
            f"{report.described} of {count_of(report.shards, 'shard')} described into {safe(out)} "
            f"({count_of(report.pictures, 'picture')}), {before} done before"
        )
    for shard, why in report.failed.items():
        say(f"retrieve: shard {shard} failed: {safe(why)}")
    return 1 if report.failed else 0

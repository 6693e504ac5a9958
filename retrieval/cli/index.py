"""``retrieve index``."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from retrieval.cli.common import (
    Name,
    engine_option,
    form_option,
    index_option,
    model_options,
    print_json,
    say,
    tell_saving,
    tokens_option,
    verbosity_options,
)
from retrieval.cli.grouped import GroupedCommand
from retrieval.files.paths import nearly, show_path
from retrieval.messages import count_of, progress_bar, safe

if TYPE_CHECKING:
    from retrieval.describe.precision import Precision
    from retrieval.gallery.work import SyncReport


@click.command(
    "index",
    cls=GroupedCommand,
    groups={
        "Gallery and pictures": "index exclude include restore rehash repair status",
        "Model of a new gallery": "model size scales tokens no_exif precision calibrate_on dtype",
        "Search": "ann recall local",
        "Running": "engine picture_memory thumbnails strict form",
    },
)
@click.argument("paths", nargs=-1, type=Name(), metavar="[PATH]...")
@index_option
@model_options
@tokens_option
@engine_option
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    help="How a new gallery stores vectors (default: float32); float16 takes half the room.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "int8"]),
    help="What a new gallery's network computes in (default: fp32). bf16 and int8 lose a little, which is measured on the "
    "pictures and printed; auto takes bf16 where the processor has it and the loss is harmless.",
)
@click.option(
    "--calibrate-on",
    metavar="DIR",
    help="Pictures like those to come, on which int8 is calibrated and losses are measured (default: the pictures of PATH).",
)
@click.option(
    "--no-exif", is_flag=True, help="A new gallery ignores EXIF orientation (as the published benchmarks do)."
)
@click.option(
    "--ann",
    metavar="KIND",
    help="Search index, kept with the gallery: auto (default), flat (exact), hnsw, ivf, ivfpq or a FAISS factory string.",
)
@click.option(
    "--recall",
    type=click.FloatRange(0.5, 1),
    help="Share of the true first 10 that an approximate search index must find, kept with the gallery (default: 0.98).",
)
@click.option(
    "--local/--no-local",
    default=None,
    help="Keep a local index, by which the same thing is found and verified (default: yes), or none, from now on: --no-local "
    "deletes the one that is there.",
)
@click.option(
    "--exclude",
    multiple=True,
    metavar="PATTERN",
    help="Leave out files and folders of this name or path (shell wildcards), from now on; several times.",
)
@click.option("--include", multiple=True, metavar="PATTERN", help="No longer leave out what an earlier --exclude said.")
@click.option("--restore", is_flag=True, help="Take in again what `retrieve remove` took out.")
@click.option(
    "--rehash", is_flag=True, help="Look at the content of every file, also where its size and times are the same."
)
@click.option(
    "--thumbnails",
    is_flag=True,
    help="Also keep a small picture of each new one for `retrieve serve`, up to 1 GB in all.",
)
@click.option(
    "--strict",
    is_flag=True,
    help="Exit status 1 when a picture could not be read, or an indexed folder is gone or empty.",
)
@click.option("--status", is_flag=True, help="Only tell which shards of PARTS are done, missing and bad.")
@click.option("--repair", is_flag=True, help="First mend a damaged gallery from what is intact in it.")
@form_option("How the summary is printed.")
@verbosity_options
def command(
    paths: tuple[str, ...],
    index: str | None,
    model: str | None,
    size: int | None,
    scales: tuple[float, ...] | None,
    tokens: str | None,
    engine: str,
    dtype: str | None,
    precision: Precision | None,
    calibrate_on: str | None,
    no_exif: bool,
    ann: str | None,
    recall: float | None,
    local: bool | None,
    exclude: tuple[str, ...],
    include: tuple[str, ...],
    restore: bool,
    rehash: bool,
    thumbnails: bool,
    strict: bool,
    status: bool,
    repair: bool,
    form: str,
    quiet: bool,
    verbose: int,
) -> int:
    """Bring the gallery in line with folders and pictures.

    New pictures are described, changed ones again, vanished ones dropped; renamed or copied ones are recognised by
    their content. Without PATH: everything that was indexed before. Interrupted, it continues where it was.

    PATH may be a folder of parts, which `retrieve describe` made: what they hold is taken in.

    \b
    retrieve index photos/              makes ./.retrieval, or adds to it
    retrieve index                      again, whenever pictures have changed
    retrieve index --exclude drafts     leaves out what is called so
    """
    from retrieval.describe.choice import ModelChoice
    from retrieval.errors import UsageError
    from retrieval.gallery.address import DEFAULT_FOLDER, holds_gallery, locate, served_address
    from retrieval.gallery.description import precision_of
    from retrieval.gallery.gallery import Gallery
    from retrieval.gallery.same_model import require_same_dtype, require_same_model
    from retrieval.gallery.search.kind import check_request
    from retrieval.parts.manifest import is_parts
    from retrieval.pictures.foreign import passed_over

    def tell(message: str) -> None:
        say(message, quiet)

    asked = ModelChoice(model, size, scales, not no_exif, tokens)
    parts = [path for path in paths if is_parts(path)]
    if status or parts:
        from retrieval.cli import parts as of_parts

        if tokens:
            raise UsageError("parts carry their model, its schedule of tokens too", "Leave out --tokens.")
        if status and not paths:
            raise UsageError("--status tells of parts", "Name their folder: retrieve index --status PARTS.")
        if len(parts) < len(paths):
            other = next(path for path in paths if path not in parts)
            if status:
                raise UsageError(f"{safe(other)} holds no parts (no manifest.json)", "retrieve describe makes them.")
            raise UsageError(
                f"{safe(other)} holds no parts, and parts are taken in by themselves", "Name the two in two commands."
            )
        if status:
            return of_parts.tell_status(parts, form)
        merging = of_parts.Merging(asked, dtype, local, engine)
        if served := served_address(index):
            return of_parts.merge_served(parts, served, merging, form, quiet)
        return of_parts.merge(parts, locate(index) or Path(DEFAULT_FOLDER), merging, form, quiet)
    if served := served_address(index):
        from retrieval.cli.served import index_served

        refused = {
            "--dtype float16": dtype == "float16",
            f"--precision {precision}": precision not in (None, "fp32"),
            "--calibrate-on": calibrate_on,
            "--local": local,
            "--ann": ann,
            "--recall": recall,
            "--exclude": exclude,
            "--include": include,
            "--restore": restore,
            "--rehash": rehash,
            "--thumbnails": thumbnails,
            "--repair": repair,
        }
        for name in (name for name, given in refused.items() if given):
            raise UsageError(f"{name} is for galleries in a folder", "A served one goes without.")
        return index_served(paths, served, asked, engine, form, strict, quiet)
    if calibrate_on is not None and precision in (None, "fp32"):
        raise UsageError("--calibrate-on goes with --precision int8, bf16 or auto")
    folder = locate(index) or Path(DEFAULT_FOLDER)
    if repair:
        from retrieval.gallery.repair import repair as mend

        for line in mend(folder) or ["nothing was damaged"]:
            tell(f"repair: {safe(line)}")
    present = holds_gallery(folder)
    if present:
        gallery = Gallery.open(folder, engine=engine, warn=tell)
        require_same_model(gallery, asked, tell)
        require_same_dtype(gallery, dtype)
        own = precision_of(gallery.description)
        if precision not in (None, "auto", own):
            raise UsageError(
                f"the gallery {folder} is described with {own}", "Another precision needs another gallery (--index)."
            )
        if no_exif and gallery.spec.image.exif:
            raise UsageError(
                f"the gallery {folder} was made with EXIF orientation",
                "Another rule needs another gallery (--index).",
            )
    else:
        if not paths:
            raise UsageError(
                "there is no gallery here yet and no folder was named", "Example: retrieve index ./images."
            )
        missing = [p for p in (*paths, *([calibrate_on] if calibrate_on else [])) if not Path(p).exists()]
        if missing:
            raise UsageError(f"there is no file or folder '{safe(missing[0])}'{safe(nearly(missing[0]))}")
        chosen = asked.load(engine, tell)
        if tokens:
            tell_saving(chosen.spec, tell)
        check_request(ann or "auto", chosen.spec.dim, 1.0 if recall is None else recall)
        gallery = Gallery.create(
            folder,
            chosen,
            dtype=dtype or "float32",
            precision=precision,
            calibrate_on=paths if calibrate_on is None else (calibrate_on,),
        )
    gallery.configure_search(ann, recall)
    gallery.configure_local(local)
    try:
        with gallery, progress_bar("index", quiet) as update:
            report = gallery.index(
                list(paths) or None,
                progress=update,
                exclude=exclude,
                include=include,
                restore=restore,
                rehash=rehash,
                thumbnails=thumbnails,
            )
            images = gallery.catalog.searchable_count()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; what is described stays, and the same command goes on") from None
    for warning in report.warnings:  # of folders that could not be looked at: not for --quiet to keep back
        say(f"warning: {safe(warning)}")
    troubles = len(report.troubles)
    if form == "json":
        print_json({"index": str(folder), "images": images, **vars(report)})
    else:
        parts = [f"{n} {word}" for word, n in _counts(report) if n]
        where, what = safe(show_path(os.path.abspath(folder))), ", ".join(parts) or "nothing to do"
        print(f"{count_of(images, 'picture')} in {where}: {what} ({report.seconds:.1f} s)")
        if report.local > report.embedded:
            print(f"looked at for the local index: {count_of(report.local - report.embedded, 'known picture')}")
        if troubles:
            print(f"{troubles} could not be read; `retrieve info` says which and why")
            curable = Counter(reason for _, reason in report.troubles if "pip install" in reason)
            for reason, count in curable.most_common():
                print(f"of these {count}: {safe(reason)}")
        if not (images or troubles):
            print(f"no pictures among {count_of(report.ignored, 'file')}" if report.ignored else "no files were found")
        if report.stayed_out:
            print(
                f"stay out, for they were taken out of the gallery before: {report.stayed_out} (--restore takes them in again)"
            )
        if report.left_out:
            print(
                f"left out: {count_of(report.left_out, 'file or folder', 'files and folders')} "
                "(--exclude, .nomedia, what other programs leave behind)"
            )
        for line in () if quiet else passed_over(report.foreign):
            print(line)
    return 1 if strict and (troubles or report.warnings) else 0


def _counts(report: SyncReport) -> list[tuple[str, int]]:
    words = ("added", "changed", "renamed", "copied", "removed", "unchanged")
    return [(word, getattr(report, word)) for word in words]

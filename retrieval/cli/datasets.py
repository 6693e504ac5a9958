"""``retrieve datasets list|download|verify|convert|make-synthetic``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from retrieval.cli.common import OutputFile, form_option, print_json, say, teller
from retrieval.cli.grouped import PlainGroup
from retrieval.messages import bar_size, count_of, safe

if TYPE_CHECKING:
    from retrieval.datasets.published.sets import PublishedSet

dir_option = click.option(
    "--dir", "directory", type=click.Path(), default="data", show_default=True, help="The folder that holds the sets."
)
quiet_option = click.option("-q", "--quiet", is_flag=True, help="Say nothing but results and errors.")


@click.group("datasets", cls=PlainGroup)
def command() -> None:
    """Get, check, convert and make data sets."""


@command.command("list", short_help="The published sets, and which are here.")
@dir_option
@form_option("How it is printed.")
def list_sets(directory: str, form: str) -> None:
    """The published sets: what they are, how large, on what terms, and whether they are here."""
    from retrieval.datasets.published.sets import SETS

    for item in SETS.values():
        state = _state(item, directory)
        if form == "json":
            print_json(
                {
                    "name": item.name,
                    "title": item.title,
                    "here": state,
                    "megabytes": item.megabytes,
                    "layout": item.layout,
                    "terms": item.terms,
                    "files": [
                        {"url": file.url, "megabytes": file.megabytes, "bytes": file.bytes, "sha256": file.sha256}
                        for file in item.files
                    ],
                }
            )
            continue
        size = "size not published" if item.megabytes is None else f"about {item.megabytes:,.0f} MB"
        print(
            f"{item.name}: {item.title}\n  {state}; {size}; {count_of(len(item.files), 'file')}\n  {item.layout}\n  {item.terms}"
        )


def _state(item: PublishedSet, directory: str) -> str:
    from pathlib import Path

    from retrieval.datasets.published.record import DownloadRecord

    folder = Path(directory) / item.name
    record = DownloadRecord.read(folder)
    if record is not None:
        return "here" if record.complete else "begun"
    return "here, put there by hand" if (folder / item.listing).exists() else "not here"


@command.command("download", short_help="Download a published set and unpack it.")
@click.argument("name")
@dir_option
@click.option("--keep-archives", is_flag=True, help="Keep the archives after they are unpacked.")
@quiet_option
def download(name: str, directory: str, keep_archives: bool, quiet: bool) -> None:
    """Download a published set and unpack it; interrupted, the same command continues.

    By using a set you accept its terms (retrieve datasets list). RETRIEVE_DATASETS_URL names a mirror: one folder with
    all the files under their published names.
    """
    from retrieval.datasets.published.acquire import download_set
    from retrieval.datasets.published.sets import published_set

    item = published_set(name)
    say(f"{item.name}: {item.terms}", quiet)
    with _byte_bars(quiet) as report:
        folder = download_set(item, directory, say=teller(quiet), report=report, keep_archives=keep_archives)
    print(f"{item.name} is in {folder}")


@command.command("verify", short_help="Check that a set is complete and unchanged.")
@click.argument("name")
@dir_option
@click.option("--quick", is_flag=True, help="Compare sizes only, not contents.")
@quiet_option
def verify(name: str, directory: str, quick: bool, quiet: bool) -> int:
    """Check that a set is all there and unchanged since its download; exit status 1 if it is not."""
    from retrieval.datasets.published.sets import published_set
    from retrieval.datasets.published.verify import verify_set

    with _byte_bars(quiet) as report:
        outcome = verify_set(published_set(name), directory, quick=quick, report=report)
    for line in outcome.problems[:20]:
        print(safe(line))
    if len(outcome.problems) > 20:
        print(f"and {len(outcome.problems) - 20} more")
    if outcome.problems:
        say(f"{name}: {count_of(len(outcome.problems), 'problem')} in {count_of(outcome.files, 'file')}", quiet)
        return 1
    if outcome.compared == outcome.files:
        how = "all compared with what was downloaded"
    elif outcome.compared:
        how = f"{outcome.compared} compared with what was downloaded, the others are there"
    else:
        how = "all there; contents were not compared"
    print(f"{name}: {count_of(outcome.files, 'file')}, {how}")
    return 0


@command.command("convert")
@click.argument("source", metavar="IN", type=click.Path())
@click.argument("out", metavar="OUT.json", type=OutputFile())
@click.option("--images", type=click.Path(), help="The folder of the pictures, where it is not found by itself.")
def convert(source: str, out: str, images: str | None) -> None:
    """Turn a ground truth into the project's JSON.

    IN is the official .pkl of Revisited Oxford or Paris, a folder with a sub-folder a class, or a list of path,label
    lines (.csv, .txt). OUT.json goes beside the pictures or into a folder above them.
    """
    from retrieval.datasets.placing import check_files
    from retrieval.datasets.reading import load_groundtruth
    from retrieval.errors import DatasetError, UsageError

    if not out.lower().endswith(".json"):
        raise UsageError(f"{out} does not end in .json")
    truth = load_groundtruth(source, images=images or "auto")
    truth.save(out)
    try:
        check_files(truth)
    except DatasetError as error:
        say(f"note: {safe(error.message)}")
    print(f"{out}: {count_of(len(truth.gallery), 'picture')}, {count_of(len(truth.queries), 'query', 'queries')}")


@command.command("make-synthetic", short_help="Draw a small retrieval set with ground truth.")
@click.argument("out", type=click.Path())
@click.option(
    "--objects",
    type=click.IntRange(min=2),
    default=40,
    show_default=True,
    help="How many objects to be found.",
)
@click.option(
    "--train-objects", type=click.IntRange(min=0), help="How many other objects to train on (default: as many)."
)
@click.option("--size", type=click.IntRange(min=64), default=320, show_default=True, help="Longest side in pixels.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed makes the same pictures.")
@quiet_option
def make_synthetic(out: str, objects: int, train_objects: int | None, size: int, seed: int, quiet: bool) -> None:
    """Draw a small retrieval set with ground truth: objects in easy and hard views, junk and distractors."""
    from pathlib import Path

    from retrieval.datasets.synthetic.make import make_synthetic as make
    from retrieval.messages import progress_bar

    with progress_bar("draw", quiet) as update:
        truth = make(Path(out), objects=objects, train_objects=train_objects, size=size, seed=seed, progress=update)
    print(
        f"{count_of(len(truth.gallery), 'picture')} and {count_of(len(truth.queries), 'query', 'queries')} in {safe(out)}"
    )


@contextmanager
def _byte_bars(quiet: bool) -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar of bytes on stderr for each thing reported, one after the other, only when it is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda what, done, total: None
        return
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def report(what: str, done: int, total: int | None) -> None:
        if what not in bars or done < bars[what].n:
            for bar in bars.values():
                bar.close()
            bars.clear()
            bars[what] = tqdm(
                desc=what, unit="B", unit_scale=True, file=sys.stderr, initial=done, total=total, **bar_size()
            )
        bar = bars[what]
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield report
    finally:
        for bar in bars.values():
            bar.close()

"""``retrieve duplicates``."""

from __future__ import annotations

import csv
import os
import sys
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from retrieval.cli.common import (
    Name,
    OutputFile,
    engine_option,
    form_option,
    index_option,
    print_json,
    say,
    teller,
    verbosity_options,
)
from retrieval.cli.grouped import GroupedCommand
from retrieval.cli.streams import write_path
from retrieval.messages import count_of, human_bytes, progress_bar, safe

if TYPE_CHECKING:
    from retrieval.gallery.duplicates.answers import Duplicates, Group, Member

_COLUMNS = ("path", "id", "side", "width", "height", "bytes", "score", "relation", "verified", "best")


@click.command(
    "duplicates",
    cls=GroupedCommand,
    groups={
        "What is compared": "index other level",
        "Output": "form sheet keep out",
    },
)
@click.argument("files", nargs=-1, type=Name(), metavar="[FILE]...")
@index_option
@click.option("--other", metavar="DIR", help="Between the gallery and this other one.")
@click.option(
    "--level",
    type=click.Choice(["exact", "copies", "scenes"]),
    default="copies",
    show_default=True,
    help="exact: same content; copies: altered ones too (size, crop, JPEG, colour, border, text, turned); "
    "scenes: also other shots of one scene.",
)
@form_option("How groups are printed, the best picture of each first; json is one group a line.", "csv", "paths")
@click.option("--sheet", metavar="FILE", help="Also write a contact sheet, a line a group (.jpg or .png).")
@click.option(
    "--keep",
    type=click.Choice(["best"]),
    help="With --out: list the files that need not be kept where the best one is (resolution, sharpness, format).",
)
@click.option(
    "--out",
    type=OutputFile(),
    metavar="FILE",
    help="Where --keep writes its list, one path a line. Nothing is deleted.",
)
@engine_option
@verbosity_options
def command(
    files: tuple[str, ...],
    index: str | None,
    other: str | None,
    level: str,
    form: str,
    sheet: str | None,
    keep: str | None,
    out: str | None,
    engine: str,
    quiet: bool,
    verbose: int,
) -> int:
    """Find copies in a gallery, between two galleries, or of FILEs (files, folders, quoted globs) in the gallery and among them.

    Every picture of a group was compared with the group's best one. Nothing is deleted, and no file is changed. Of a gallery
    on a server names and vectors are fetched; its pictures are read where they lie.

    \b
    retrieve duplicates --sheet groups.jpg              groups as pictures
    retrieve duplicates --keep best --out list.txt      what need not be kept
    retrieve duplicates new/                            here already, or twice
    """
    from retrieval.cli.copied import opened
    from retrieval.cli.expand import expand_pictures
    from retrieval.errors import RetrievalError, UsageError
    from retrieval.files.whole import write_whole
    from retrieval.gallery.duplicates.keep import superfluous

    if (keep is None) != (out is None):
        raise UsageError("--keep best and --out FILE go together")
    if keep is not None and level == "scenes":
        raise UsageError("--keep goes with exact copies or copies: shots of a scene are different pictures")
    if files and other is not None:
        raise UsageError("name files or --other, not both")
    if sheet is not None:
        from retrieval.views.sheet import check_sheet_path

        check_sheet_path(sheet)

    warn = teller(quiet, "warning: ")
    with ExitStack() as stack:
        gallery = stack.enter_context(opened(index, engine, quiet))
        second = None if other is None else stack.enter_context(opened(other, engine, quiet))
        named = expand_pictures(files) if files else None
        found = gallery.duplicates(level, second, named, bars=lambda label: progress_bar(label, quiet))  # type: ignore[arg-type]
        for name, reason in found.unread.items():
            say(f"retrieve: {safe(name)}: {reason}")
        _show(found, form)
        counts = Counter(str(group.kind) for group in found.groups)
        say(f"{_counted(counts)} among {count_of(found.pictures, 'picture')}", quiet)
        if sheet is not None:
            _write_sheet(found.groups, sheet, gallery.spec.image.exif)
            say(f"contact sheet: {safe(sheet)}", quiet)
        if out is not None:
            paths: list[str] = []
            left_alone: list[str] = []
            with progress_bar("which to keep", quiet) as update:
                listed = superfluous(found, left_alone.append, update)
            for message in left_alone:  # not across the bar
                warn(message)
            for path in listed:
                if "\n" in path:  # half of its name could be another file's
                    warn(f"{path} is left out of the list: its name has a line break")
                else:
                    paths.append(os.path.abspath(path))  # the list is used later, and elsewhere
            try:
                write_whole(out, "".join(f"{path}\n" for path in paths))
            except OSError as error:
                raise RetrievalError(f"{safe(out)} cannot be written: {error.strerror or error}") from error
            need = "file needs" if len(paths) == 1 else "files need"
            say(f"{len(paths)} {need} not be kept: {safe(out)}; nothing was deleted", quiet)
    if named is None:
        return 0
    from retrieval.files.paths import show_path

    return 1 if {show_path(os.path.abspath(name)) for name in named} & found.unread.keys() else 0


def _counted(counts: Counter[str]) -> str:
    kinds = {"exact": "exact copies", "copies": "copies", "scenes": "shots of one scene"}
    told = [f"{count_of(counts[kind], 'group')} of {words}" for kind, words in kinds.items() if counts[kind]]
    return ", ".join(told) or "0 groups"


def _show(found: Duplicates, form: str) -> None:
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["group", "kind", *_COLUMNS])
        for number, group in enumerate(found.groups, 1):
            for member in group.members:
                writer.writerow([number, group.kind, *(_cell(getattr(member, name)) for name in _COLUMNS)])
        return
    if form == "table" and found.groups and sys.stdout.isatty():  # not into a file or another program
        print(f"    {'':<5}  {'cosine':>6}  {'pixels':>11}  {'file':>9}  path")
    for number, group in enumerate(found.groups, 1):
        if form == "json":
            print_json(group.to_dict())
        elif form == "paths":
            if number > 1:
                print()
            for member in group.members:
                write_path(member.path)
        else:
            print(f"{number}  {group.kind}")
            for member in group.members:
                print(f"  {'*' if member.best else ' '} {_line(member)}")


def _cell(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _called(member: Member) -> str:
    """Of itself the best one is an exact copy, which says nothing."""
    return "best" if member.best else member.relation


def _line(member: Member) -> str:
    score = "     -" if member.score is None else f"{member.score:.4f}"
    size = "-" if member.width is None else f"{member.width}x{member.height}"
    weight = "-" if member.bytes is None else human_bytes(member.bytes)
    doubt = "" if member.verified else "  (by descriptor alone)"
    return f"{_called(member):<5}  {score:>6}  {size:>11}  {weight:>9}  {safe(member.path)}{doubt}"


def _write_sheet(groups: list[Group], path: str, exif: bool) -> None:
    from retrieval.views.sheet import SheetCell, SheetRow, contact_sheet, save_sheet

    def cell(member: Member) -> SheetCell:
        """A tile has little room: a cosine stands where it says something, of a copy."""
        score = (
            f"{member.score:.2f} "
            if member.relation != "exact" and not member.best and member.score is not None
            else ""
        )
        size = "" if member.width is None else f"{member.width}x{member.height}"
        return SheetCell(member.path, f"{score}{size}", os.path.basename(member.path), label=_called(member))

    rows = [SheetRow(cell(group.best), [cell(member) for member in group.members[1:]]) for group in groups]
    save_sheet(contact_sheet(rows, exif=exif), path)

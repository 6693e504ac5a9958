"""What a source holds, cut into shards: a folder, a list of paths, WebDataset tars, Parquet files with bytes or addresses.

All of it is known from names and footers alone; no picture is opened. The same source gives the same shards.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from retrieval.errors import UsageError
from retrieval.files.paths import show_path
from retrieval.messages import first_line
from retrieval.parts.places import is_remote, list_files, name_of, open_binary
from retrieval.pictures.imaging import is_picture_name
from retrieval.pictures.scan import walk

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
LIST_SUFFIXES = (".txt", ".lst")
KINDS = ("folder", "files", "tar", "parquet")

Input = Any
"""What a shard names in the manifest: a path relative to the folder ("folder"), a path or URI ("files", "tar"), or
[path or URI, first row, rows] ("parquet")."""


@dataclass(frozen=True)
class Source:
    """``kind``: "folder" (local), "files", "tar" or "parquet". ``place``: the absolute path or the URI. ``inputs``: in order,
    with the number of pictures of each, None where that is not known beforehand."""

    place: str
    kind: str
    inputs: tuple[tuple[Input, int | None], ...]

    def shards(self, most: int, multiple: int) -> list[list[Input]]:
        """Inputs, in order, in shards of at most ``most`` pictures; a multiple of ``multiple`` shards where there are as many
        inputs. An archive is a shard of its own, as what it holds is not known."""
        if any(count is None for _, count in self.inputs):
            return [[given] for given, _ in self.inputs]
        total = sum(count or 0 for _, count in self.inputs)
        shards = -(-total // most)
        shards = max(1, min(-(-shards // multiple) * multiple, total))
        return [shard for shard in _cut([(i, n or 0) for i, n in self.inputs], total, shards) if shard]


def _cut(inputs: Sequence[tuple[Input, int]], total: int, shards: int) -> Iterator[list[Input]]:
    """Shards of equal size, to within one picture; rows of Parquet files are divided."""
    ends = [total * (i + 1) // shards for i in range(shards)]
    shard: list[Input] = []
    at = 0
    for given, count in inputs:
        first, left = 0, count
        while left:
            taken = min(left, ends[0] - at)
            if taken:
                shard.append(given if isinstance(given, str) else [given[0], given[1] + first, taken])
            first, left, at = first + taken, left - taken, at + taken
            while ends and at >= ends[0]:
                yield shard
                shard = []
                ends.pop(0)


def look_at(source: str) -> Source:
    """What ``source`` is: a folder, a tar or Parquet file, a text file with a path or URI a line, a quoted pattern of any of
    these, here or at a URI. A folder without pictures is taken for the tars or Parquet files in it. Raises UsageError."""
    if is_remote(source):
        names = list_files(source)
        if names == [source.rstrip("/")]:
            return _single(source, source)
        return _several(source, [name for name in names if not _hidden(name[len(source.rstrip("/")) :])])
    place = os.path.abspath(source)
    if os.path.isdir(place):
        return _folder(place)
    if os.path.isfile(place):
        return _single(place, source)
    if glob.has_magic(source) and (found := sorted(map(os.path.abspath, glob.glob(source, recursive=True)))):
        return _several(place, found)
    raise UsageError(
        f"there is no file or folder '{source}'", "A folder, .tar or .parquet files, or a .txt with a path a line."
    )


def _hidden(relative: str) -> bool:
    return any(part.startswith(".") for part in relative.split("/"))


def _folder(place: str) -> Source:
    scan = walk(place)
    if scan.unreadable:
        name, why = next(iter(scan.unreadable.items()))
        raise UsageError(f"{show_path(os.path.join(place, name))} cannot be listed ({why})")
    if scan.files:
        return Source(place, "folder", tuple((found.path, 1) for found in scan.files))
    inside = [os.path.join(place, name) for name in sorted(os.listdir(place)) if not name.startswith(".")]
    return _several(place, [path for path in inside if os.path.isfile(path)])


def _several(place: str, names: list[str]) -> Source:
    pictures = [name for name in names if is_picture_name(name_of(name))]
    if pictures:
        return Source(place, "files", tuple((name, 1) for name in pictures))
    tars = [name for name in names if name.endswith(TAR_SUFFIXES)]
    if tars:
        return Source(place, "tar", tuple((name, None) for name in tars))
    tables = [name for name in names if name.endswith(".parquet")]
    if tables:
        return Source(place, "parquet", tuple(given for name in tables for given in _table(name)))
    raise UsageError(f"{place} holds no pictures, no .tar and no .parquet files")


def _single(place: str, shown: str) -> Source:
    if place.endswith(LIST_SUFFIXES):
        return _list(place, shown)
    return _several(place, [place])


def _list(place: str, shown: str) -> Source:
    try:
        with open_binary(place) as file:
            lines = [os.fsdecode(line).strip() for line in file.read().splitlines()]
    except OSError as error:
        raise UsageError(f"{shown} cannot be read: {first_line(error)}") from error
    lines = [line for line in lines if line]
    if not lines:
        raise UsageError(f"{shown} names no pictures")
    base = "" if is_remote(place) else os.path.dirname(place)
    if is_remote(place) and not all(map(is_remote, lines)):
        raise UsageError(f"{shown} is not on this machine, so it must name URIs alone")
    full = (line if is_remote(line) else os.path.normpath(os.path.join(base, line)) for line in lines)
    return Source(place, "files", tuple((name, 1) for name in dict.fromkeys(full)))


def _table(place: str) -> Iterator[tuple[Input, int]]:
    import pyarrow.parquet as pq

    from retrieval.parts.tables import picture_columns

    try:
        with open_binary(place) as file:
            table = pq.ParquetFile(file)
            picture_columns(table.schema_arrow, place)
            rows = table.metadata.num_rows
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{place} cannot be read as Parquet: {first_line(error)}") from error
    yield [place, 0, rows], rows

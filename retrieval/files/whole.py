"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

UNFINISHED = re.compile(r"\.[0-9a-f]{16}\.tmp")
"""The name of a file that is being written, or was when its process was killed."""


@contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside ``path`` to write a file under, which then takes the place of ``path``.

    What was written is forced to the disk before it is renamed, so a kill or a power cut at any moment leaves the old file or
    the new one. When the block raises, nothing is left of the new one. OSError is the caller's to put into words.

    What is no file, such as a device or a FIFO, is written into; a link stays, and the file that it leads to is replaced.
    """
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        yield path
        return
    path = Path(os.path.realpath(path))
    beside = path.with_name(f".{os.urandom(8).hex()}.tmp")  # no part of the name: it may be as long as names can be
    try:
        with open(beside, "xb") as file:
            mode = os.fstat(file.fileno()).st_mode
        yield beside
        if os.stat(beside).st_mode != mode:  # some libraries write for their own user alone
            os.chmod(beside, mode)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def keep_derived(path: Path, data: bytes, within: Path) -> bool:
    """Write what can be made anew at any time: whole or not at all, not forced to the disk, and its folders below ``within``.

    False where there is no room or no right to, or ``within`` itself is not there: what is derived of a folder that was moved
    away leaves nothing in its place.
    """
    beside = path.with_name(f".{os.urandom(8).hex()}.tmp")
    try:
        for part in [*path.relative_to(within).parents][-2::-1]:
            (within / part).mkdir(exist_ok=True)
        beside.write_bytes(data)
        os.replace(beside, path)
    except OSError:
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        return False
    return True


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Force the names in a folder to the disk: a file that was forced there may still lack its name. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_unfinished(folder: Path) -> None:
    """Delete what killed processes left of files that were to be whole."""
    for path in folder.glob(".*.tmp"):
        if UNFINISHED.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], text: str) -> None:
    """Write text as UTF-8, whole or not at all; names that are not UTF-8 leave as the bytes they came as. Raises OSError."""
    with whole_file(path) as file:
        file.write_bytes(text.encode("utf-8", errors="surrogateescape"))


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write a JSON file, whole or not at all, ASCII throughout; NaN and infinity are refused. Raises OSError, ValueError."""
    write_whole(path, json.dumps(data, indent=1, allow_nan=False) + "\n")

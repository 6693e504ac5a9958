"""Whether the search index is the file that was written: its hash, computed once for each identity that the file has.

A hash of the whole file at every cold query would cost more than the search. So it is computed when a file is first seen, and
what the system then says of the file (size, inode, times of change) is kept beside it in ``NAME.seen``: while that stays,
the file is taken for unchanged. Whoever writes to a file changes its ctime, which no program can set back. Bits that rot on
the disk change no time; `retrieve index --repair` therefore writes the file anew.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from retrieval.errors import GalleryDamaged
from retrieval.files.digest import file_sha256
from retrieval.files.whole import write_whole

Identity = tuple[int, int, int, int]
SUFFIX = ".seen"


def identity(path: Path) -> Identity:
    """Size, inode and both times in nanoseconds. Raises OSError."""
    found = os.stat(path)
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def damaged(path: Path, why: str, *, as_written: bool = False) -> GalleryDamaged:
    """``as_written``: it is of no use although it is what was written, so that only who is told to will write another."""
    return GalleryDamaged(
        f"{path} is damaged: {why}", f"`retrieve index{' --repair' if as_written else ''}` writes it anew."
    )


def missing(path: Path) -> GalleryDamaged:
    return GalleryDamaged(f"{path} is missing", "`retrieve index` writes it anew.")


def verify(path: Path, digest: str) -> Identity:
    """What the system says of the file, whose content has the hash ``digest``. Raises GalleryDamaged, or OSError."""
    before = identity(path)
    if _seen(path) == [*before, digest]:
        return before
    if file_sha256(path) != digest:
        raise damaged(path, "its content is not what was written")
    if identity(path) != before:
        raise damaged(path, "it changed while it was read")
    remember(path, digest, before)
    return before


def remember(path: Path, digest: str, seen: Identity) -> None:
    """Keep that a file with this identity has this content, where the folder can be written to."""
    with suppress(OSError):
        write_whole(path.with_suffix(SUFFIX), json.dumps([*seen, digest]))


def _seen(path: Path) -> object:
    try:
        return json.loads(path.with_suffix(SUFFIX).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None

"""Prepared models in the user's cache folder: written whole or not at all, checked when read, thrown away when damaged.

An entry is a folder named by a key; ``contents.json`` in it lists the other files with their hashes. The folder is
made under another name and renamed, so that a killed process leaves nothing that looks like an entry.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrieval.files.digest import file_sha256
from retrieval.system.caches import cache_folder

CONTENTS = "contents.json"
WIDE = "wide.txt"  # beside an int8 model whose sums overflow without VNNI
LIMIT = 4 << 30  # bytes; beyond it the entries that were not used for the longest time go
_ABANDONED_SECONDS = 3600


class Damaged(Exception):
    """An entry is there but not what was written."""


def key_of(*parts: str) -> str:
    """A name for what depends on ``parts`` and on nothing else: 32 hex digits."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def find(key: str, folder: Path | None = None) -> Path | None:
    """The entry's folder, its files checked against their hashes; None where there is none. Raises Damaged."""
    entry = (folder or cache_folder() / "engines") / key
    try:
        if not entry.is_dir():
            return None
        check_entry(entry)
        with suppress(OSError):
            os.utime(entry)  # for dropping the least recently used
    except OSError as error:
        raise Damaged(error.strerror or str(error)) from error
    return entry


def load(key: str, name: str) -> npt.NDArray[np.uint8] | None:
    """The bytes of this file in the entry, checked, and read but once; None where there is no entry. Raises Damaged."""
    entry = cache_folder() / "engines" / key
    try:
        if not entry.is_dir():
            return None
        data = np.fromfile(entry / name, np.uint8)  # into large pages of memory, where the system has them
        whole = json.loads((entry / CONTENTS).read_text("utf-8"))[name] == hashlib.sha256(data.data).hexdigest()
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise Damaged(f"{CONTENTS} or {name} cannot be read") from error
    if not whole:
        raise Damaged(f"{name} has changed")
    with suppress(OSError):
        os.utime(entry)  # for dropping the least recently used
    return data


def check_entry(entry: Path) -> None:
    """Raises Damaged unless the files are those that were written."""
    try:
        contents = json.loads((entry / CONTENTS).read_text("utf-8"))
        for name, digest in contents.items():
            if file_sha256(entry / name) != digest:
                raise Damaged(f"{name} has changed")
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise Damaged(f"{CONTENTS} or a file it names cannot be read") from error


def write_entry(entry: Path, write: Callable[[Path], None]) -> None:
    """Have ``write(folder)`` fill a new folder and give it the name ``entry``; what had that name goes. Raises OSError."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    _clear_abandoned(entry.parent)
    token = uuid.uuid4().hex[:8]
    temporary = entry.with_name(f".{entry.name}.{token}.tmp")
    try:
        temporary.mkdir()
        write(temporary)
        contents = {}
        for file in sorted(temporary.iterdir()):
            contents[file.name] = file_sha256(file)
            _to_disk(file)
        (temporary / CONTENTS).write_text(json.dumps(contents), "utf-8")
        _to_disk(temporary / CONTENTS)
        try:
            os.rename(temporary, entry)
        except OSError:
            if not entry.exists():
                raise
            old = entry.with_name(f".{entry.name}.{token}.old.tmp")
            os.rename(entry, old)
            os.rename(temporary, entry)
            shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def store(key: str, write: Callable[[Path], None]) -> Path:
    """Put an entry into the user's cache; returns its folder. Raises OSError where the cache cannot be written."""
    folder = cache_folder() / "engines"
    write_entry(folder / key, write)
    with suppress(OSError):
        _drop_old(folder, keep=key)
    return folder / key


def discard(key: str) -> None:
    """Take an entry out, as far as that is possible."""
    shutil.rmtree(cache_folder() / "engines" / key, ignore_errors=True)


def _to_disk(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _clear_abandoned(folder: Path) -> None:
    """Remove what processes left that were killed while writing."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _drop_old(folder: Path, keep: str) -> None:
    entries = []
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.name.startswith("."):
            size = sum(file.stat().st_size for file in entry.iterdir())
            entries.append((entry.stat().st_mtime, size, entry))
    total = sum(size for _, size, _ in entries)
    for _, size, entry in sorted(entries, key=lambda e: e[0]):
        if total <= LIMIT:
            return
        if entry.name != keep:
            shutil.rmtree(entry, ignore_errors=True)
            total -= size

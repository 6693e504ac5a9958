"""A shard of the search index on disk: a plain FAISS file. It is derived and may be deleted at any time.

``ann/NAME.faiss`` holds vectors under the catalog's ids and never changes: another state gets another name. The index's note
(``note.py``) names its files and carries their hashes. Files are written before their note, the log is shortened after it, and
what belonged to an older note goes in between: at every moment a reader finds a note with its files and the changes since, or
searches the vectors themselves. A file that is damaged or gone is named and never answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from retrieval.files.digest import file_sha256
from retrieval.files.whole import sync_folder, whole_file
from retrieval.gallery.search import intact
from retrieval.gallery.search import kind as ann_kind
from retrieval.gallery.search.intact import damaged
from retrieval.gallery.search.note import ShardNote, not_written
from retrieval.messages import first_line

_PIECE = 1 << 20  # bytes that are written at once


def shard_path(folder: Path, shard: ShardNote) -> Path:
    return folder / f"{shard.name}.faiss"


def new_name(folder: Path, version: int) -> str:
    """A name that no file has, for the catalog's ``version``."""
    name, number = str(version), 1
    while (folder / f"{name}.faiss").exists():
        number += 1
        name = f"{version}-{number}"
    return name


def check(folder: Path, shard: ShardNote) -> None:
    """Raises GalleryDamaged, naming the file, unless it is there, with the content that was written."""
    path = shard_path(folder, shard)
    try:
        if (size := path.stat().st_size) != shard.bytes:
            raise damaged(path, f"{size} bytes, not {shard.bytes}")
        intact.verify(path, shard.sha256)
    except FileNotFoundError as error:
        raise intact.missing(path) from error
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error


def read(folder: Path, shard: ShardNote, *, mapped: bool = True) -> Any:
    """The FAISS index itself: ``mapped`` into memory for searching, else loaded so that it can be changed.

    Raises GalleryDamaged, naming the file, where it is gone or its content is not what was written: FAISS itself would notice a
    part of the damages only, and crash at others.
    """
    import faiss

    path = shard_path(folder, shard)
    check(folder, shard)
    flags = 0
    if mapped:
        # Inverted lists have a way of their own to stay on the disk; all else is mapped as it lies.
        inverted = shard.factory.startswith("IVF") or ",IVF" in shard.factory
        flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if inverted else faiss.IO_FLAG_MMAP_IFC
    try:
        with _nameable(path) as name:
            index = faiss.read_index(name, flags)
    except RuntimeError as error:
        if not path.is_file():
            raise intact.missing(path) from error
        raise damaged(path, faiss_reason(error), as_written=True) from error
    inner = ann_kind.core(index)
    if mapped and isinstance(inner, faiss.IndexIVF):
        lists: Any = faiss.downcast_InvertedLists(inner.invlists)  # type: ignore[arg-type]
        if isinstance(lists, faiss.OnDiskInvertedLists):
            # Else every query starts 32 threads that touch its lists beforehand: twice the work where they are in memory.
            lists.prefetch_nthread = 0
    if index.d != shard.dim or index.ntotal != shard.count:
        why = f"{index.ntotal} vectors of {index.d} dimensions, not {shard.count} of {shard.dim}"
        raise damaged(path, why, as_written=True)
    return index


def write(folder: Path, index: Any, shard: ShardNote) -> ShardNote:
    """Write a shard's file, beside its name first; returns the note with its size and hash. Raises GalleryError."""
    import faiss

    library: Any = faiss  # its type stubs lack this way of writing
    path = shard_path(folder, shard)
    try:
        folder.mkdir(exist_ok=True)
        with whole_file(path) as file:
            # By Python's file: FAISS's own passes over a last piece that finds no room when it is closed.
            with open(file, "wb") as stream:
                library.write_index(index, library.PyCallbackIOWriter(stream.write, _PIECE))
            shard = replace(shard, bytes=file.stat().st_size, sha256=file_sha256(file))
        sync_folder(folder)  # its name, before a note tells of it
        intact.remember(path, shard.sha256, intact.identity(path))
    except (OSError, RuntimeError) as error:
        raise not_written(path, faiss_reason(error)) from error
    return shard


@contextmanager
def _nameable(path: Path) -> Iterator[str]:
    """A name under which FAISS, which takes UTF-8 alone, can read a file."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        handle = os.open(path, os.O_RDONLY)
        try:
            yield f"/dev/fd/{handle}"
        finally:
            os.close(handle)
    else:
        yield str(path)


def faiss_reason(error: Exception) -> str:
    """FAISS errors carry the C++ source position; a user needs the last sentence only."""
    return (
        first_line(error)
        if isinstance(error, OSError)
        else str(error).strip().splitlines()[-1].split("Error: ")[-1][:200]
    )

"""What a catalog holds: pictures and folders as records, and how they are told from damaged ones."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from retrieval.errors import GalleryDamaged
from retrieval.files.digest import HASH_BYTES
from retrieval.gallery.store import schema
from retrieval.gallery.store.unread import REPAIR

MOST = (1 << 63) - 1  # no id is higher


class Record(NamedTuple):
    """A picture as catalogued. ``path`` is relative to the root's folder; ``row`` is its vector's row, if it has one.

    ``status``: "ok", "pending" (found, not described yet) or "error" (``error`` says why). An "ok" picture with an
    ``error`` is one whose file changed and cannot be read at present; its last good vector is kept.
    ``metadata``: JSON that came with a picture that a program added. ``ctime_ns``, ``inode``: of the file when it was last
    seen, -1 where unknown.
    """

    id: int
    root: int
    path: str
    size: int
    mtime_ns: int
    hash: str | None
    width: int | None
    height: int | None
    status: str
    error: str | None
    row: int | None
    metadata: str | None = None
    ctime_ns: int = -1
    inode: int = -1


@dataclass(frozen=True)
class Root:
    """Something that was indexed: a whole ``folder``, single ``files`` of a folder, or ``keys``: pictures that were added
    by a program under names of its own, which are no files. ``path`` is as stored (see Gallery)."""

    id: int
    path: str
    kind: str


def encode_path(path: str) -> str | bytes:
    """Paths are stored as text; those that are not UTF-8, as bytes."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def decode_path(stored: str | bytes) -> str:
    return os.fsdecode(stored) if isinstance(stored, bytes) else stored


def record_of(row: tuple[Any, ...]) -> Record:
    """A row as a record. Raises GalleryDamaged where its values are not what they can be: SQLite keeps anything."""
    i, root, path, *rest = row[:-1]
    size, mtime_ns, digest, width, height, status, error, vector, metadata, ctime_ns, inode = rest
    if row[-1] is not None:
        sound = row[-1] == schema.crc_of(row[:-1])
    else:
        whole = (size, mtime_ns, ctime_ns, inode)
        perhaps = ((digest, str), (width, int), (height, int), (error, str), (vector, int), (metadata, str))
        sound = (
            isinstance(path, str | bytes)
            and "\0" not in decode_path(path)
            and isinstance(root, int)
            and all(isinstance(value, int) for value in whole)
            and all(value is None or isinstance(value, kind) for value, kind in perhaps)
            and status in ("ok", "pending", "error")
            and (vector is None or vector >= 0)
            and (digest is None or is_digest(digest))
        )
    sound = sound and (status != "ok" or (vector is not None and digest is not None))
    if not sound:
        raise GalleryDamaged(f"the catalog's entry of picture {i} is damaged", REPAIR)
    return Record(i, root, decode_path(path), *rest)


def numbers_of(pairs: list[tuple[Any, ...]], width: int) -> np.ndarray:
    """Numbers of a query, int64 (N, width). Raises GalleryDamaged where there is anything else, or a row below 0."""
    try:
        table = np.array(pairs, np.int64).reshape(-1, width)
    except (ValueError, TypeError, OverflowError) as error:
        raise GalleryDamaged("the catalog's entries of pictures are damaged", REPAIR) from error
    return table


def is_digest(text: str) -> bool:
    """Whether a text is a content hash in hexadecimal."""
    return len(text) == 2 * HASH_BYTES and set(text) <= set("0123456789abcdef")

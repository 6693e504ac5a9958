"""One picture of a shard on its way: where it comes from, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from retrieval.errors import ImageError
from retrieval.files.digest import content_digest
from retrieval.gallery.reading import read_noted
from retrieval.parts.places import fetch


@dataclass
class Item:
    """``key``: its name in a gallery, or in the folder that is described; ``uri``: where it lies. :meth:`read` gives its bytes.

    ``vector`` float32 (D,) or ``error``; ``codes``: its local codes as bytes. ``size`` in bytes and ``mtime_ns``: -1 where
    unknown, the time also where another try may help. ``twin``: another item of the same content.
    """

    key: str
    uri: str
    read: Callable[[Item], bytes | str]
    file: str = ""
    size: int = -1
    mtime_ns: int = -1
    digest: str = ""
    width: int | None = None
    height: int | None = None
    error: str | None = None
    vector: np.ndarray | None = None
    codes: bytes | None = None
    twin: Item | None = field(default=None, repr=False)

    def note(self, size: int, mtime_ns: int, ctime_ns: int, inode: int) -> None:
        """The file as it was when it was read; what another machine says of inodes means nothing here."""
        self.size, self.mtime_ns = size, mtime_ns

    def fail(self, error: ImageError) -> None:
        self.error = str(error)
        if error.transient or error.limited:
            self.mtime_ns = -1


def local_file(key: str, uri: str, path: str) -> Item:
    return Item(key, uri, read_noted, file=path)


def remote_file(key: str, uri: str, timeout: float) -> Item:
    return Item(key, uri, lambda item: _noted(item, fetch(uri, timeout)))


def in_memory(key: str, uri: str, data: bytes) -> Item:
    """A picture whose bytes are there already; they are let go once it is read."""
    held = [data]
    return Item(key, uri, lambda item: _noted(item, held.pop()), size=len(data))


def broken(key: str, uri: str, error: ImageError) -> Item:
    """One that is not even read."""

    def refuse(item: Item) -> bytes:
        raise error

    return Item(key, uri, refuse)


def _noted(item: Item, data: bytes) -> bytes:
    item.size = len(data)
    digest = content_digest()
    digest.update(data)
    item.digest = digest.hexdigest()
    return data

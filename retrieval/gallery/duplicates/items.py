"""The pictures that are compared: those of a gallery, of another one, or files, which may be the gallery's own."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from retrieval.errors import ImageError, UsageError
from retrieval.files.paths import show_path
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Record
from retrieval.gallery.store.view import VectorView
from retrieval.pictures import imaging
from retrieval.pictures.content import read_content


@dataclass(frozen=True)
class Item:
    """A picture. ``path`` is absolute, "" for a key, which has no file; ``name`` is what is shown. ``digest``: content hash.
    ``kept``: whose thumbnails and points those of this content are, of a gallery, or "file", of none."""

    side: Literal["gallery", "other", "file"]
    id: int | None
    name: str
    path: str
    digest: str
    width: int | None
    height: int | None
    bytes: int | None
    kept: Literal["gallery", "other", "file"]


def gallery_items(gallery: OpenedGallery, side: Literal["gallery", "other"]) -> tuple[list[Item], VectorView]:
    """All pictures of a gallery with a descriptor, by ascending id, and their vectors, of one state of it."""
    items, rows = [], []
    with gallery.catalog.reading():
        keys = {root.id for root in gallery.catalog.roots() if root.kind == "keys"}
        name = gallery.namer()
        for record in gallery.catalog.records():
            if record.row is None or record.hash is None:
                continue
            items.append(item_of(record, side, name(record), record.root in keys))
            rows.append(record.row)
        store = gallery.store()
        store.check_sizes(gallery.catalog.number("vector_count"))
    return items, VectorView(store, np.array(rows, np.int64))


def item_of(record: Record, side: Literal["gallery", "other"], name: str, key: bool) -> Item:
    """A picture of a gallery that has content; ``name`` is its path, or its ``key``."""
    path = "" if key else name
    size = record.size if record.size >= 0 else None
    return Item(side, record.id, show_path(name), path, record.hash or "", record.width, record.height, size, side)


def file_items(files: Sequence[str | os.PathLike[str]], exif: bool) -> tuple[list[Item], dict[str, str]]:
    """Files, each once; and name -> why it cannot be read, of those that cannot."""
    items: list[Item] = []
    unread: dict[str, str] = {}
    if isinstance(files, str | bytes):
        raise UsageError("files are a list of paths, not one path")
    for path in dict.fromkeys(os.path.abspath(os.fspath(file)) for file in files):
        name = show_path(path)
        try:
            data, digest = read_content(path)
            width, height = imaging.picture_size(data, exif=exif)
            size = os.path.getsize(path)
        except ImageError as error:
            unread[name] = str(error)
        except OSError as error:
            unread[name] = error.strerror or str(error)
        else:
            items.append(Item("file", None, name, path, digest, width, height, size, "file"))
    return items, unread


def described_files(
    items: Sequence[Item], gallery: OpenedGallery, stored: Mapping[str, int], vectors: VectorView
) -> tuple[list[Item], npt.NDArray[np.float32], dict[str, str]]:
    """Files that can be described, their vectors, float32 (N, D), and name -> why of the others. Of contents that the gallery
    holds it has the ``vectors``, and what else it keeps of them serves: ``stored``, content hash -> position among these."""
    items = [replace(item, kept="gallery") if item.digest in stored else item for item in items]
    known = [i for i, item in enumerate(items) if item.digest in stored]
    fresh = [i for i, item in enumerate(items) if item.digest not in stored]
    found = np.zeros((len(items), vectors.shape[1]), np.float32)
    found[known] = vectors[np.array([stored[items[i].digest] for i in known], np.int64)]
    unread: dict[str, str] = {}
    if fresh:
        described = gallery.model.describe([items[i].path for i in fresh], errors="skip")
        unread = {items[fresh[place]].name: why for place, why in described.skipped.items()}
        fresh = [fresh[position] for position in described.positions]
        found[fresh] = described.vectors
    used = sorted(known + fresh)
    return [items[i] for i in used], found[used], unread

"""Vectors that are in use, written as a new generation once most rows are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from retrieval.gallery.address import LOCAL_FOLDER
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Catalog
from retrieval.gallery.store.entry import is_digest
from retrieval.gallery.store.vectors import VectorStore

_COMPACT_ROWS = 1024


def compact(gallery: OpenedGallery, catalog: Catalog) -> None:
    """Write the vectors that are in use as a new generation, once more than half of the rows are not."""
    with catalog.writing():
        catalog.set_meta("compaction_due", 0)
    count, used = catalog.number("vector_count"), catalog.live_count()
    if count - used < max(_COMPACT_ROWS, used):
        return
    live = catalog.live_rows()
    old = gallery.store(catalog)
    new = VectorStore(old.folder, old.dim, gallery.description["dtype"], old.generation + 1)
    _, hashes = old.verify(count)
    try:
        for begin, rows in _pieces(live):
            new.write(begin, old.take(rows, check=True), [bytes(hashes[row]).hex() for row in rows])
    except OSError:
        new.remove()
        return  # no room for a second copy now: stay as we are
    contents = {record.hash for record in catalog.records() if record.hash is not None}
    if gallery.local is not None:
        with catalog.writing():
            catalog.set_meta("local_contents", 0)  # some go now, and are not to be missed
        # Before there is nothing to compact any more: an interrupted run leaves this to the next.
        gallery.local.keep_only(contents)
    _drop_kept(gallery.folder / LOCAL_FOLDER, contents)
    with catalog.writing():
        catalog.renumber_rows(live)
        catalog.clear_spare()
        catalog.set_meta("vector_count", len(live))
        catalog.set_meta("generation", new.generation)
        catalog.bump_version()
    gallery.note_local(catalog)


def _drop_kept(folder: Path, contents: set[str]) -> None:
    """Points and small pictures that were kept of contents which are gone: one file each, named by its content."""
    with suppress(OSError):
        for path in folder.glob("*/??/*"):
            if path.name.startswith(path.parent.name) and is_digest(path.name) and path.name not in contents:
                path.unlink()


def _pieces(rows: np.ndarray, size: int = 8192) -> Iterator[tuple[int, np.ndarray]]:
    for begin in range(0, len(rows), size):
        yield begin, rows[begin : begin + size]

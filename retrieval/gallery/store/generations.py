"""Vectors in files of another generation: an interrupted compaction leaves such, and a copy that was taken while one ran."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from retrieval.gallery.store.vectors import VectorStore, listed

_AT_ONCE = 8192


def generations(folder: Path) -> set[int]:
    """Of which there are files. Raises GalleryError where that cannot be told."""
    keys = (path for path in listed(folder) if path.suffix == ".keys")
    return {int(number) for path in keys if (number := path.name.split("-")[0]).isdigit()}


def carried_over(store: VectorStore, count: int, wanted: Callable[[str], bool]) -> dict[str, int]:
    """Append intact vectors of other generations to the ``count`` rows of ``store``, one of each content whose hash in
    hexadecimal is ``wanted``. Returns their rows by hash. Raises GalleryError where the disk does not take them."""
    rows: dict[str, int] = {}
    for generation in sorted(generations(store.folder) - {store.generation}, reverse=True):
        other = VectorStore(store.folder, store.dim, store.dtype.name, generation)
        valid, hashes = other.verify(other.rows_on_disk())
        found: dict[str, int] = {}
        for row in valid.nonzero()[0].tolist():
            digest = bytes(hashes[row]).hex()
            if digest not in rows and wanted(digest):
                found[digest] = row
        digests = list(found)
        for begin in range(0, len(digests), _AT_ONCE):
            part = digests[begin : begin + _AT_ONCE]
            first = count + len(rows)
            store.append(first, other.take(np.array([found[d] for d in part], np.int64)), part)
            rows |= {digest: first + i for i, digest in enumerate(part)}
    return rows

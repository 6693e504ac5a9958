"""What a gallery holds, told in numbers and names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from retrieval.errors import GalleryDamaged
from retrieval.files.paths import show_path
from retrieval.gallery.address import ANN_FOLDER
from retrieval.gallery.description import precision_of
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.search import source
from retrieval.gallery.search.note import IndexNote
from retrieval.models.spec import ModelSpec


@dataclass(frozen=True)
class LocalInfo:
    """The local index: name of the ``codebook``, how many different ``pictures`` it holds, ``bytes`` on the disk, and how many
    ``milliseconds`` of processor time a picture took (None where that was not noted)."""

    codebook: str
    pictures: int
    bytes: int
    milliseconds: float | None = None


@dataclass(frozen=True)
class GalleryInfo:
    """What :meth:`Gallery.info` tells; sizes in bytes. ``search``: the note of the search index; ``index_file``: its file,
    or the note that names them where there are several shards; ``changes``: how many pictures changed since (they are searched
    beside it)."""

    path: str
    spec: ModelSpec
    dtype: str
    roots: list[str]
    images: int
    vectors: int
    pending: int
    troubled: list[tuple[str, str]]
    bytes_vectors: int
    bytes_total: int
    index_file: str | None
    ann: str
    recall: float
    search: IndexNote | None
    changes: int
    precision: str = "fp32"
    precision_loss: dict[str, Any] | None = None
    exclude: tuple[str, ...] = ()
    local: LocalInfo | None = None


def facts_of(gallery: OpenedGallery) -> GalleryInfo:
    """What a gallery holds, and which pictures could not be read and why. Imports no torch. Raises GalleryDamaged."""
    catalog = gallery.catalog
    gallery.local_blocks()
    with catalog.reading():
        catalog.check(thoroughly=False)
        counts, count = catalog.counts(), catalog.number("vector_count")
        made, took = catalog.number("local_made"), catalog.number("local_microseconds")
        name = gallery.namer()
        folders = [gallery.folder_of(root) for root in catalog.roots() if root.kind != "keys"]
        troubled = [(show_path(name(record)), record.error or "") for record in catalog.troubled()]
        live, store, searchable = (
            len(catalog.live_rows()),
            gallery.store(catalog),
            catalog.searchable_count(),
        )
        try:
            note = source.sound_note(gallery.folder / ANN_FOLDER, catalog)
        except GalleryDamaged as damage:
            gallery.warn(str(damage))
            note = None
        changes = source.changes_beside(catalog, note) if note else 0
    store.check_sizes(count)
    return GalleryInfo(
        path=show_path(os.path.abspath(gallery.folder)),
        spec=gallery.spec,
        dtype=gallery.description["dtype"],
        roots=[show_path(folder) for folder in folders],
        images=searchable,
        exclude=tuple(gallery.exclude),
        vectors=live,
        pending=counts.get("pending", 0),
        troubled=troubled,
        bytes_vectors=store.bytes_on_disk(),
        bytes_total=sum(f.stat().st_size for f in gallery.folder.rglob("*") if f.is_file()),
        index_file=str(source.index_file(gallery.folder / ANN_FOLDER, note)) if note else None,
        ann=gallery.search_kind,
        recall=gallery.search_recall,
        search=note,
        changes=changes,
        precision=precision_of(gallery.description),
        precision_loss=gallery.description.get("precision_loss"),
        local=None
        if (index := gallery.local) is None
        else LocalInfo(index.codebook.name, len(index), index.bytes_on_disk(), 1e-3 * took / made if made else None),
    )

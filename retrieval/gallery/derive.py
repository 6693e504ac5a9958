"""Whitening and a gallery: learned from its own vectors, and applied to them without opening a picture."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.describe.model import Model
from retrieval.errors import GalleryDamaged, GalleryError, GalleryMismatch
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Record
from retrieval.gallery.store.making import beside, put_in_place, remove_left
from retrieval.gallery.store.vectors import VectorStore
from retrieval.models.whitening import Whitening, fit_pca
from retrieval.models.whitening_origin import learned_on

_MOST_VECTORS = 50_000  # more do not change a covariance of a few thousand dimensions
_ROWS_AT_ONCE = 8192


def fit_gallery(
    gallery: OpenedGallery, dim: int | None = None, shrinkage: float = 0.0
) -> tuple[Whitening, dict[str, Any]]:
    """PCA whitening of a gallery's own vectors, without labels, and what it was learned on.

    Copies count once; of more than 50,000 different pictures, 50,000 spread evenly. Raises UsageError for a gallery with
    fewer pictures than it takes, see :func:`fit_pca`.
    """
    with gallery.catalog.reading():
        rows, store = gallery.catalog.live_rows(), gallery.store()
        store.check_sizes(gallery.catalog.number("vector_count"))
        hashes = [record.hash for record in gallery.catalog.records() if record.row is not None and record.hash]
        roots = gallery.catalog.roots()
    chosen = rows[np.linspace(0, len(rows) - 1, min(len(rows), _MOST_VECTORS)).astype(np.int64)] if len(rows) else rows
    whitening = fit_pca(store.take(chosen, check=True), dim, shrinkage)
    folders = [os.path.basename(gallery.folder_of(root)) for root in roots]
    name = ", ".join(folders[:3]) + (f" and {len(folders) - 3} more" if len(folders) > 3 else "")
    return whitening, learned_on(name, hashes)


def derive_gallery(
    source: OpenedGallery, whitening: Whitening, model: Model, folder: str | os.PathLike[str]
) -> Gallery:
    """A gallery of the same pictures with whitened vectors, made from the stored ones: no picture is opened.

    ``model`` is the whitened one that belongs to ``whitening``; ``source`` was made with the model before it. The new gallery
    appears complete or not at all. Raises GalleryMismatch, GalleryError (``folder`` is in use), GalleryDamaged.
    """
    folder = Path(folder)
    if len(whitening.mean) != source.spec.dim or len(whitening.projection) != model.spec.dim:
        raise GalleryMismatch(f"the whitening does not lead from the vectors of {source.folder} to those of the model")
    check_free(folder)
    remove_left(folder)
    temporary = beside(folder, "derived")
    try:
        gallery = Gallery.create(temporary, model, dtype=source.description["dtype"], local=source.local is not None)
        if source.local is not None and gallery.local is not None and source.local.folder.is_dir():
            shutil.copytree(source.local.folder, gallery.local.folder)  # of the same contents, whatever their vectors
        with source.catalog.reading():
            rows, store = source.catalog.live_rows(), source.store()
            count = source.catalog.number("vector_count")
            records = list(source.catalog.records())
            roots = source.catalog.roots()
        with gallery.writing() as catalog:
            _write_vectors(store, count, rows, whitening, gallery.store())
            with catalog.writing():
                place = {r.id: catalog.add_root(gallery.root_path(source.folder_of(r)), r.kind).id for r in roots}
                for record in records:
                    catalog.add_pending(place[record.root], [record.path])
                for made, record in zip(list(catalog.records()), records, strict=True):
                    _copy_record(catalog, made.id, record, rows)
                catalog.set_meta("vector_count", len(rows))
                catalog.bump_version()
                gallery.describe_roots(catalog)
            gallery.refresh_index(catalog)
        gallery.close()
        put_in_place(temporary, folder)
    except OSError as error:
        raise GalleryError(f"cannot make a gallery in {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Gallery.open(folder)


def check_free(folder: Path) -> None:
    """Raises GalleryError where no new gallery can be made because something is there."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GalleryError(f"{folder} is there already and not empty", "Name another folder.")


def _write_vectors(store: VectorStore, count: int, rows: np.ndarray, whitening: Whitening, new: VectorStore) -> None:
    valid, hashes = store.verify(count)
    if not valid[rows].all():
        lost = int(np.sum(~valid[rows]))
        raise GalleryDamaged(f"{store.folder} has {lost} damaged vectors", "Run `retrieve index --repair` first.")
    for begin in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[begin : begin + _ROWS_AT_ONCE]
        new.write(begin, whitening.apply(store.take(part)), [bytes(hashes[row]).hex() for row in part])


def _copy_record(catalog: Any, i: int, record: Record, rows: np.ndarray) -> None:
    """Give picture ``i`` of the new catalog the state of ``record``; its vector is where its old row stands in ``rows``."""
    if record.row is not None and record.hash is not None:
        catalog.set_ok(
            i,
            size=record.size,
            mtime_ns=record.mtime_ns,
            digest=record.hash,
            width=record.width,
            height=record.height,
            row=int(np.searchsorted(rows, record.row)),
        )
    if record.error is not None:
        catalog.set_error(
            i, size=record.size, mtime_ns=record.mtime_ns, error=record.error, keep_vector=record.row is not None
        )

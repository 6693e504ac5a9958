"""The gallery: catalog, vectors and search index as one thing. Crash-safe, self-describing, one writer, many readers."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.describe.model import Model
from retrieval.errors import GalleryDamaged, GalleryError, UsageError, whole_number
from retrieval.files.paths import show_path
from retrieval.gallery.answers import Match, QueryResult, rank
from retrieval.gallery.opened import FORMAT, INT8_FOLDER, OpenedGallery, write_description
from retrieval.gallery.search import candidates
from retrieval.gallery.search import file as ann_file
from retrieval.gallery.search.index import open_source
from retrieval.gallery.store.catalog import Catalog
from retrieval.gallery.store.vectors import VectorStore
from retrieval.gallery.sync import SyncReport, synchronise
from retrieval.messages import Say, Update
from retrieval.models.checkpoint import FILE_NAME
from retrieval.models.spec import ModelSpec


@dataclass(frozen=True)
class GalleryInfo:
    """What :meth:`Gallery.info` tells; sizes in bytes. ``search``: the note of the search index in ``index_file``, and
    ``changes``: how many pictures changed since it was written (they are searched beside it)."""

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
    search: ann_file.IndexNote | None
    changes: int
    precision: str = "fp32"


class Gallery(OpenedGallery):
    """A gallery on disk. Made by :meth:`create` or :meth:`open`; usable as a context manager.

    Reading never waits for a writer. ``warn`` gets one-line messages about things that were worked around.
    """

    def __init__(
        self,
        folder: Path,
        description: dict[str, Any],
        engine: str = "auto",
        warn: Say | None = None,
        model: Model | None = None,
    ) -> None:
        super().__init__(folder, description, engine, warn, model)
        # Candidates and the state of the catalog that they belong to, kept between queries.
        self._source: tuple[Any, candidates.Source] | None = None

    @classmethod
    def create(cls, folder: str | os.PathLike[str], model: Model, *, dtype: str = "float32") -> Gallery:
        """A new, empty gallery that describes with this very ``model``.

        ``dtype``: how vectors are stored, "float32" or "float16" (half the size).

        Raises GalleryError when the folder already holds a gallery or something else, or cannot be made.
        """
        folder = Path(folder)
        if dtype not in ("float32", "float16"):
            raise UsageError(f"vectors are stored as float32 or float16, not {dtype}")
        if (folder / "gallery.json").exists():
            raise GalleryError(f"there is a gallery in {folder} already")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise GalleryError(f"{folder} is not empty and not a gallery", "Name an empty or new folder with --index.")
        description: dict[str, Any] = {
            "format": FORMAT,
            "model": model.spec.to_dict(),
            "fingerprint": model.fingerprint,
            "checkpoint": FILE_NAME if model.checkpoint else None,
            "dtype": dtype,
            "precision": "fp32" if model.quantised is None else "int8",
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "roots": [],
        }
        # Made under another name and renamed: a gallery is there whole or not at all.
        temporary = folder.with_name(f".{folder.name.lstrip('.')}.{os.getpid()}.tmp")
        try:
            temporary.mkdir(parents=True)
            if model.checkpoint:  # a gallery is complete in itself: the run its model came from may go
                shutil.copyfile(model.checkpoint, temporary / FILE_NAME)
            if model.quantised:  # calibrated on pictures that may change: no other would do
                shutil.copytree(model.quantised, temporary / INT8_FOLDER)
            catalog = Catalog(temporary / "catalog.sqlite", create=True, writable=True)
            with catalog.writing():
                catalog.set_meta("description", json.dumps(description))
            catalog.close()
            write_description(temporary, description)
            os.rename(temporary, folder)
        except OSError as error:
            raise GalleryError(f"cannot make a gallery in {folder}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls(folder, description, warn=model.say, model=model)

    def index(
        self,
        paths: Sequence[str | os.PathLike[str]] | None = None,
        *,
        progress: Update | None = None,
        workers: int | None = None,
    ) -> SyncReport:
        """Bring the gallery in line with folders and files; see :func:`retrieval.gallery.sync.synchronise`."""
        return synchronise(self, paths, progress=progress, workers=workers)

    def remove(self, pattern: str) -> list[str]:
        """Take pictures out whose path, absolute or relative to its root or to the current folder, matches ``pattern``
        (shell wildcards; a folder means all below it). Files stay untouched. Returns the paths removed."""
        with self.writing() as catalog:
            folders = {root.id: self.folder_of(root) for root in catalog.roots()}
            gone = [r for r in catalog.records() if _matches(pattern, r.path, os.path.join(folders[r.root], r.path))]
            if gone:
                with catalog.writing():
                    catalog.delete(r.id for r in gone)
                    catalog.drop_empty_roots()
                    catalog.bump_version()
                    self.describe_roots(catalog)
                self.refresh_index(catalog)
        return [show_path(os.path.join(folders[r.root], r.path)) for r in gone]

    def query(self, image: Any, k: int = 10, bbox: Sequence[float] | None = None) -> QueryResult:
        """The ``k`` most similar pictures to ``image`` (path, bytes, array or PIL image), or to its ``bbox``."""
        k = whole_number("k", k)  # before the picture is described
        vector = self.model.describe(image, bbox)
        box = None if bbox is None else tuple(float(v) for v in bbox)
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else ""
        return QueryResult(str(name), box, self.search(vector[None], k)[0])  # type: ignore[arg-type]

    def search(self, vectors: np.ndarray, k: int = 10) -> list[list[Match]]:
        """The ``k`` best pictures for each descriptor (Q, D): cosine similarity, equal scores by ascending id.

        Scores are computed in float64 from the stored vectors, so that copies tie exactly wherever they lie. With an
        approximate search index a picture may be missed (:meth:`info` tells how many), never wrongly scored.
        """
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or vectors.shape[1] != self.spec.dim:
            raise UsageError(f"descriptors of shape (Q, {self.spec.dim}) are needed, not {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise UsageError("the query's descriptor is not finite")
        k = whole_number("k", k)
        catalog = self.catalog
        with catalog.reading():
            if not catalog.any_searchable():
                return [[] for _ in vectors]
            count, store = catalog.number("vector_count"), self.store()
            store.check_sizes(count)
            source = self._candidates(count, store)
            ranked = [rank(vector, k, source, store) for vector in vectors]
            records = catalog.by_ids(sorted({int(i) for found, _ in ranked for i in found}))
            folders = {root.id: self.folder_of(root) for root in catalog.roots()}
        answers = []
        for found, scores in ranked:
            paths = (show_path(os.path.join(folders[records[int(i)].root], records[int(i)].path)) for i in found)
            answers.append(
                [
                    Match(rank, float(s), int(i), p)
                    for rank, (i, s, p) in enumerate(zip(found, scores, paths, strict=True), 1)
                ]
            )
        return answers

    def _candidates(self, count: int, store: VectorStore) -> candidates.Source:
        """Where candidates come from in the catalog's present state."""
        state = (self.catalog.number("version"), self.catalog.log_state(), count, store.generation)
        if self._source is None or self._source[0] != state:
            source = open_source(self.folder / "ann", self.catalog, store, count, self.warn)
            if source is None:  # not written yet: looked for again at the next query
                return candidates.Everything(store, count, self.catalog)
            self._source = (state, source)
        return self._source[1]

    def info(self) -> GalleryInfo:
        """What the gallery holds, and which pictures could not be read and why. Imports no torch."""
        catalog = self.catalog
        with catalog.reading():
            counts, count = catalog.counts(), catalog.number("vector_count")
            folders = {root.id: self.folder_of(root) for root in catalog.roots()}
            troubled = [(show_path(os.path.join(folders[r.root], r.path)), r.error or "") for r in catalog.troubled()]
            live, store, searchable = (
                len(catalog.live_rows()),
                self.store(catalog),
                catalog.searchable_count(),
            )
            try:
                note = ann_file.find(self.folder / "ann", catalog.log_state())
            except GalleryDamaged as damage:
                self.warn(str(damage))
                note = None
            changes = catalog.count_changes(note.seq) if note else 0
        store.check_sizes(count)
        return GalleryInfo(
            path=show_path(os.path.abspath(self.folder)),
            spec=self.spec,
            dtype=self.description["dtype"],
            roots=[show_path(folder) for folder in folders.values()],
            images=searchable,
            vectors=live,
            pending=counts.get("pending", 0),
            troubled=troubled,
            bytes_vectors=store.bytes_on_disk(),
            bytes_total=sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file()),
            index_file=str(ann_file.index_path(self.folder / "ann", note.version)) if note else None,
            ann=self.search_kind,
            recall=self.search_recall,
            search=note,
            changes=changes,
            precision=self.description.get("precision", "fp32"),
        )


def _matches(pattern: str, relative: str, absolute: str) -> bool:
    folder = os.path.abspath(pattern)
    return (
        fnmatch.fnmatchcase(relative, pattern)
        or fnmatch.fnmatchcase(absolute, folder)
        or absolute.startswith(folder.rstrip(os.sep) + os.sep)
    )

"""The gallery: catalog, vectors and search index as one thing. Crash-safe, self-describing, one writer, many readers."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.describe.model import Model
from retrieval.errors import GalleryDamaged, GalleryError, GalleryMismatch, ModelError, UsageError
from retrieval.files.whole import whole_file
from retrieval.gallery.search import candidates as ann_search
from retrieval.gallery.search import file as ann_file
from retrieval.gallery.search import index as ann
from retrieval.gallery.search import kind as ann_kind
from retrieval.gallery.store.catalog import Catalog, Record, Root
from retrieval.gallery.store.lock import WriterLock
from retrieval.gallery.store.vectors import VectorStore
from retrieval.models.checkpoint import FILE_NAME
from retrieval.models.spec import ModelSpec

FORMAT = 1
DEFAULT_FOLDER = ".retrieval"
INT8_FOLDER = "int8"  # the network in 8 bits, in galleries that are described with it


@dataclass(frozen=True)
class Match:
    """One answer: ``score`` is the cosine similarity in [-1, 1]; ``path`` opens as printed from the current folder."""

    rank: int
    score: float
    id: int
    path: str


@dataclass(frozen=True)
class QueryResult:
    """The ranking for one query picture. ``warning``: something the user should know (a damaged search index)."""

    query: str
    bbox: tuple[float, float, float, float] | None
    matches: list[Match] = field(default_factory=list)


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


def locate(index: str | os.PathLike[str] | None = None, *, start: str | os.PathLike[str] = ".") -> Path | None:
    """Where the gallery is: ``index`` if given, else ``RETRIEVE_INDEX``, else ``.retrieval`` in this or a folder above."""
    named = index or os.environ.get("RETRIEVE_INDEX")
    if named:
        return Path(named)
    here = Path(start).absolute()
    return next((p / DEFAULT_FOLDER for p in (here, *here.parents) if (p / DEFAULT_FOLDER).is_dir()), None)


class Gallery:
    """A gallery on disk. Made by :meth:`create` or :meth:`open`; usable as a context manager.

    Reading never waits for a writer. ``warn`` gets one-line messages about things that were worked around.
    """

    def __init__(
        self,
        folder: Path,
        description: dict[str, Any],
        engine: str = "auto",
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.folder = folder
        self.description = description
        self.spec = ModelSpec.from_dict(description["model"])
        self.warn = warn or (lambda _: None)
        checkpoint = folder / FILE_NAME if description.get("checkpoint") else None
        quantised = folder / INT8_FOLDER if description.get("precision", "fp32") == "int8" else None
        self.model = Model(self.spec, checkpoint, engine, quantised=quantised, say=self.warn)
        self._catalog: Catalog | None = None
        self._store: VectorStore | None = None  # the reader's, of the present generation
        self._source: tuple[Any, ann_search.Source] | None = (
            None  # (state of the catalog, candidates), kept between queries
        )

    # -- opening -------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, folder: str | os.PathLike[str], model: Model, *, dtype: str = "float32", engine: str = "auto"
    ) -> Gallery:
        """A new, empty gallery for ``model``. ``dtype``: how vectors are stored, "float32" or "float16" (half the size).

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
            write_json(temporary / "gallery.json", description)
            os.rename(temporary, folder)
        except OSError as error:
            raise GalleryError(f"cannot make a gallery in {folder}: {error.strerror or error}") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return cls(folder, description, engine, model.say)

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str] | None = None,
        *,
        engine: str = "auto",
        warn: Callable[[str], None] | None = None,
    ) -> Gallery:
        """Open the gallery in ``folder`` (default: see :func:`locate`). Raises GalleryError, GalleryDamaged."""
        found = locate(folder)
        if found is None or not found.is_dir():
            where = f"in {found}" if found else "here or in a folder above"
            raise GalleryError(f"there is no gallery {where}", "Make one with: retrieve index FOLDER.")
        return cls(found, read_description(found), engine, warn)

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None

    # -- parts ---------------------------------------------------------------------------------------------------

    @property
    def catalog_path(self) -> Path:
        return self.folder / "catalog.sqlite"

    @property
    def catalog(self) -> Catalog:
        """The reader's connection."""
        if self._catalog is None:
            self._catalog = Catalog(self.catalog_path)
        return self._catalog

    def store(self, catalog: Catalog | None = None) -> VectorStore:
        """The vectors of the present generation."""
        generation = (catalog or self.catalog).number("generation")
        if catalog is None and self._store is not None and self._store.generation == generation:
            return self._store
        store = VectorStore(self.folder / "vectors", self.spec.dim, self.description["dtype"], generation)
        if catalog is None:
            self._store = store
        return store

    @contextmanager
    def writing(self) -> Iterator[Catalog]:
        """Hold the gallery for writing. Raises GalleryLocked when somebody else does."""
        with WriterLock(self.folder):
            catalog = Catalog(self.catalog_path, writable=True)
            try:
                yield catalog
            finally:
                with suppress(GalleryError):
                    catalog.close()

    def require(self, model: Model) -> None:
        """Raises GalleryMismatch unless ``model`` gives the descriptors this gallery holds."""
        if model.fingerprint != self.spec.fingerprint:
            raise GalleryMismatch(
                f"the gallery {self.folder} was made with {_summary(self.spec)}, not with {_summary(model.spec)}",
                "Leave out --model, --size and --scales to use the gallery's own, or name another gallery with --index.",
            )

    def folder_of(self, root: Root) -> str:
        """Absolute folder of a root. Roots beside the gallery are stored relative, so that both can move together."""
        return os.path.normpath(os.path.join(os.path.abspath(self.folder.parent), root.path))

    def root_path(self, absolute: str) -> str:
        """Inverse of :meth:`folder_of`: how an absolute folder is stored."""
        base = os.path.abspath(self.folder.parent)
        inside = absolute == base or absolute.startswith(base.rstrip(os.sep) + os.sep)
        return os.path.relpath(absolute, base) if inside else absolute

    # -- writing -------------------------------------------------------------------------------------------------

    def index(self, paths: Sequence[str | os.PathLike[str]] | None = None, **options: Any) -> Any:
        """Bring the gallery in line with folders and files; see :func:`retrieval.gallery.sync.synchronise`."""
        from retrieval.gallery.sync import synchronise

        return synchronise(self, paths, **options)

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

    def describe_roots(self, catalog: Catalog) -> None:
        """Keep the readable copy of the roots in ``gallery.json``, and a copy of that in the catalog."""
        roots = [{"path": os.fsencode(r.path).decode("utf-8", "replace"), "kind": r.kind} for r in catalog.roots()]
        if roots != self.description.get("roots"):
            self.description["roots"] = roots
            catalog.set_meta("description", json.dumps(self.description))
            write_json(self.folder / "gallery.json", self.description)

    def configure_search(self, kind: str | None = None, recall: float | None = None) -> None:
        """What search index the gallery keeps from its next synchronisation on; None leaves a setting as it is.

        ``kind``: "auto" (exact while that is fast, then inverted lists), "flat", "hnsw", "ivf", "ivfpq" or a FAISS factory
        string; ``recall``: the share of the true first 10 that an approximate one must find, measured on the gallery itself.
        Raises UsageError.
        """
        kind = kind or self.search_kind
        recall = self.search_recall if recall is None else recall
        ann_kind.check_request(kind, self.spec.dim, recall)
        if (kind, recall) != (self.search_kind, self.search_recall):
            with self.writing() as catalog:
                self.description["ann"] = {"kind": kind, "recall": recall}
                with catalog.writing():
                    catalog.set_meta("description", json.dumps(self.description))
                write_json(self.folder / "gallery.json", self.description)

    @property
    def search_kind(self) -> str:
        """The kind of search index asked for, see :meth:`configure_search`."""
        return self.description.get("ann", {}).get("kind", "auto")

    @property
    def search_recall(self) -> float:
        """The recall asked of an approximate search index."""
        return self.description.get("ann", {}).get("recall", ann_kind.DEFAULT_RECALL)

    def refresh_index(self, catalog: Catalog) -> bool:
        """Bring the search index in line with the catalog, see ``gallery/search/index.py``. True when it was written."""
        store = self.store(catalog)
        index = ann.SearchIndex(self.folder / "ann", catalog, store, self.search_kind, self.search_recall, self.warn)
        return index.refresh()

    # -- reading -------------------------------------------------------------------------------------------------

    def query(self, image: Any, k: int = 10, bbox: Sequence[float] | None = None) -> QueryResult:
        """The ``k`` most similar pictures to ``image`` (path, bytes, array or PIL image), or to its ``bbox``."""
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
        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}")
        catalog = self.catalog
        with catalog.reading():
            if not catalog.any_searchable():
                return [[] for _ in vectors]
            count, store = catalog.number("vector_count"), self.store()
            store.check_sizes(count)
            source = self._candidates(count, store)
            ranked = [_rank(vector, k, source, store) for vector in vectors]
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

    def _candidates(self, count: int, store: VectorStore) -> ann_search.Source:
        """Where candidates come from in the catalog's present state."""
        state = (self.catalog.number("version"), self.catalog.log_state(), count, store.generation)
        if self._source is None or self._source[0] != state:
            source = ann.open_source(self.folder / "ann", self.catalog, store, count, self.warn)
            if source is None:  # not written yet: looked for again at the next query
                return ann_search.Everything(store, count, self.catalog)
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

    def records(self) -> list[tuple[str, Record]]:
        """(path, record) of every picture that can be searched, by ascending id."""
        folders = {root.id: self.folder_of(root) for root in self.catalog.roots()}
        return [(os.path.join(folders[r.root], r.path), r) for r in self.catalog.records() if r.row is not None]

    def vectors(self, records: Sequence[Record]) -> np.ndarray:
        """Stored descriptors of these records, float32 (N, D)."""
        return self.store().take(np.array([r.row for r in records], np.int64), check=True)


def read_description(folder: Path) -> dict[str, Any]:
    """``gallery.json``, checked. Raises GalleryDamaged, or GalleryError for a gallery of a later program."""
    path = folder / "gallery.json"
    try:
        description = json.loads(path.read_text("utf-8"))
        if description["format"] > FORMAT:
            raise GalleryError(
                f"{path} has format {description['format']}; this program knows up to {FORMAT}",
                "Update the program.",
            )
        if ModelSpec.from_dict(description["model"]).fingerprint != description["fingerprint"]:
            raise ValueError("the model does not have the fingerprint written beside it")
        if description["dtype"] not in ("float32", "float16"):
            raise ValueError(f"unknown dtype {description['dtype']!r}")
        if description.get("precision", "fp32") not in ("fp32", "int8"):
            raise ValueError(f"unknown precision {description['precision']!r}")
    except FileNotFoundError as error:
        if not (folder / "catalog.sqlite").is_file():
            raise GalleryError(f"{folder} holds no gallery", "Make one with: retrieve index FOLDER.") from error
        raise GalleryDamaged(f"{path} is missing", "`retrieve index --repair` writes it from the catalog.") from error
    except (OSError, ValueError, KeyError, TypeError, ModelError) as error:
        raise GalleryDamaged(
            f"{path} is damaged ({error})", "`retrieve index --repair` writes it from the catalog."
        ) from error
    return description


def write_json(path: Path, data: Any) -> None:
    """Write a JSON file, which is whole at every moment. Raises GalleryError."""
    try:
        with whole_file(path) as file:
            file.write_text(json.dumps(data, indent=1), "utf-8")
    except OSError as error:
        raise GalleryError(f"could not write {path}: {error.strerror or error}") from error


def show_path(absolute: str) -> str:
    """A path as a user wants to read it: relative when it lies below the current folder; it opens as printed."""
    try:
        here = os.getcwd()
    except OSError:
        return absolute
    return os.path.relpath(absolute, here) if absolute.startswith(here.rstrip(os.sep) + os.sep) else absolute


def _rank(vector: np.ndarray, k: int, source: ann_search.Source, store: VectorStore) -> tuple[np.ndarray, np.ndarray]:
    """Ids and scores of the ``k`` best, by descending score, then ascending id."""
    stage = 0
    while True:
        found = source.candidates(vector, k, stage)
        scores = _cosine(vector, store, found.rows)
        order = np.lexsort((found.ids, -scores))
        # Scores that tie with the k-th may also lie beyond the candidates: look further until one is lower.
        if found.all or (len(order) >= k and scores[order[k - 1]] > scores[order[-1]] + 1e-6):
            return found.ids[order[:k]], scores[order[:k]]
        stage += 1


def _cosine(vector: np.ndarray, store: VectorStore, rows: np.ndarray) -> np.ndarray:
    """Cosine similarities in float64, row by row, so that equal vectors get equal scores."""
    query = vector.astype(np.float64)
    length = float(np.linalg.norm(query)) or 1.0
    out = np.empty(len(rows))
    for begin in range(0, len(rows), 4096):
        block = store.take(rows[begin : begin + 4096], check=True).astype(np.float64)
        norms = np.sqrt((block * block).sum(axis=1))
        out[begin : begin + 4096] = (block * query).sum(axis=1) / (np.maximum(norms, 1e-12) * length)
    return np.clip(out, -1.0, 1.0)


def _matches(pattern: str, relative: str, absolute: str) -> bool:
    folder = os.path.abspath(pattern)
    return (
        fnmatch.fnmatchcase(relative, pattern)
        or fnmatch.fnmatchcase(absolute, folder)
        or absolute.startswith(folder.rstrip(os.sep) + os.sep)
    )


def _summary(spec: ModelSpec) -> str:
    scales = "" if spec.image.scales == (1.0,) else f", scales {','.join(f'{s:g}' for s in spec.image.scales)}"
    return f"{spec.name} (size {spec.image.size}{scales}, fingerprint {spec.fingerprint})"

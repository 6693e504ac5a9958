"""An opened gallery's parts: description, model, catalog, vectors, search settings. What its face and helpers share."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.describe.model import Model
from retrieval.errors import GalleryDamaged, GalleryError, GalleryMismatch
from retrieval.files.whole import remove_unfinished
from retrieval.gallery.address import ANN_FOLDER, CATALOG, LOCAL_FOLDER, VECTORS_FOLDER, locate
from retrieval.gallery.description import described_model, read_description
from retrieval.gallery.given import one_name
from retrieval.gallery.local.block import Block
from retrieval.gallery.local.index import LocalIndex
from retrieval.gallery.settings import GallerySettings
from retrieval.gallery.store.catalog import REPAIR, Catalog, Record, Root
from retrieval.gallery.store.lock import WriterLock
from retrieval.gallery.store.vectors import VectorStore
from retrieval.gallery.store.view import DERIVED_FOLDER, VectorView
from retrieval.messages import Say, announced
from retrieval.models.spec import ModelSpec

if TYPE_CHECKING:
    from typing_extensions import Self

_FEW_CHANGES = 1000


class OpenedGallery(GallerySettings):
    """A gallery on disk, opened: what reads and writes it builds on. :class:`retrieval.Gallery` is its face.

    ``model``: the one to describe with (default: made from the description). ``warn`` gets one-line messages about things
    that were worked around.
    """

    def __init__(
        self,
        folder: Path,
        description: dict[str, Any],
        engine: str = "auto",
        warn: Say | None = None,
        model: Model | None = None,
    ) -> None:
        self.folder = folder
        self.description = description
        self.spec = ModelSpec.from_dict(description["model"])
        self.warn = announced(warn, "warning")
        if model is None:
            model = described_model(folder, description, engine, say=self.warn)
        self.model = model
        self._catalog: Catalog | None = None
        self._opening = threading.Lock()
        self._process = os.getpid()
        self._inherited: list[object] = []
        self._store: VectorStore | None = None  # the reader's, of the present generation
        self._replaced = 0  # how often the catalog has been another file when that store was opened
        self._local: LocalIndex | None = None
        self._lack_told = False
        self._deleted = False  # a temporary one, by its end

    # -- opening -------------------------------------------------------------------------------------------------

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str] | None = None,
        *,
        engine: str = "auto",
        warn: Say | None = None,
    ) -> Self:
        """Open the gallery in ``folder`` (default: see :func:`locate`). Raises GalleryError, GalleryDamaged, and UsageError
        for what is no name."""
        found = locate(folder if folder in (None, "") else one_name("the gallery's folder", folder))
        if found is None or not found.is_dir():
            where = f"in {found}" if found else "here or in a folder above"
            raise GalleryError(f"there is no gallery {where}", "Make one with: retrieve index FOLDER.")
        return cls(found, read_description(found), engine, warn)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r}, model={self.spec.name!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the files. A thread that is just reading reads to its end; what is asked later opens them again."""
        self._leave_to_parent()
        with self._opening:
            catalog, self._catalog = self._catalog, None
            self._store, self._replaced = None, 0
        if catalog is not None:
            catalog.close()

    # -- parts ---------------------------------------------------------------------------------------------------

    @property
    def catalog_path(self) -> Path:
        return self.folder / CATALOG

    @property
    def catalog(self) -> Catalog:
        """The reader's connection, of this process: one for all threads, for who holds its state (:meth:`Catalog.reading`) asks
        for it again."""
        self._leave_to_parent()
        with self._opening:
            if self._deleted:
                raise GalleryError(f"the gallery {self.folder} is closed", "It was a temporary one.")
            if self._catalog is None:
                self._catalog = Catalog(self.catalog_path)
            return self._catalog

    def store(self, catalog: Catalog | None = None) -> VectorStore:
        """The vectors of the present generation. Raises GalleryMismatch where another model's gallery lies here by now."""
        generation = (catalog or self.catalog).number("generation")
        if catalog is None and self.catalog.replaced != self._replaced:
            self._become(read_description(self.folder), self.catalog.replaced)
        if catalog is None and self._store is not None and self._store.generation == generation:
            return self._store
        store = VectorStore(self.folder / VECTORS_FOLDER, self.spec.dim, self.description["dtype"], generation)
        if catalog is None:
            self._store = store
        return store

    def _leave_to_parent(self) -> None:
        """After a fork: a connection of SQLite's belongs to the process that opened it, and a lock that another thread held at
        that moment is never released here. Neither is closed, which would touch what is the parent's."""
        if self._process == os.getpid():
            return
        self._inherited += [self._catalog, self._local]
        self._catalog, self._local, self._store, self._replaced = None, None, None, 0
        self._opening = threading.Lock()
        self._process = os.getpid()

    def _become(self, description: dict[str, Any], replaced: int) -> None:
        """Go on with the gallery that was put in the place of the one that was opened: a copy that came back, a repaired one."""
        if any(description[key] != self.description[key] for key in ("fingerprint", "dtype")):
            made = _summary(ModelSpec.from_dict(description["model"]))
            raise GalleryMismatch(
                f"{self.folder} holds another gallery than the one that was opened, made with {made}",
                "Open it again.",
            )
        self.description = description
        self._store, self._local, self._replaced = None, None, replaced

    @property
    def local(self) -> LocalIndex | None:
        """The local index, None in a gallery that keeps none."""
        self._leave_to_parent()
        if not self.local_setting:
            return None
        with self._opening:
            if self._local is None:
                self._local = LocalIndex(self.folder, self.warn)
            return self._local

    def local_blocks(self) -> list[Block]:
        """What the local index holds. ``warn`` tells once where contents are gone that it had. Not to be asked while the
        catalog's state is held (:meth:`Catalog.reading`): a writer that drops contents would look like a loss."""
        index = self.local
        if index is None:
            return []
        blocks = index.blocks()
        lacking = self.catalog.number("local_contents") - sum(map(len, blocks))
        if lacking > 0 and not index.told and not self._lack_told:
            self._lack_told = True
            self.warn(
                f"The local index in {index.folder} lacks {lacking} contents that it had; their pictures are ranked by their "
                "descriptors alone. `retrieve index` makes them anew."
            )
        return blocks

    def note_local(self, catalog: Catalog) -> None:
        """At the end of a change: how many contents the local index holds."""
        held = 0 if self.local is None else sum(map(len, self.local.blocks()))
        if held != catalog.number("local_contents"):
            with catalog.writing():
                catalog.set_meta("local_contents", held)

    @contextmanager
    def writing(self) -> Iterator[Catalog]:
        """Hold the gallery for writing. Raises GalleryLocked when somebody else does."""
        with WriterLock(self.folder):
            local = (self.folder / LOCAL_FOLDER).glob("*")
            for folder in (self.folder, self.folder / ANN_FOLDER, self.folder / DERIVED_FOLDER, *local):
                remove_unfinished(folder)
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
                "Leave out --model, --size, --scales and --tokens to use the gallery's own, or name another with --index.",
            )

    def folder_of(self, root: Root) -> str:
        """Absolute folder of a root. Roots beside the gallery are stored relative, so that both can move together."""
        return os.path.normpath(os.path.join(os.path.abspath(self.folder.parent), root.path))

    def root_path(self, absolute: str) -> str:
        """Inverse of :meth:`folder_of`: how an absolute folder is stored."""
        base = os.path.abspath(self.folder.parent)
        inside = absolute == base or absolute.startswith(base.rstrip(os.sep) + os.sep)
        return os.path.relpath(absolute, base) if inside else absolute

    def namer(self, catalog: Catalog | None = None) -> Callable[[Record], str]:
        """Tells a record's absolute path, or its key where a program added it."""
        roots = {r.id: r for r in (catalog or self.catalog).roots()}
        folders: dict[int, str] = {}  # of those that are asked for: a gallery may have thousands

        def name(record: Record) -> str:
            folder = folders.get(record.root)
            if folder is None:
                if record.root not in roots:
                    raise GalleryDamaged(
                        f"the catalog's entry of picture {record.id} is damaged: its folder is unknown", REPAIR
                    )
                root = roots[record.root]
                folder = folders[record.root] = "" if root.kind == "keys" else self.folder_of(root)
            return os.path.join(folder, record.path)

        return name

    # -- writing -------------------------------------------------------------------------------------------------

    def refresh_index(self, catalog: Catalog, *, eagerly: bool = True) -> bool:
        """Bring the search index in line with the catalog, see ``gallery/search/index.py``. True when it was written.

        ``eagerly`` off: only once a thousand changes would have to be searched beside it.
        """
        if not eagerly and (log := catalog.log_state()) is not None and catalog.count_changes(log.start) < _FEW_CHANGES:
            return False
        from retrieval.gallery.search.index import SearchIndex  # only here: who reads needs none of what makes one

        store = self.store(catalog)
        index = SearchIndex(self.folder / ANN_FOLDER, catalog, store, self.search_kind, self.search_recall, self.warn)
        return index.refresh()

    # -- reading -------------------------------------------------------------------------------------------------

    def records(self) -> list[tuple[str, Record]]:
        """(path or key, record) of every picture that can be searched, by ascending id, of one state of the catalog."""
        catalog = self.catalog
        with catalog.reading():
            name = self.namer(catalog)
            return [(name(r), r) for r in catalog.records() if r.row is not None]

    def vectors_of(self, records: Sequence[Record]) -> np.ndarray:
        """Stored descriptors of these records, float32 (N, D)."""
        return self.store().take(np.array([r.row for r in records], np.int64), check=True)


def _summary(spec: ModelSpec) -> str:
    scales = "" if spec.image.scales == (1.0,) else f", scales {','.join(f'{s:g}' for s in spec.image.scales)}"
    whitened = "" if spec.whitening is None else f"whitened to {spec.dim}"
    size, fingerprint = f"size {spec.image.size}{scales}", f"fingerprint {spec.fingerprint}"
    return f"{spec.name} ({', '.join(filter(None, (spec.origin, whitened, size, fingerprint)))})"


def searchable_view(gallery: OpenedGallery) -> tuple[np.ndarray, VectorView]:
    """Ids of all pictures that can be searched, ascending, and their vectors in that order."""
    with gallery.catalog.reading():
        ids, rows = gallery.catalog.searchable()
        store = gallery.store()
        store.check_sizes(gallery.catalog.number("vector_count"))
    return ids, VectorView(store, rows)

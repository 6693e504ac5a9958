"""A served gallery as one in a folder, for what looks at more than a ranking: duplicates, evaluation, re-ranking, folding.

Names, contents and vectors come over the wire, in the order of names, and lie in a temporary folder until the copy is closed. So
all that a gallery in a folder can do without local codes gives the same figures. Nothing is written back.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from retrieval.backends.base import Entry, key_of
from retrieval.backends.served import ServedGallery, cosine_alone
from retrieval.errors import GalleryError
from retrieval.gallery.adding import keys_root
from retrieval.gallery.address import DEFAULT_FOLDER
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.store.catalog import Catalog, Seen
from retrieval.gallery.store.vectors import VectorStore
from retrieval.messages import Update, human_bytes, no_update
from retrieval.parts.places import is_plain, local_path

_AT_ONCE = 8192  # pictures in one transaction
_BESIDES = 300  # bytes a picture takes beside its vector


class CopiedGallery(Gallery):
    """Made by :meth:`of`. ``address``: where it comes from, as it is shown. Ids are those of the copy: places among its names."""

    address: str

    @classmethod
    def of(
        cls, served: ServedGallery, names: Sequence[str] | None = None, *, progress: Update = no_update
    ) -> CopiedGallery:
        """All of ``served``, or what it has of ``names``. Where temporary files lie, 4 bytes a dimension and some 300 besides
        are wanted for each picture. Raises GalleryError, where there is no room for them before anything is fetched."""
        count = len(served) if names is None else len(set(names))
        require_room(size_of(served, count))
        folder = tempfile.mkdtemp(prefix="retrieval-")
        try:
            copy = cls.create(Path(folder) / DEFAULT_FOLDER, served.model, local=False)
            assert isinstance(copy, cls)
            copy._delete = weakref.finalize(copy, shutil.rmtree, folder, ignore_errors=True)
            copy.address = served.folder
            copy.configure_search("flat")
            wanted = served.backend.names() if names is None else sorted(set(names), key=str.encode)
            copy._fill(served, wanted, count, progress)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return copy

    def rank_by(self, rank: str | None, reranked: bool = False, judged: bool = False) -> str:
        """ "cosine"; raises UsageError for what takes local codes."""
        return cosine_alone(self.address, rank, judged)

    def _fill(self, served: ServedGallery, names: Iterable[str], count: int, progress: Update) -> None:
        with self.writing() as catalog:
            filling = _Filling(self, catalog)
            rest = iter(names)
            done = 0
            while block := list(islice(rest, _AT_ONCE)):
                found = {entry.name: entry for entry in served.backend.entries(block)}
                filling.add([found[name] for name in block if name in found])
                done += len(block)
                progress(done, count)
            with catalog.writing():
                catalog.drop_empty_roots()
                self.describe_roots(catalog)
            self.refresh_index(catalog)


def size_of(served: ServedGallery, count: int) -> int:
    """How many bytes a copy of ``count`` pictures takes here, nearly."""
    return count * (4 * served.spec.dim + _BESIDES)


def require_room(wanted: int) -> None:
    """Raises GalleryError where temporary files find no ``wanted`` bytes."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise GalleryError(
            f"a copy of the gallery takes some {human_bytes(wanted)}, and {folder} has room for {human_bytes(free)}",
            "TMPDIR names another folder for temporary files.",
        )


class _Filling:
    """Puts entries into a new gallery. Of one content there is one vector, as in every gallery."""

    def __init__(self, gallery: CopiedGallery, catalog: Catalog) -> None:
        self.gallery, self.catalog = gallery, catalog
        self.store: VectorStore = gallery.store(catalog)
        self.rows: dict[str, int] = {}
        gallery.allow_keys(catalog)
        with catalog.writing():
            self.files = catalog.add_root(gallery.root_path(os.sep), "folder").id
            self.keys = keys_root(catalog).id

    def add(self, entries: Sequence[Entry]) -> None:
        first = len(self.rows)
        new: dict[str, Entry] = {}
        for entry in entries:
            if (digest := _digest(entry)) not in self.rows:
                self.rows[digest] = first + len(new)
                new[digest] = entry
        if new:
            self.store.append(first, np.stack([entry.vector for entry in new.values()]), list(new))
        with self.catalog.writing():
            self.catalog.add_seen(self._seen(entries))
            self.catalog.set_meta("vector_count", len(self.rows))
            self.catalog.bump_version()

    def _seen(self, entries: Sequence[Entry]) -> Iterator[Seen]:
        for e in entries:
            path, digest = path_of(e.name), _digest(e)
            root, name = (self.keys, e.name) if path is None else (self.files, path.lstrip(os.sep))
            yield Seen(root, name, e.size, e.mtime_ns, digest, e.width, e.height, None, self.rows[digest])


def path_of(name: str) -> str | None:
    """The file that a name in a served gallery means (:func:`retrieval.backends.names.storable`); None for what is no file."""
    path = local_path(name) or (name if is_plain(name) else None)
    return None if path == os.sep else path


def _digest(entry: Entry) -> str:
    return entry.hash or key_of(entry.name).hex()

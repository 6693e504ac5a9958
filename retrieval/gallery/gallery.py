"""The gallery: catalog, vectors and search index as one thing. Crash-safe, self-describing, one writer, many readers.

What fills or lists a gallery is imported by the method that asks for it: a query that only opens one starts sooner.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.errors import UsageError
from retrieval.files.paths import show_path
from retrieval.gallery.address import DEFAULT_FOLDER
from retrieval.gallery.asking import AskedGallery
from retrieval.gallery.description import read_description
from retrieval.gallery.given import check_model, listed, names_of, one_name
from retrieval.messages import Bars, Update, no_bars

if TYPE_CHECKING:
    import numpy.typing as npt

    from retrieval.describe.model import Model
    from retrieval.describe.precision import Precision
    from retrieval.gallery.adding import Picture
    from retrieval.gallery.duplicates.answers import Duplicates, Level
    from retrieval.gallery.facts import GalleryInfo
    from retrieval.gallery.opened import OpenedGallery
    from retrieval.gallery.work import SyncReport


class Gallery(AskedGallery):
    """A gallery on disk. Made by :meth:`create` or :meth:`open`; usable as a context manager.

    Reading never waits for a writer. ``warn`` gets one-line messages about things that were worked around.
    """

    _delete: Callable[[], object] | None = None  # what closing a temporary gallery does

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        model: Model,
        *,
        dtype: str = "float32",
        local: bool = True,
        precision: Precision | None = None,
        calibrate_on: Sequence[str | os.PathLike[str]] = (),
    ) -> Gallery:
        """A new, empty gallery that describes with this very ``model``.

        ``dtype``: how vectors are stored, "float32" or "float16" (half the size). ``local``: whether it keeps a local index,
        by which the same thing is found and verified. ``precision``: what the network computes in, "auto", "fp32", "bf16" or
        "int8" (default: what ``model`` does); the loss is measured on the pictures ``calibrate_on`` (files and folders), see
        :func:`retrieval.describe.precision.in_precision`.

        Raises GalleryError when the folder already holds a gallery or something else, or cannot be made; UsageError for what
        is no folder's name or no model; UsageError, ModelError where the precision cannot be had.
        """
        from retrieval.gallery.creating import create_folder

        folder = Path(one_name("the gallery's folder", folder))
        check_model(model)
        if precision not in (None, model.precision):
            import tempfile

            from retrieval.describe.precision import in_precision
            from retrieval.pictures.scan import pictures_in

            with tempfile.TemporaryDirectory(prefix="retrieval-int8-") as work:
                reduced = in_precision(
                    model, precision, pictures_in([os.fspath(path) for path in calibrate_on]), Path(work) / "int8"
                )
                gallery = cls.create(folder, reduced, dtype=dtype, local=local)
            if reduced.precision != "int8":
                return gallery
            gallery.close()  # its model lay in the temporary folder
            return cls.open(folder, engine=model.engine_name, warn=model.say)
        return cls(folder, create_folder(folder, model, dtype, local), warn=model.say, model=model)

    @classmethod
    def temporary(cls, model: Model, *, dtype: str = "float32", local: bool = True) -> Gallery:
        """A gallery for scripts and tests, in memory where the system keeps such files; closing it deletes it."""
        import shutil
        import tempfile
        import weakref

        check_model(model)
        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        folder = tempfile.mkdtemp(prefix="retrieval-", dir=base)
        gallery = cls.create(Path(folder) / DEFAULT_FOLDER, model, dtype=dtype, local=local)
        gallery._delete = weakref.finalize(gallery, shutil.rmtree, folder, ignore_errors=True)
        return gallery

    def close(self) -> None:
        super().close()
        if self._delete is not None:
            self._deleted = True
            self._delete()

    # -- filling -------------------------------------------------------------------------------------------------

    def index(
        self,
        paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
        *,
        progress: Update | None = None,
        workers: int | None = None,
        exclude: Sequence[str] = (),
        include: Sequence[str] = (),
        restore: bool = False,
        rehash: bool = False,
        thumbnails: bool = False,
    ) -> SyncReport:
        """Bring the gallery in line with folders and files, or one; see :func:`retrieval.gallery.sync.synchronise`. ``exclude``:
        patterns of what is left out, from now on (:mod:`retrieval.pictures.leave_out`); ``include``: of these patterns no
        longer."""
        from retrieval.gallery.sync import synchronise

        if paths is not None:
            paths = names_of("what is indexed", paths)
        self.configure_exclude(
            [exclude] if isinstance(exclude, str) else exclude, [include] if isinstance(include, str) else include
        )
        return synchronise(
            self, paths, progress=progress, workers=workers, restore=restore, rehash=rehash, thumbnails=thumbnails
        )

    def add(
        self,
        key: str | Sequence[str],
        *,
        image: Picture | Sequence[Picture] | None = None,
        vector: npt.ArrayLike | None = None,
        metadata: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None = None,
    ) -> int | list[int]:
        """Add a picture under a key of one's own, or replace the one of that key; its id is returned.

        ``image``: a path, the bytes of a picture file, uint8 (H, W, 3) or a PIL image, which is described and not kept.
        ``vector``: a descriptor (D,) instead, of this model or another tool, which is normalised. ``metadata``: a
        dictionary that JSON can hold; it comes back with each match. A list of keys takes lists of the others, float (N, D)
        for ``vector``, and gives a list of ids: all are added or none, far faster than one by one.

        What was added is on the disk when this returns. Raises UsageError, ImageError (names the key), GalleryError.
        """
        if isinstance(key, str):
            images = None if image is None else [image]
            vectors: Any = None if vector is None else [vector]
            return self._added([key], images, vectors, [metadata])[0]
        keys = listed("several keys", key)
        notes = [None] * len(keys) if metadata is None else listed("metadata of several keys", metadata)
        return self._added(keys, None if image is None else listed("images of several keys", image), vector, notes)

    def _added(
        self, keys: list[str], images: list[Any] | None, vectors: npt.ArrayLike | None, notes: list[Any]
    ) -> list[int]:
        from retrieval.gallery.adding import add_pictures

        if (images is None) == (vectors is None):
            raise UsageError("a picture is added with image= or with vector=, not with both or none")
        if len(notes) != len(keys) or (images is not None and len(images) != len(keys)):
            raise UsageError(f"{len(keys)} keys need as many pictures and as many metadata")
        return add_pictures(self, keys, images, vectors, notes) if keys else []

    def remove(self, key: str | Sequence[str]) -> list[str]:
        """Take out the pictures of exactly these names: a path, absolute or relative to the current folder or to what was
        indexed, or a key. Files stay untouched. Returns the names removed; raises UsageError where one is not in the
        gallery, and then nothing is removed."""
        from retrieval.gallery import removing

        return removing.remove(self, names_of("what is removed", key))

    def remove_matching(self, pattern: str, *, dry_run: bool = False) -> list[str]:
        """Take out what a name means: the picture of that very name, else all below a folder, else what fits a pattern with
        shell wildcards. Returns the names, none where nothing fits; with ``dry_run`` nothing is taken out."""
        from retrieval.gallery import removing

        return removing.remove_matching(self, one_name("what is removed", pattern), dry_run=dry_run)

    def remove_root(self, folder: str | os.PathLike[str], *, dry_run: bool = False) -> list[str]:
        """Forget a folder that was indexed, whether or not it is still there, and take out all of its pictures. Returns their
        names; with ``dry_run`` nothing is changed. Raises UsageError where it was not indexed."""
        from retrieval.gallery import removing

        return removing.remove_root(self, one_name("the folder", folder), dry_run=dry_run)

    # -- what is in it -------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many pictures can be searched."""
        return self.catalog.searchable_count()

    def __bool__(self) -> bool:
        return True  # a gallery without pictures is a gallery

    def __iter__(self) -> Iterator[str]:
        """Paths and keys of all pictures that can be searched, by ascending id."""
        return iter([show_path(name) for name, _ in self.records()])

    def __contains__(self, key: object) -> bool:
        """Whether the picture of exactly this path or key can be searched."""
        from retrieval.gallery.selection import select

        try:
            name = one_name("a key", key)
        except UsageError:
            return False
        found = select(self, name, patterns=False)
        return found.kind == "picture" and any(record.row is not None for record in found.records)

    def vectors(self, keys: str | Sequence[str] | None = None) -> npt.NDArray[np.float32]:
        """Stored descriptors, float32 (N, D), of these paths or keys, or one, in order; of all, as iteration goes, without.

        Raises UsageError for one that is not in the gallery.
        """
        if keys is None:
            return self.vectors_of([record for _, record in self.records()])
        from retrieval.gallery.selection import select

        records = []
        for key in names_of("keys", keys):
            found = [r for r in select(self, key, patterns=False).records if r.row is not None]
            if not found:
                raise UsageError(f"{key} is not in the gallery")
            records.append(found[0])
        return self.vectors_of(records)

    def duplicates(
        self,
        level: Level = "copies",
        other: OpenedGallery | None = None,
        files: Sequence[str | os.PathLike[str]] | None = None,
        *,
        bars: Bars = no_bars,
    ) -> Duplicates:
        """Groups of exact copies, of altered copies too ("copies"), or of shots of one scene too ("scenes"); in this gallery,
        between it and an ``other`` one, or of ``files``, new ones or its own, with what it holds and with each other. See
        docs/duplicates.md. Changes nothing but thumbnails and points that are kept. Raises UsageError, GalleryMismatch for
        galleries of different models."""
        from retrieval.gallery.duplicates.find import find_duplicates

        named = None if files is None else names_of("files", files)
        return find_duplicates(self, level, other, named, bars=bars)

    def export(self, path: str | os.PathLike[str]) -> int:
        """Write all descriptors with their names, see :mod:`retrieval.gallery.exchange`; returns how many."""
        from retrieval.gallery.exchange import export_gallery

        return export_gallery(self, path)

    def import_(self, path: str | os.PathLike[str]) -> int:
        """Add what :meth:`export` or another tool wrote, under its names as keys; returns how many. Raises UsageError,
        GalleryMismatch for descriptors of another model."""
        from retrieval.gallery.exchange import import_descriptors

        return import_descriptors(self, path)

    def __reduce__(self) -> tuple[Any, ...]:
        """What opens the gallery again, in another process too; with the very model, where that was given."""
        return _reopen, (type(self), os.path.abspath(self.folder), self.model)

    def info(self) -> GalleryInfo:
        """What the gallery holds, and which pictures could not be read and why. Imports no torch."""
        from retrieval.gallery.facts import facts_of

        return facts_of(self)


def _reopen(kind: type[Gallery], folder: str, model: Model) -> Gallery:
    return kind(Path(folder), read_description(Path(folder)), model=model)

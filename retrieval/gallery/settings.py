"""What a gallery is set to: kept in ``gallery.json``, with a copy in the catalog."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from retrieval.errors import UsageError
from retrieval.gallery.description import FORMAT, write_description
from retrieval.gallery.search import kind as ann_kind
from retrieval.gallery.store.catalog import Catalog
from retrieval.models.spec import ModelSpec


class GallerySettings:
    """The settings of a gallery: part of :class:`retrieval.gallery.opened.OpenedGallery`, which says how to write."""

    folder: Path
    description: dict[str, Any]
    spec: ModelSpec

    def writing(self) -> AbstractContextManager[Catalog]:
        """Hold the gallery for writing. Raises GalleryLocked when somebody else does."""
        raise NotImplementedError

    def _set(self, catalog: Catalog, key: str, value: object) -> None:
        self.description[key] = value
        with catalog.writing():
            catalog.set_meta("description", json.dumps(self.description))
        write_description(self.folder, self.description)

    def describe_roots(self, catalog: Catalog) -> None:
        """Keep the readable copy of the roots in ``gallery.json``, and a copy of that in the catalog."""
        roots = [{"path": os.fsencode(r.path).decode("utf-8", "replace"), "kind": r.kind} for r in catalog.roots()]
        if roots != self.description.get("roots"):
            self.description["roots"] = roots
            catalog.set_meta("description", json.dumps(self.description))
            write_description(self.folder, self.description)

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
                self._set(catalog, "ann", {"kind": kind, "recall": recall})

    @property
    def search_kind(self) -> str:
        """The kind of search index asked for, see :meth:`configure_search`."""
        result: str = self.description.get("ann", {}).get("kind", "auto")
        return result

    @property
    def search_recall(self) -> float:
        """The recall asked of an approximate search index."""
        result: float = self.description.get("ann", {}).get("recall", ann_kind.DEFAULT_RECALL)
        return result

    @property
    def exclude(self) -> list[str]:
        """Patterns of files and folders that are not indexed, see :mod:`retrieval.pictures.leave_out`."""
        return list(self.description.get("exclude", []))

    def configure_exclude(self, patterns: Sequence[str], forget: Sequence[str] = ()) -> None:
        """Leave out files and folders of these patterns too, from the next synchronisation on, and no longer those to
        ``forget``. A path that is there, as seen from the current folder, is meant as a whole. Raises UsageError for one to
        forget that is not remembered."""
        unknown = [pattern for pattern in forget if not {pattern, _whole(pattern)} & {*self.exclude}]
        if unknown:
            known = ", ".join(map(repr, self.exclude)) or "none"
            raise UsageError(f"{unknown[0]!r} is not left out by a pattern", f"These are remembered: {known}.")
        dropped = {*forget, *map(_whole, forget)}
        merged = [p for p in dict.fromkeys([*self.exclude, *map(_whole, patterns)]) if p not in dropped]
        if merged != self.exclude:
            with self.writing() as catalog:
                self._set(catalog, "exclude", merged)

    def allow_keys(self, catalog: Catalog) -> None:
        """From now on the gallery may hold keys; a program that would take them for vanished files refuses it."""
        if self.description["format"] < FORMAT:
            self._set(catalog, "format", FORMAT)

    @property
    def local_setting(self) -> bool | None:
        """Whether the gallery keeps a local index; None: made before there was one, which gets it at the next synchronisation."""
        setting = self.description.get("local")
        return None if setting is None else bool(setting)

    def configure_local(self, wanted: bool | None = None) -> None:
        """Keep a local index from the next synchronisation on, or no longer; None leaves it as it is."""
        if wanted is not None and wanted != self.local_setting:
            with self.writing() as catalog:
                self.set_local(catalog, wanted)

    def set_local(self, catalog: Catalog, wanted: bool) -> None:
        """The same for who holds the gallery for writing."""
        self._set(catalog, "local", wanted)


def _whole(pattern: str) -> str:
    """A pattern that is the path of something, from the root of the disk; any other as it is."""
    if os.sep in pattern.strip(os.sep) and not os.path.isabs(pattern) and os.path.lexists(pattern):
        return glob.escape(os.path.abspath(pattern))
    return pattern

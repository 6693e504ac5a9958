"""Which pictures a name means: the picture of exactly that name, else a folder, else a pattern. An exact name always wins.

A name may be absolute, relative to the current folder, relative to what was indexed, or a key. Names that differ only in
how an accent is encoded (Unicode's composed and decomposed forms) mean the same, where no name is equal to the letter.
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from retrieval.errors import UsageError
from retrieval.files.identity import identity
from retrieval.files.paths import composed, show_path
from retrieval.gallery.given import one_name
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Catalog, Record, Root
from retrieval.gallery.targets import lies_in, place_in


@dataclass(frozen=True)
class Selection:
    """``records`` that a name means, by ascending id. ``kind``: "picture" (its very name), "folder" (all below it),
    "pattern", or "nothing"."""

    kind: str
    records: list[Record]


def select(gallery: OpenedGallery, text: str, catalog: Catalog | None = None, *, patterns: bool = True) -> Selection:
    """What ``text`` means in the gallery. ``patterns``: whether shell wildcards count where no name fits."""
    catalog = catalog or gallery.catalog
    named = _Names(gallery, catalog)
    exact = named.pictures(text)
    if exact and not text.endswith(os.sep):
        return Selection("picture", exact)
    below = named.below(text)
    if below:
        return Selection("folder", below)
    if patterns and glob.has_magic(text):
        found = named.matching(text)
        if found:
            return Selection("pattern", found)
    return Selection("nothing", [])


def ids_below(gallery: OpenedGallery, folder: str | os.PathLike[str]) -> list[int]:
    """Ids, ascending, of the pictures that can be searched and lie in ``folder``, or are that picture. Raises
    UsageError for what is no name."""
    selected = select(gallery, one_name("under", folder), gallery.catalog, patterns=False)
    return [record.id for record in selected.records if record.row is not None]


def find_root(gallery: OpenedGallery, text: str, catalog: Catalog) -> Root:
    """The folder that was indexed under this name, or under another name of it. Raises UsageError."""
    roots = [root for root in catalog.roots() if root.kind != "keys"]
    absolute = os.path.abspath(text)
    for same in (
        lambda folder: folder == absolute,
        lambda folder: composed(folder) == composed(absolute),
        lambda folder: identity(folder) is not None and identity(folder) == identity(absolute),
    ):
        for root in roots:
            if same(gallery.folder_of(root)):
                return root
    known = ", ".join(show_path(gallery.folder_of(root)) for root in roots) or "none"
    raise UsageError(f"{show_path(absolute)} was not indexed as a folder of its own", f"These were: {known}.")


class _Names:
    """The names in a catalog, each picture's by its root: relative, and from the root of the disk."""

    def __init__(self, gallery: OpenedGallery, catalog: Catalog) -> None:
        self._catalog = catalog
        self._roots = {r.id: "" if r.kind == "keys" else gallery.folder_of(r) for r in catalog.roots()}

    def pictures(self, text: str) -> list[Record]:
        """Those of exactly this name; those that differ in Unicode's forms alone, where there are none."""
        found: dict[int, Record] = {}
        for root, folder in self._roots.items():
            for path in (*_relatives(text, folder), *_linked(text, folder)):
                record = self._catalog.find(root, path)
                if record is not None:
                    found[record.id] = record
        if not found and not text.isascii():
            found = {r.id: r for r in self._alike(text)}
        return [found[i] for i in sorted(found)]

    def below(self, text: str) -> list[Record]:
        whole = [root for root, folder in self._roots.items() if folder and lies_in(folder, os.path.abspath(text))]
        found = {r.id: r for root in whole for r in self._catalog.records(root)}
        for root, folder in self._roots.items():
            if root in whole:
                continue
            for path in (*_relatives(text, folder), *_linked(text, folder)):
                if path == ".":
                    found.update((r.id, r) for r in self._catalog.records(root))
                else:
                    found.update((r.id, r) for r in self._catalog.records_below(root, path.rstrip(os.sep)))
        return [found[i] for i in sorted(found)]

    def matching(self, pattern: str) -> list[Record]:
        plain = os.path.normpath(pattern)
        # The current folder's own name may hold characters of patterns: they stand for themselves.
        absolute = plain if os.path.isabs(plain) else os.path.join(glob.escape(os.getcwd()), plain)
        found: dict[int, Record] = {}
        for root, folder in self._roots.items():
            reach = {_reach(plain, ""), _reach(absolute, folder)} - {None}
            near: Iterable[Record] = chain.from_iterable(self._catalog.records_below(root, r) for r in reach if r)
            for record in self._catalog.records(root) if "" in reach else near:
                whole = os.path.join(folder, record.path)
                if fnmatch.fnmatchcase(record.path, plain) or fnmatch.fnmatchcase(whole, absolute):
                    found[record.id] = record
        return [found[i] for i in sorted(found)]

    def _alike(self, text: str) -> Iterable[Record]:
        for root, folder in self._roots.items():
            wanted = {composed(path) for path in _relatives(composed(text), composed(folder))}
            if wanted:
                yield from (r for r in self._catalog.records(root) if composed(r.path) in wanted)


def _reach(pattern: str, folder: str) -> str | None:
    """In which folder, relative to ``folder``, all lies that may fit a pattern: as far as it is named before the first wildcard.
    "": anywhere in it, None: nowhere."""
    first = min((at for at in map(pattern.find, "*?[") if at >= 0), default=len(pattern))
    named = pattern[:first].rpartition(os.sep)[0]
    if not named or (folder and lies_in(folder, named)):
        return ""
    if not folder:
        return named
    return os.path.relpath(named, folder) if lies_in(named, folder) else None


def _relatives(text: str, folder: str) -> list[str]:
    """What ``text`` may be called in a root: by its place on the disk, and as it stands (a key, or relative to the root)."""
    if not folder:
        return [text]
    found = []
    absolute = os.path.abspath(text)
    if lies_in(absolute, folder) and absolute != folder:
        found.append(os.path.relpath(absolute, folder))
    if not os.path.isabs(text):
        inside = os.path.normpath(text)
        if inside not in (".", *found) and not inside.startswith(".."):
            found.append(inside)
    return found


def _linked(text: str, folder: str) -> list[str]:
    """What ``text`` is called in a root that it reaches by another name: a link, a mount of the folder elsewhere."""
    if not folder or lies_in(os.path.abspath(text), folder) or not os.path.exists(text):
        return []
    parent, name = os.path.split(os.path.abspath(text))
    whole = place_in(os.path.abspath(text), folder) if os.path.isdir(text) else None
    if whole is not None:
        return [whole or "."]
    place = place_in(parent, folder)
    return [] if place is None else [os.path.join(place, name)]

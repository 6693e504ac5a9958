"""Pictures that are taken out of a gallery on purpose; their files stay."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext

from retrieval.errors import UsageError
from retrieval.files.paths import show_path
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.selection import find_root, select
from retrieval.gallery.store.catalog import Catalog, Record
from retrieval.gallery.targets import lies_in


def remove(gallery: OpenedGallery, names: Sequence[str]) -> list[str]:
    """Take out the pictures of exactly these names; returns them. Raises UsageError where one is not in the gallery, and then
    nothing is removed."""
    with gallery.writing() as catalog:
        gone: dict[int, Record] = {}
        for name in names:
            found = select(gallery, name, catalog, patterns=False)
            if found.kind != "picture":
                raise UsageError(f"{name} is not in the gallery", "Nothing was removed.")
            gone.update((record.id, record) for record in found.records)
        return _taken_out(gallery, catalog, list(gone.values()))


def remove_matching(gallery: OpenedGallery, pattern: str, *, dry_run: bool = False) -> list[str]:
    """Take out the picture of that very name, else all below a folder, else what fits a pattern; returns the names. With
    ``dry_run`` nothing is taken out. Raises UsageError for an empty name."""
    if not pattern:  # the current folder is "."
        raise UsageError("the name is empty", "Nothing was removed.")
    if dry_run:
        name = gallery.namer()
        return [show_path(name(record)) for record in select(gallery, pattern).records]
    with gallery.writing() as catalog:
        names = _taken_out(gallery, catalog, select(gallery, pattern, catalog).records)
        _forget_roots(gallery, catalog, pattern)
        return names


def remove_root(gallery: OpenedGallery, folder: str, *, dry_run: bool = False) -> list[str]:
    """Forget a folder that was indexed, and take out all of its pictures; returns their names. With ``dry_run`` nothing is
    changed. Raises UsageError where it was not indexed."""
    with nullcontext(gallery.catalog) if dry_run else gallery.writing() as catalog:
        root = find_root(gallery, folder, catalog)
        gone = list(catalog.records(root.id))
        name = gallery.namer(catalog)
        if not dry_run:
            with catalog.writing():
                catalog.delete(record.id for record in gone)
                catalog.drop_root(root.id)
                catalog.bump_version()
                gallery.describe_roots(catalog)
            gallery.refresh_index(catalog)
        return [show_path(name(record)) for record in gone]


def _forget_roots(gallery: OpenedGallery, catalog: Catalog, name: str) -> None:
    """A folder that was indexed and is taken out as a whole is forgotten: the next synchronisation does not look there."""
    whole = os.path.abspath(name)
    with catalog.writing():
        for root in catalog.roots():
            if root.kind != "keys" and lies_in(gallery.folder_of(root), whole):
                catalog.drop_root(root.id)
        gallery.describe_roots(catalog)


def _taken_out(gallery: OpenedGallery, catalog: Catalog, gone: list[Record]) -> list[str]:
    name = gallery.namer(catalog)
    if gone:
        with catalog.writing():
            folders = {root.id for root in catalog.roots() if root.kind == "folder"}
            catalog.remember_taken_out(record for record in gone if record.root in folders)
            catalog.delete(record.id for record in gone)
            catalog.drop_empty_roots()
            catalog.bump_version()
            gallery.describe_roots(catalog)
        gallery.refresh_index(catalog)
    return [show_path(name(record)) for record in gone]

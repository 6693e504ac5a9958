"""Which parts of which roots a synchronisation is about."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from retrieval.errors import UsageError
from retrieval.files.identity import identity
from retrieval.files.paths import nearly, show_path
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Catalog, Root


@dataclass(frozen=True)
class Target:
    """Part of a root to synchronise: all of a folder root (``prefix`` ""), a sub-folder of it, or single ``files``."""

    root: Root
    prefix: str = ""
    files: tuple[str, ...] | None = None


def targets_of(
    gallery: OpenedGallery, catalog: Catalog, paths: Sequence[str | os.PathLike[str]] | None
) -> list[Target]:
    targets: list[Target] = []
    if paths is None:
        # Pictures under keys have no files to compare with.
        targets = [Target(r, files=None if r.kind == "folder" else ()) for r in catalog.roots() if r.kind != "keys"]
        if not targets:
            raise UsageError("nothing was indexed here yet", "Name folders or pictures: retrieve index FOLDER.")
        return targets
    if not paths:
        raise UsageError("no folder or picture was named", "Example: retrieve index ./images.")
    absolute = [os.path.abspath(p) for p in paths]
    for path in absolute:
        if not os.path.lexists(path):
            raise UsageError(
                f"there is no file or folder '{show_path(path)}'{nearly(show_path(path))}",
                "Nothing was changed. To take pictures out: retrieve remove PATTERN.",
            )
    own = os.path.realpath(gallery.folder)
    for path in absolute:
        if lies_in(os.path.realpath(path), own):
            raise UsageError(f"{show_path(path)} is the gallery itself")
    with catalog.writing():
        for folder in (p for p in dict.fromkeys(absolute) if os.path.isdir(p)):
            target = folder_target(gallery, catalog, folder)
            if target not in targets:
                targets.append(target)
        files: dict[Root, list[str]] = {}
        for file in (p for p in dict.fromkeys(absolute) if not os.path.isdir(p)):
            root, name = root_of_file(gallery, catalog, file)
            files.setdefault(root, []).append(name)
        targets += [Target(root, files=tuple(names)) for root, names in files.items()]
        gallery.describe_roots(catalog)
    return [target for target in targets if not any(_covers(other, target) for other in targets)]


def _covers(wide: Target, narrow: Target) -> bool:
    """Whether a folder lies in another one that is walked."""
    same = wide.root == narrow.root and wide.files is None and narrow.files is None and wide != narrow
    return same and (not wide.prefix or lies_in(narrow.prefix, wide.prefix))


def lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def folder_target(gallery: OpenedGallery, catalog: Catalog, folder: str) -> Target:
    """The target for an absolute folder, whether or not it is there; its root is made where there is none."""
    roots = catalog.roots()
    for root in roots:
        if root.kind == "folder" and (prefix := place_in(folder, gallery.folder_of(root))) is not None:
            return Target(root, prefix)
    stored = gallery.root_path(folder)
    # Single files of this very folder keep the name of their root out of the way until they are moved.
    same = next((r for r in roots if r.kind != "keys" and r.path == stored), None)
    new = catalog.replace_root(same) if same else catalog.add_root(stored, "folder")
    for root in roots:
        if root != same and root.kind != "keys" and lies_in(gallery.folder_of(root), folder):
            prefix = os.path.relpath(gallery.folder_of(root), folder)
            catalog.move_into(root, new, "" if prefix == "." else prefix)
    return Target(new)


def place_in(folder: str, root: str) -> str | None:
    """Where a folder lies in another, "" for the same one; None where it does not. By name, or by another name of the same
    folder (a link, a mount of it elsewhere)."""
    if lies_in(folder, root):
        prefix = os.path.relpath(folder, root)
        return "" if prefix == "." else prefix
    own = identity(root)
    if own is None:
        return None
    inside: list[str] = []
    here = os.path.realpath(folder)
    while True:
        if identity(here) == own:
            return os.path.join("", *reversed(inside))
        parent, name = os.path.split(here)
        if parent == here:
            return None
        inside.append(name)
        here = parent


def root_of_file(gallery: OpenedGallery, catalog: Catalog, file: str) -> tuple[Root, str]:
    """The root of a single file (absolute), and its path in it; its root is made where there is none."""
    parent, name = os.path.split(file)
    for root in catalog.roots():
        if root.kind == "keys":
            continue
        folder = gallery.folder_of(root)
        place = place_in(parent, folder)
        if place is not None and (root.kind == "folder" or place == ""):
            return root, os.path.join(place, name)
    return catalog.add_root(gallery.root_path(parent), "files"), name

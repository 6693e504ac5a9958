"""What the pictures of parts are called in a gallery: files by folder and path, all others by path or URI as key."""

from __future__ import annotations

import os
from collections.abc import Iterable

from retrieval.gallery.adding import keys_root
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Catalog, Record
from retrieval.gallery.targets import folder_target, root_of_file
from retrieval.parts.manifest import Manifest
from retrieval.parts.part import Part
from retrieval.parts.places import is_remote

Place = tuple[int, str]
"""Root and path of a picture in a gallery."""


class Places:
    """Finds the places of a manifest's pictures; roots are made where there are none."""

    def __init__(self, gallery: OpenedGallery, catalog: Catalog, manifest: Manifest) -> None:
        self.gallery, self.catalog, self.manifest = gallery, catalog, manifest
        self._folder: tuple[int, str] | None = None
        self._inside = os.path.join(manifest.source, "")
        self._roots: dict[str, int] = {}  # of the folders of single files; "": of keys
        self._out: dict[int, set[str]] = {}
        if manifest.kind != "folder" and not (manifest.kind == "files" and _all_local(manifest)):
            gallery.allow_keys(catalog)
        with catalog.writing():
            if manifest.kind == "folder":
                target = folder_target(gallery, catalog, manifest.source)
                self._folder = target.root.id, target.prefix
            gallery.describe_roots(catalog)

    def of_part(self, part: Part) -> list[Place]:
        """Of what a part holds."""
        with self.catalog.writing():
            keys = self._keys() if None in part.files else 0
            pairs = zip(part.rows, part.files, strict=True)
            return [(keys, row.key) if file is None else self._of_file(file) for row, file in pairs]

    def of_inputs(self, inputs: Iterable[object]) -> list[Place]:
        """Of a shard's inputs, as the manifest of a folder or of files names them."""
        names = list(map(str, inputs))
        with self.catalog.writing():
            if self._folder is not None:
                root, prefix = self._folder
                return [(root, os.path.join(prefix, name)) for name in names]
            return [(self._keys(), name) if is_remote(name) else self._of_file(name) for name in names]

    def records(self, places: Iterable[Place]) -> dict[Place, Record]:
        """Those that have an entry."""
        wanted: dict[int, list[str]] = {}
        for root, path in places:
            wanted.setdefault(root, []).append(path)
        return {
            (root, path): record
            for root, paths in wanted.items()
            for path, record in self.catalog.find_all(root, paths).items()
        }

    def is_out(self, root: int, path: str) -> bool:
        """Whether the picture was taken out of the gallery on purpose."""
        if root not in self._out:
            folders = {found.id for found in self.catalog.roots() if found.kind == "folder"}
            self._out[root] = self.catalog.taken_out(root) if root in folders else set()
        return path in self._out[root]

    def _keys(self) -> int:
        if "" not in self._roots:
            self._roots[""] = keys_root(self.catalog).id
        return self._roots[""]

    def _of_file(self, file: str) -> Place:
        if self._folder is not None:
            root, prefix = self._folder
            inside = file.startswith(self._inside)
            path = file[len(self._inside) :] if inside else os.path.relpath(file, self.manifest.source)
            return root, os.path.join(prefix, path)
        folder, name = os.path.split(file)
        if folder not in self._roots:
            root_of, path = root_of_file(self.gallery, self.catalog, file)
            if path != name:  # in a folder that is indexed above it
                return root_of.id, path
            self._roots[folder] = root_of.id
        return self._roots[folder], name


def _all_local(manifest: Manifest) -> bool:
    return not any(is_remote(given) for shard in manifest.shards for given in shard)

"""Where disks were mounted below indexed folders. One that is away may take its mount point along, or show what lies under it:
that a disk was there once is remembered, and its pictures are not dropped while it is not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable

from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Catalog
from retrieval.gallery.targets import lies_in
from retrieval.pictures.scan import Scan

_KEY = "mounts"


class Mounts:
    """The mount points that a catalog knows, stored as roots are: relative where they lie beside the gallery."""

    def __init__(self, gallery: OpenedGallery, catalog: Catalog) -> None:
        self._gallery, self._catalog = gallery, catalog

    def gone(self, folder: str, prefix: str, scan: Scan) -> dict[str, str]:
        """Relative to ``folder``: where disks were mounted below its ``prefix`` and are not now, each with a reason. None of
        what ``scan`` passed over by rule."""
        names = {os.path.relpath(path, folder) for path in self._known() if _below(path, folder, prefix)}
        left = {n for n in names - scan.mounts if not any(lies_in(n, passed) for passed in scan.passed)}
        return dict.fromkeys(left, "a disk was mounted there, and is not now")

    def remember(self, folder: str, prefix: str, names: Iterable[str]) -> None:
        """These, relative to ``folder``, take the place of all that were known below its ``prefix``."""
        known = self._known()
        others = {path for path in known if not _below(path, folder, prefix)}
        now = others | {os.path.join(folder, name) for name in names if name}
        if now != known:
            with self._catalog.writing():
                self._catalog.set_meta(_KEY, json.dumps(sorted(self._gallery.root_path(path) for path in now)))

    def _known(self) -> set[str]:
        try:
            stored = json.loads(self._catalog.meta(_KEY) or "[]")
            base = os.path.abspath(self._gallery.folder.parent)
            return {os.path.normpath(os.path.join(base, path)) for path in stored}
        except (ValueError, TypeError):
            return set()  # damaged: learnt anew


def _below(path: str, folder: str, prefix: str) -> bool:
    whole = os.path.normpath(os.path.join(folder, prefix))
    return path != whole and lies_in(path, whole)

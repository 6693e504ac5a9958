"""Bringing a gallery in line with folders: what is new or changed is described, what vanished is dropped, what was
renamed or copied is recognised by its content."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from retrieval.files.paths import show_path
from retrieval.gallery.compaction import compact
from retrieval.gallery.describing import Describing
from retrieval.gallery.local.index import LocalIndex
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.planning import Plan
from retrieval.gallery.store.catalog import Catalog
from retrieval.gallery.targets import targets_of
from retrieval.gallery.thumbnails import ThumbnailCache
from retrieval.gallery.work import SyncReport
from retrieval.messages import count_of, no_update


def synchronise(
    gallery: OpenedGallery,
    paths: Sequence[str | os.PathLike[str]] | None = None,
    *,
    progress: Callable[[int, int], Any] | None = None,
    workers: int | None = None,
    restore: bool = False,
    rehash: bool = False,
    thumbnails: bool = False,
) -> SyncReport:
    """Bring ``gallery`` in line with ``paths`` (folders or files; None: all that was indexed before).

    ``restore``: pictures that were taken out of the gallery come back; ``rehash``: every file's content is looked at, also
    where size, times and inode say that it is the same; ``thumbnails``: small pictures of new ones are kept for the page.
    ``progress(done, total)`` is called as pictures are dealt with. Interrupted at any moment, the gallery holds all
    that was committed, and the next run continues. Raises GalleryLocked, GalleryError, UsageError.
    """
    started = time.monotonic()
    report = SyncReport()
    with gallery.writing() as catalog:
        catalog.check_once()
        gallery.store(catalog).check_sizes(catalog.number("vector_count"))
        gallery.store(catalog).remove_other_generations()
        local = _local_index(gallery, catalog)
        plan = Plan(gallery, catalog, report, restore=restore, rehash=rehash, local=local)
        for target in targets_of(gallery, catalog, paths):
            plan.add(target)
        plan.look_for_moved()
        kept = ThumbnailCache(gallery.folder, gallery.spec.image.exif) if thumbnails else None
        run = Describing(gallery, catalog, report, plan, local, kept)
        version = catalog.number("version")
        with run.local or nullcontext():
            run.describe(progress or no_update, workers)
        run.finish()
        plan.tell_of_gone_roots()
        # Not in a run that dropped pictures: should they come back, their vectors are still there. In the next one.
        if not run.vanished and (catalog.number("version") != version or catalog.number("compaction_due")):
            compact(gallery, catalog)
        gallery.refresh_index(catalog)
        name = gallery.namer(catalog)
        report.troubles = [(show_path(name(r)), r.error or "") for r in catalog.troubled()]
    report.seconds = time.monotonic() - started
    return report


def _local_index(gallery: OpenedGallery, catalog: Catalog) -> LocalIndex | None:
    """The local index, ready to be written; a gallery made before there was one gets it, one that wants none loses it."""
    if gallery.local_setting is None:
        gallery.set_local(catalog, True)
        if catalog.any_searchable():
            gallery.warn(
                "This gallery gets a local index, by which the same thing is found and verified: its pictures are opened once "
                "more (--no-local does without)."
            )
    if gallery.local is None:
        unwanted = LocalIndex(gallery.folder)
        if unwanted.bytes_on_disk():
            gallery.warn(
                f"The local index of {count_of(len(unwanted), 'picture')} is removed: answers come without "
                "verdicts, for all folders of this gallery (--local makes it anew)."
            )
        unwanted.remove()
    else:
        gallery.local.prepare()
        _tell_of_lost(gallery, catalog)
    return gallery.local


def _tell_of_lost(gallery: OpenedGallery, catalog: Catalog) -> None:
    """Of pictures whose local codes cannot be made anew, since no file has them."""
    keys = next((root.id for root in catalog.roots() if root.kind == "keys"), None)
    if keys is None or gallery.local is None:
        return
    lost = len(catalog.contents_of_added(keys) - gallery.local.contents())
    if lost:
        gallery.warn(
            f"{lost} pictures that a program added have no codes of local features (any more), and no file to make them of: they "
            "are ranked by their descriptors alone until they are added again."
        )

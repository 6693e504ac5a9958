"""One synchronisation's pictures: described by all workers, noted commit by commit, and what vanished dropped at the end.

Order of a commit: vectors and keys are written and forced to the disk, then one catalog transaction makes them count.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from retrieval.describe.extraction import describe_all
from retrieval.errors import ImageError
from retrieval.gallery.local.collecting import Collector
from retrieval.gallery.local.index import LocalIndex
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.planning import Plan
from retrieval.gallery.reading import read_noted
from retrieval.gallery.store.catalog import Catalog
from retrieval.gallery.store.vectors import VectorStore
from retrieval.gallery.thumbnails import ThumbnailCache
from retrieval.gallery.work import SyncReport, Work

COMMIT_PICTURES = 256
COMMIT_SECONDS = 3.0


class Describing:
    """What a ``plan`` found to do, done: :meth:`describe`, then :meth:`finish`."""

    def __init__(
        self,
        gallery: OpenedGallery,
        catalog: Catalog,
        report: SyncReport,
        plan: Plan,
        local: LocalIndex | None,
        thumbnails: ThumbnailCache | None,
    ) -> None:
        self.gallery = gallery
        self.catalog = catalog
        self.report = report
        self.store: VectorStore = gallery.store(catalog)
        self.work = plan.work
        self.vanished = plan.vanished
        self.thumbnails = thumbnails
        self.local = None if local is None else Collector(local, gallery.spec)
        self._moved_from = plan.moved_from
        self._origins_known: set[str] = set()
        self._lock = threading.Lock()
        self._in_flight: dict[str, list[Work]] = {}  # content hash -> other files of the same content, waiting
        self._dirty = False  # whether this commit changes which vectors can be found
        self._reader = Catalog(catalog.path)  # for the workers' look-ups, guarded by the lock

    # -- describe ------------------------------------------------------------------------------------------------

    def describe(self, progress: Callable[[int, int], Any], workers: int | None) -> None:
        total, done = len(self.work), 0
        if not total:
            return
        progress(0, total)
        ready: list[tuple[Work, np.ndarray]] = []
        settled: list[tuple[Work, ImageError | None]] = []  # files with known content, and failures
        last = time.monotonic()
        results = describe_all(self.work, self._load, self.gallery.model.engine, workers=workers)
        try:
            for result in results:
                if result.descriptor is not None:
                    ready.append((result.item, result.descriptor))
                elif not result.item.waits:
                    settled.append((result.item, result.error))
                if len(ready) + len(settled) >= COMMIT_PICTURES or time.monotonic() - last > COMMIT_SECONDS:
                    done += self._commit(ready, settled)
                    last = time.monotonic()
                    progress(done, total)
        except KeyboardInterrupt:
            self._commit(ready, settled)
            raise
        while ready or settled:
            done += self._commit(ready, settled)
            progress(done, total)

    def _load(self, work: Work) -> np.ndarray | None:
        """In a worker: read, hash, and decode unless the content is known or just being described."""
        from retrieval.pictures import imaging

        source = read_noted(work)
        with self._lock:
            if work.digest in self._in_flight:
                work.waits = True
                self._in_flight[work.digest].append(work)
                return None
            known = self._reader.vector_of(work.digest) is not None
            if not known:
                self._in_flight[work.digest] = []
        codeless = self.local is not None and self.local.claim(work.digest)
        if known and not codeless:
            return None
        rule = self.gallery.spec.image
        try:
            picture = imaging.load_picture(source, size=rule.size, interpolation=rule.interpolation, exif=rule.exif)
            if self.local is not None and codeless:
                self.local.look(work.digest, picture.array, source)
            if self.thumbnails is not None:
                self.thumbnails.put(work.digest, picture.array, (picture.width, picture.height))
        except ImageError:
            if known:  # it was read before: its vector stays
                return None
            raise
        work.width, work.height = picture.width, picture.height
        return None if known else picture.array

    def _commit(self, ready: list[tuple[Work, np.ndarray]], settled: list[tuple[Work, ImageError | None]]) -> int:
        """Make vectors and outcomes count; empties both lists, then fills ``settled`` with those that waited for them."""
        catalog = self.catalog
        count = catalog.number("vector_count")
        if self.local is not None:
            self.local.keep()
        if ready:
            self.store.append(count, np.stack([vector for _, vector in ready]), [work.digest for work, _ in ready])
        with catalog.writing():
            for offset, (work, _) in enumerate(ready):
                self._set_ok(work, count + offset, work.width, work.height, new=True)
            catalog.set_meta("vector_count", count + len(ready))
            for work, trouble in settled:
                self._settle(work, trouble)
            if self._dirty:
                catalog.bump_version()
                self._dirty = False
        dealt = len(ready) + len(settled)
        finished = [(work, None) for work, _ in ready] + settled
        ready.clear()
        settled.clear()
        with self._lock:
            for work, trouble in finished:
                settled.extend((other, trouble) for other in self._in_flight.pop(work.digest, ()))
        return dealt

    def _settle(self, work: Work, error: ImageError | None) -> None:
        record = work.record
        if error is not None:
            # Unchanged broken files are not tried again, unless trying may help.
            mtime_ns = -1 if error.transient or error.limited else work.mtime_ns
            keep = error.transient and record.row is not None
            self._dirty |= record.row is not None and not keep
            self.catalog.set_error(
                record.id,
                size=work.size,
                mtime_ns=mtime_ns,
                error=str(error),
                keep_vector=keep,
                ctime_ns=work.ctime_ns,
                inode=work.inode,
            )
            return
        known = self.catalog.vector_of(work.digest)
        if known is None:  # its twin vanished between the two looks: the next run describes it
            self.catalog.forget_vector(record.id)
            return
        row, width, height = known
        self._set_ok(work, row, width, height, new=False)

    def _set_ok(self, work: Work, row: int, width: int | None, height: int | None, *, new: bool) -> None:
        """Note a picture's vector, and in the report what became of the picture."""
        record = work.record
        if record.status == "pending" and (origins := self._origins(work.digest)):
            # The file's content was under a name that vanished: it was renamed, and keeps its id.
            old = origins.pop()
            self.vanished.pop(old, None)
            self.catalog.delete([record.id])
            self.catalog.rename(old, root=record.root, path=record.path)
            self.catalog.set_seen(old, size=work.size, mtime_ns=work.mtime_ns, ctime_ns=work.ctime_ns, inode=work.inode)
            self.report.renamed += 1
            return
        same = record.hash == work.digest and record.row is not None
        self._dirty |= not same
        self.report.embedded += new
        self.catalog.set_ok(
            record.id,
            size=work.size,
            mtime_ns=work.mtime_ns,
            digest=work.digest,
            width=width,
            height=height,
            row=row,
            ctime_ns=work.ctime_ns,
            inode=work.inode,
        )
        if same:
            self.report.unchanged += 1
        elif record.hash is not None:
            self.report.changed += 1
        elif new:
            self.report.added += 1
        else:
            self.report.copied += 1

    def _origins(self, digest: str) -> list[int]:
        """Ids of pictures of this content whose files are gone, wherever they were: a new file may be one of them, moved."""
        if digest not in self._origins_known:
            self._origins_known.add(digest)
            name, files = self.gallery.namer(self.catalog), {r.id for r in self.catalog.roots() if r.kind != "keys"}
            known = set(self._moved_from.get(digest, ()))
            gone = [
                r.id
                for r in self.catalog.with_hash(digest)
                if r.row is not None and r.root in files and r.id not in known and not os.path.lexists(name(r))
            ]
            if gone:
                self._moved_from.setdefault(digest, []).extend(gone)
        return self._moved_from.get(digest, [])

    # -- finish --------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        self._reader.close()
        if self.local is not None:
            self.local.keep()
            self.local.index.settle()
            self.report.local = self.local.looked
            if self.local.looked:
                with self.catalog.writing():
                    self.catalog.count_local(self.local.looked, self.local.seconds)
        self.gallery.note_local(self.catalog)
        if self.vanished:
            with self.catalog.writing():
                self.catalog.delete(self.vanished)
                self.catalog.drop_empty_roots()
                self.catalog.bump_version()
                self.catalog.set_meta("compaction_due", 1)
                self.gallery.describe_roots(self.catalog)
            self.report.removed = sum(r.row is not None for r in self.vanished.values())

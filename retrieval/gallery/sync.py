"""Bringing a gallery in line with folders: what is new or changed is described, what vanished is dropped, what was
renamed or copied is recognised by its content.

Order of a commit: vectors and keys are written and forced to the disk, then one catalog transaction makes them count.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from retrieval.describe.extraction import describe_all
from retrieval.errors import GalleryError, ImageError
from retrieval.files.digest import content_digest
from retrieval.files.paths import show_path
from retrieval.gallery.compaction import compact
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Catalog, Record, Root
from retrieval.gallery.store.vectors import VectorStore
from retrieval.gallery.targets import Target, lies_in, targets_of
from retrieval.messages import no_update
from retrieval.pictures.scan import Found, look, walk

COMMIT_PICTURES = 256
COMMIT_SECONDS = 3.0
# A file written this shortly before it was read may change again within the clock's grain: it is looked at once more.
_RACY_NS = 2_000_000_000
_READ_WHOLE = 64 << 20


@dataclass
class SyncReport:
    """What one run did, in pictures. ``troubles``: (path, reason) of those that could not be read in this run or before;
    ``foreign``: how many files were passed over that a photographer would call pictures, by suffix."""

    added: int = 0
    changed: int = 0
    renamed: int = 0
    copied: int = 0
    removed: int = 0
    unchanged: int = 0
    embedded: int = 0
    ignored: int = 0
    foreign: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    troubles: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Work:
    """One picture to look at: new (no hash yet) or changed. Filled in by the worker that reads it."""

    record: Record
    file: str
    size: int = -1
    mtime_ns: int = -1
    digest: str = ""
    width: int | None = None
    height: int | None = None
    waits: bool = False  # for another file of the same content that is being described


def synchronise(
    gallery: OpenedGallery,
    paths: Sequence[str | os.PathLike[str]] | None = None,
    *,
    progress: Callable[[int, int], Any] | None = None,
    workers: int | None = None,
) -> SyncReport:
    """Bring ``gallery`` in line with ``paths`` (folders or files; None: all that was indexed before).

    ``progress(done, total)`` is called as pictures are dealt with. Interrupted at any moment, the gallery holds all
    that was committed, and the next run continues. Raises GalleryLocked, GalleryError, UsageError.
    """
    started = time.monotonic()
    report = SyncReport()
    with gallery.writing() as catalog:
        gallery.store(catalog).check_sizes(catalog.number("vector_count"))
        gallery.store(catalog).remove_other_generations()
        run = _Run(gallery, catalog, report)
        version = catalog.number("version")
        run.plan(targets_of(gallery, catalog, paths))
        run.describe(progress or no_update, workers)
        run.finish()
        if catalog.number("version") != version:
            compact(gallery, catalog)
        gallery.refresh_index(catalog)
        name = gallery.namer(catalog)
        report.troubles = [(show_path(name(r)), r.error or "") for r in catalog.troubled()]
    report.seconds = time.monotonic() - started
    return report


def _settled(mtime_ns: int) -> int:
    """The time of a file as it is noted: none of a file that may still change within the clock's grain."""
    return mtime_ns if time.time_ns() - mtime_ns > _RACY_NS else -1


class _Run:
    """One synchronisation: plan, describe, finish."""

    def __init__(self, gallery: OpenedGallery, catalog: Catalog, report: SyncReport) -> None:
        self.gallery = gallery
        self.catalog = catalog
        self.report = report
        self.store: VectorStore = gallery.store(catalog)
        self.work: list[_Work] = []
        self.vanished: dict[int, Record] = {}
        self._moved_from: dict[str, list[int]] = {}  # content hash -> vanished pictures that had it
        self._lock = threading.Lock()
        self._in_flight: dict[str, list[_Work]] = {}  # content hash -> other files of the same content, waiting
        self._planned: set[int] = set()
        self._dirty = False  # whether this commit changes which vectors can be found
        self._reader = Catalog(catalog.path)  # for the workers' look-ups, guarded by the lock

    # -- plan: compare folders with the catalog ------------------------------------------------------------------

    def plan(self, targets: list[Target]) -> None:
        for target in targets:
            folder = self.gallery.folder_of(target.root)
            known = {r.path: r for r in self.catalog.records(target.root.id)}
            if target.files is None:
                found = self._walk(target, folder, known)
            else:
                names = target.files or tuple(known)
                found = [look(os.path.join(folder, name), name) for name in names]
                found = [f for f in found if f.problem is None or os.path.lexists(os.path.join(folder, f.path))]
                self._note_vanished(names, found, known)
            self._compare(target.root, folder, found, known)

    def _walk(self, target: Target, folder: str, known: dict[str, Record]) -> list[Found]:
        if target.prefix:
            scan = walk(os.path.join(folder, target.prefix))
            found = [Found(os.path.join(target.prefix, f.path), f.size, f.mtime_ns, f.problem) for f in scan.files]
            unreadable = {
                os.path.join(target.prefix, p) if p else target.prefix: why for p, why in scan.unreadable.items()
            }
            scope = [p for p in known if lies_in(p, target.prefix)]
        elif not os.path.isdir(folder):
            self.report.warnings.append(
                f"{show_path(folder)} is not there any more (is a disk not mounted?); its pictures are kept"
            )
            return []
        else:
            scan = walk(folder)
            found, unreadable, scope = scan.files, scan.unreadable, list(known)
        self.report.ignored += scan.ignored
        for suffix, count in scan.foreign.items():
            self.report.foreign[suffix] = self.report.foreign.get(suffix, 0) + count
        for name, why in unreadable.items():
            self.report.warnings.append(
                f"{show_path(os.path.join(folder, name))} could not be listed ({why}); its pictures are kept"
            )
        if scope and not found and not unreadable and not target.prefix:
            self.report.warnings.append(
                f"{show_path(folder)} holds no pictures now, the gallery {len(scope)} of it (is a disk not mounted?); "
                "they are kept: to drop them, retrieve remove the folder"
            )
            return []
        readable = [p for p in scope if not any(lies_in(p, name) if name else True for name in unreadable)]
        self._note_vanished(readable, found, known)
        return found

    def _note_vanished(self, scope: Sequence[str], found: list[Found], known: dict[str, Record]) -> None:
        present = {f.path for f in found}
        for path in scope:
            record = known.get(path)
            if record is not None and path not in present:
                self.vanished[record.id] = record
                if record.hash is not None and record.row is not None:
                    self._moved_from.setdefault(record.hash, []).append(record.id)

    def _compare(self, root: Root, folder: str, found: list[Found], known: dict[str, Record]) -> None:
        with self.catalog.writing():
            # All new pictures get their ids now, in the order of their paths, whatever order they are described in.
            self.catalog.add_pending(root.id, (f.path for f in found if f.path not in known))
        if any(f.path not in known for f in found):
            known = {r.path: r for r in self.catalog.records(root.id)}
        problems = []
        for file in found:
            record = known[file.path]
            if file.problem is not None:
                if record.error != file.problem:
                    problems.append((record, file))
            elif record.status != "pending" and (record.size, record.mtime_ns) == (file.size, file.mtime_ns):
                self.report.unchanged += record.status == "ok"
            elif record.id not in self._planned:  # folders named twice, or one inside the other
                self._planned.add(record.id)
                self.work.append(_Work(record, os.path.join(folder, file.path), file.size, file.mtime_ns))
        if problems:
            with self.catalog.writing():
                for record, file in problems:
                    self.catalog.set_error(record.id, size=-1, mtime_ns=-1, error=file.problem or "", keep_vector=False)
                if any(record.row is not None for record, _ in problems):
                    self.catalog.bump_version()

    # -- describe ------------------------------------------------------------------------------------------------

    def describe(self, progress: Callable[[int, int], Any], workers: int | None) -> None:
        total, done = len(self.work), 0
        if not total:
            return
        progress(0, total)
        ready: list[tuple[_Work, np.ndarray]] = []
        settled: list[tuple[_Work, ImageError | None]] = []  # files with known content, and failures
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

    def _load(self, work: _Work) -> np.ndarray | None:
        """In a worker: read, hash, and decode unless the content is known or just being described."""
        from retrieval.pictures import imaging

        source = self._read(work)
        with self._lock:
            if work.digest in self._in_flight:
                work.waits = True
                self._in_flight[work.digest].append(work)
                return None
            if self._reader.vector_of(work.digest) is not None:
                return None
            self._in_flight[work.digest] = []
        rule = self.gallery.spec.image
        picture = imaging.load_picture(source, size=rule.size, interpolation=rule.interpolation, exif=rule.exif)
        work.width, work.height = picture.width, picture.height
        return picture.array

    @staticmethod
    def _read(work: _Work) -> bytes | str:
        """The file's bytes (or its path, when it is very big), with size, time and hash noted as of the reading."""
        from retrieval.pictures.limits import Limits
        from retrieval.pictures.readers import identify, open_file

        found = look(work.file, "")
        if found.problem is not None:
            raise ImageError(found.problem, transient=True)
        work.size, work.mtime_ns = found.size, _settled(found.mtime_ns)
        digest = content_digest()
        try:
            with open_file(work.file) as file:
                status = os.fstat(file.fileno())
                work.size, work.mtime_ns = status.st_size, _settled(status.st_mtime_ns)
                identify(file, Limits.from_environment())  # before all of it is read: it may be no picture at all
                file.seek(0)
                data: bytes | str
                if status.st_size <= _READ_WHOLE:
                    data = file.read(_READ_WHOLE) or b""
                    digest.update(data)
                else:
                    data = work.file
                    while block := file.read(1 << 20):
                        digest.update(block)
        except OSError as error:
            raise ImageError(error.strerror or str(error), transient=True) from error
        work.digest = digest.hexdigest()
        return data

    def _commit(self, ready: list[tuple[_Work, np.ndarray]], settled: list[tuple[_Work, ImageError | None]]) -> int:
        """Make vectors and outcomes count; empties both lists, then fills ``settled`` with those that waited for them."""
        catalog = self.catalog
        count = catalog.number("vector_count")
        if ready:
            try:
                self.store.write(count, np.stack([vector for _, vector in ready]), [work.digest for work, _ in ready])
            except OSError as error:
                raise GalleryError(
                    f"could not write vectors in {self.store.folder}: {error.strerror or error}",
                    "What was committed is safe; free space and run the same command again.",
                ) from error
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

    def _settle(self, work: _Work, error: ImageError | None) -> None:
        record = work.record
        if error is not None:
            # Unchanged broken files are not tried again, unless trying may help.
            mtime_ns = -1 if error.transient or error.limited else work.mtime_ns
            keep = error.transient and record.row is not None
            self._dirty |= record.row is not None and not keep
            self.catalog.set_error(record.id, size=work.size, mtime_ns=mtime_ns, error=str(error), keep_vector=keep)
            return
        known = self.catalog.vector_of(work.digest)
        if known is None:  # its twin vanished between the two looks: the next run describes it
            self.catalog.forget_vector(record.id)
            return
        row, width, height = known
        self._set_ok(work, row, width, height, new=False)

    def _set_ok(self, work: _Work, row: int, width: int | None, height: int | None, *, new: bool) -> None:
        """Note a picture's vector, and in the report what became of the picture."""
        record, origin = work.record, self._moved_from.get(work.digest)
        if record.status == "pending" and origin:
            # The file's content was under a name that vanished: it was renamed, and keeps its id.
            old = origin.pop()
            del self.vanished[old]
            self.catalog.delete([record.id])
            self.catalog.rename(old, root=record.root, path=record.path)
            self.catalog.set_seen(old, size=work.size, mtime_ns=work.mtime_ns)
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
        )
        if same:
            self.report.unchanged += 1
        elif record.hash is not None:
            self.report.changed += 1
        elif new:
            self.report.added += 1
        else:
            self.report.copied += 1

    # -- finish --------------------------------------------------------------------------------------------------

    def finish(self) -> None:
        self._reader.close()
        if self.vanished:
            with self.catalog.writing():
                self.catalog.delete(self.vanished)
                self.catalog.drop_empty_roots()
                self.catalog.bump_version()
                self.gallery.describe_roots(self.catalog)
            self.report.removed = sum(r.row is not None for r in self.vanished.values())

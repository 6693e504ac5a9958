"""What a synchronisation has to do: folders compared with the catalog.

Nothing is dropped on a doubtful word. A folder that is gone or holds no pictures any more, and one below it that is empty, a
link to nothing or where a disk was mounted, may be a disk that is away: their pictures are kept, and the report says so.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from retrieval.files.paths import show_path
from retrieval.gallery.local.index import LocalIndex
from retrieval.gallery.mounts import Mounts
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Catalog, Record, Root
from retrieval.gallery.targets import Target, lies_in
from retrieval.pictures.leave_out import LeaveOut
from retrieval.pictures.scan import Found, Scan, identity, look, walk


@dataclass
class SyncReport:
    """What one run did, in pictures. ``troubles``: (path, reason) of those that could not be read in this run or before;
    ``foreign``: how many files were passed over that a photographer would call pictures, by suffix; ``left_out``: how many
    files and folders by rule; ``stayed_out``: how many pictures because they were once taken out of the gallery; ``local``: how
    many got codes in the local index."""

    added: int = 0
    changed: int = 0
    renamed: int = 0
    copied: int = 0
    removed: int = 0
    unchanged: int = 0
    embedded: int = 0
    ignored: int = 0
    left_out: int = 0
    stayed_out: int = 0
    local: int = 0
    foreign: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    troubles: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Work:
    """One picture to look at: new (no hash yet) or changed. Filled in by the worker that reads it."""

    record: Record
    file: str
    size: int = -1
    mtime_ns: int = -1
    ctime_ns: int = -1
    inode: int = -1
    digest: str = ""
    width: int | None = None
    height: int | None = None
    waits: bool = False  # for another file of the same content that is being described

    def note(self, size: int, mtime_ns: int, ctime_ns: int, inode: int) -> None:
        """The file as it was when it was read."""
        self.size, self.mtime_ns, self.ctime_ns, self.inode = size, mtime_ns, ctime_ns, inode


class Plan:
    """``work``: pictures to look at. ``vanished``: pictures, by id, whose files are gone. ``moved_from``: by content hash, ids
    of pictures that a new file of that content was moved from; they keep their ids."""

    def __init__(
        self,
        gallery: OpenedGallery,
        catalog: Catalog,
        report: SyncReport,
        *,
        restore: bool = False,
        rehash: bool = False,
        local: LocalIndex | None = None,
    ) -> None:
        """``local``: pictures that it lacks are looked at too."""
        self.gallery, self.catalog, self.report = gallery, catalog, report
        self._coded = None if local is None else local.contents()
        self.restore, self.rehash = restore, rehash
        self.work: list[Work] = []
        self.vanished: dict[int, Record] = {}
        self.moved_from: dict[str, list[int]] = {}
        self._planned: set[int] = set()
        self._gone: dict[int, str] = {}  # roots that are not there any more, and their folders
        self._mounts = Mounts(gallery, catalog)

    def add(self, target: Target) -> None:
        """Compare a target with the catalog."""
        root = target.root
        folder = self.gallery.folder_of(root)
        known = {r.path: r for r in self.catalog.records(root.id)}
        if target.files is None:
            found = self._walk(target, folder, known)
        else:
            names = target.files or tuple(known)
            found = [look(os.path.join(folder, name), name) for name in names]
            found = [f for f in found if f.problem is None or os.path.lexists(os.path.join(folder, f.path))]
            if known and not found and not os.path.isdir(folder):
                self._gone[root.id] = folder
                self._may_have_moved(known.values())
            else:
                self._note_vanished(names, found, known)
        found = self._without_taken_out(target, found, known)
        self._compare(root, folder, found, known)

    def look_for_moved(self) -> None:
        """New files may be those of a folder that was moved as a whole: folders of the gallery that are gone, whether or not
        this run is about them."""
        if all(work.record.status != "pending" for work in self.work):
            return
        for root in self.catalog.roots():
            folder = "" if root.kind == "keys" else self.gallery.folder_of(root)
            if folder and root.id not in self._gone and not os.path.isdir(folder):
                self._gone[root.id] = folder
                self._may_have_moved(self.catalog.records(root.id))

    def tell_of_gone_roots(self) -> None:
        """Folders that are gone are dropped once all of their pictures were found elsewhere; of others the report tells."""
        for i, folder in self._gone.items():
            left = sum(1 for _ in self.catalog.records(i))
            if left:
                self.report.warnings.append(
                    f"{show_path(folder)} is not there any more (is a disk not mounted?); its {left} pictures are kept: "
                    f"to drop them, retrieve remove {show_path(folder)}"
                )
                continue
            with self.catalog.writing():
                self.catalog.drop_root(i)
                self.gallery.describe_roots(self.catalog)

    def _walk(self, target: Target, folder: str, known: dict[str, Record]) -> list[Found]:
        if not os.path.isdir(os.path.join(folder, target.prefix)):
            self._gone[target.root.id] = folder
            self._may_have_moved(known.values())
            return []
        skip = self._other_roots(target.root)
        leave_out = LeaveOut(self.gallery.exclude, folder, target.prefix)
        scan = _below(target.prefix, walk(os.path.join(folder, target.prefix), leave_out, skip))
        scope = [path for path in known if not target.prefix or lies_in(path, target.prefix)]
        self.report.ignored += scan.ignored
        self.report.left_out += scan.left_out
        for suffix, count in scan.foreign.items():
            self.report.foreign[suffix] = self.report.foreign.get(suffix, 0) + count
        for name, why in scan.unreadable.items():
            self._warn(folder, name, f"could not be listed ({why}); its pictures are kept")
        if scope and not scan.files and not scan.unreadable and not scan.left_out:
            self._warn(
                folder,
                target.prefix,
                f"holds no pictures now, the gallery {len(scope)} of it (is a disk not mounted?); "
                "they are kept: to drop them, retrieve remove the folder",
            )
            self._may_have_moved(known[path] for path in scope)
            return []
        doubtful = dict(scan.unreadable)
        present = {found.path for found in scan.files}
        unmounted = self._mounts.gone(folder, target.prefix, scan)
        for name, why in {**unmounted, **scan.away}.items():
            held = [path for path in scope if path not in present and lies_in(path, name)]
            if held:
                doubtful[name] = why
                self._warn(
                    folder,
                    name,
                    f"is away ({why}; is a disk not mounted?); its {len(held)} pictures are kept: "
                    "to drop them, retrieve remove the folder",
                )
                self._may_have_moved(known[path] for path in held)
        self._mounts.remember(folder, target.prefix, scan.mounts | (unmounted.keys() & doubtful.keys()))
        sure = [path for path in scope if not any(lies_in(path, name) if name else True for name in doubtful)]
        self._note_vanished(sure, scan.files, known)
        return scan.files

    def _warn(self, folder: str, name: str, text: str) -> None:
        self.report.warnings.append(f"{show_path(os.path.join(folder, name) if name else folder)} {text}")

    def _other_roots(self, own: Root) -> set[tuple[int, int]]:
        """Folders that are indexed by themselves: a link to one must not double its pictures."""
        others = (r for r in self.catalog.roots() if r.kind == "folder" and r.id != own.id)
        return {found for r in others if (found := identity(self.gallery.folder_of(r))) is not None}

    def _lacks_codes(self, record: Record) -> bool:
        return (
            self._coded is not None
            and record.row is not None
            and record.hash is not None
            and record.hash not in self._coded
        )

    def _may_have_moved(self, records: Iterable[Record]) -> None:
        for record in records:
            if record.hash is not None and record.row is not None:
                self.moved_from.setdefault(record.hash, []).append(record.id)

    def _note_vanished(self, scope: Sequence[str], found: list[Found], known: dict[str, Record]) -> None:
        present = {f.path for f in found}
        gone = [known[path] for path in scope if path in known and path not in present]
        self.vanished.update((record.id, record) for record in gone)
        self._may_have_moved(gone)

    def _without_taken_out(self, target: Target, found: list[Found], known: dict[str, Record]) -> list[Found]:
        """Pictures that were taken out stay out, unless they are asked for: all with ``restore``, a file by its name."""
        out = self.catalog.taken_out(target.root.id)
        if not out:
            return found
        if self.restore or target.files:
            with self.catalog.writing():
                self.catalog.take_back(target.root.id, [f.path for f in found])
            return found
        kept = [f for f in found if f.path in known or f.path not in out]
        self.report.stayed_out += len(found) - len(kept)
        return kept

    def _compare(self, root: Root, folder: str, found: list[Found], known: dict[str, Record]) -> None:
        with self.catalog.writing():
            # All new pictures get their ids now, in the order of their paths, whatever order they are described in.
            self.catalog.add_pending(root.id, (f.path for f in found if f.path not in known))
        if any(f.path not in known for f in found):
            known = {r.path: r for r in self.catalog.records(root.id)}
        problems, unknown = [], []
        for file in found:
            record = known[file.path]
            if file.problem is not None:
                if record.error != file.problem:
                    problems.append((record, file))
            elif record.status != "pending" and not self.rehash and _is_same(record, file):
                if record.id not in self._planned:
                    self._planned.add(record.id)
                    if self._lacks_codes(record):
                        self.work.append(Work(record, os.path.join(folder, file.path), file.size, file.mtime_ns))
                        continue
                    self.report.unchanged += record.status == "ok"
                    if record.ctime_ns == -1 != file.ctime_ns:
                        unknown.append((record, file))
            elif record.id not in self._planned:  # folders named twice, or one inside the other
                self._planned.add(record.id)
                self.work.append(Work(record, os.path.join(folder, file.path), file.size, file.mtime_ns))
        if unknown:  # a gallery of before: from now on it can tell
            with self.catalog.writing():
                for record, file in unknown:
                    self.catalog.set_identity(record.id, ctime_ns=file.ctime_ns, inode=file.inode)
        if problems:
            with self.catalog.writing():
                for record, file in problems:
                    self.catalog.set_error(record.id, size=-1, mtime_ns=-1, error=file.problem or "", keep_vector=False)
                if any(record.row is not None for record, _ in problems):
                    self.catalog.bump_version()


def _is_same(record: Record, file: Found) -> bool:
    """Whether a file is as it was: size, time, and what changes where these were kept. What is not known says nothing."""
    return (record.size, record.mtime_ns) == (file.size, file.mtime_ns) and all(
        -1 in (before, now) or before == now
        for before, now in ((record.ctime_ns, file.ctime_ns), (record.inode, file.inode))
    )


def _below(prefix: str, scan: Scan) -> Scan:
    """A scan of a sub-folder, in paths of the folder above."""
    if not prefix:
        return scan

    def outer(path: str) -> str:
        return os.path.join(prefix, path) if path else prefix

    return replace(
        scan,
        files=[replace(f, path=outer(f.path)) for f in scan.files],
        mounts={outer(p) for p in scan.mounts},
        passed={outer(p) for p in scan.passed},
        unreadable={outer(p): why for p, why in scan.unreadable.items()},
        away={outer(p): why for p, why in scan.away.items()},
    )

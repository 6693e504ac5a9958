"""What a synchronisation has to do: folders compared with the catalog.

Nothing is dropped on a doubtful word. A folder that is gone or holds no pictures any more, and one below it that is empty, a
link to nothing or where a disk was mounted, may be a disk that is away: their pictures are kept, and the report says so.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from retrieval.files.identity import identity
from retrieval.files.paths import show_path
from retrieval.gallery.joining import Join
from retrieval.gallery.local.index import LocalIndex
from retrieval.gallery.mounts import Mounts
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Catalog, Record, Root
from retrieval.gallery.targets import Target, lies_in
from retrieval.gallery.work import SyncReport, Work
from retrieval.messages import count_of
from retrieval.pictures.leave_out import LeaveOut
from retrieval.pictures.scan import Found, Scan, Walk, look

_AT_ONCE = 500
_HASHES_AT_ONCE = 16_384


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
        self._local = local
        self.restore, self.rehash = restore, rehash
        self.work: list[Work] = []
        self.vanished: dict[int, Record] = {}
        self.moved_from: dict[str, list[int]] = {}
        self._planned: set[int] = set()  # of those that differed
        self._walked: list[Target] = []
        self._gone: dict[int, tuple[str, int]] = {}  # roots that are not there any more: folder, described pictures
        self._mounts = Mounts(gallery, catalog)

    def add(self, target: Target) -> None:
        """Compare a target with the catalog."""
        folder = self.gallery.folder_of(target.root)
        if target.files is None:
            self._walk(target, folder)
            self._walked.append(target)
            return
        if not os.path.isdir(folder) and self.catalog.count_in(target.root.id):
            self._note_gone(target.root.id, folder)
            return
        for names in self._named(target):
            found = [look(os.path.join(folder, name), name) for name in names]
            found = [
                f for f in found if f.problem is None or f.withheld or os.path.lexists(os.path.join(folder, f.path))
            ]
            present = {f.path for f in found}
            self._note_vanished(target.root, [name for name in names if name not in present])
            self._compare(target.root, folder, self._without_taken_out(target, found), named=True)

    def _named(self, target: Target) -> Iterator[Sequence[str]]:
        """The files of a target, some at a time: those it names, or all of its root."""
        if target.files:
            for begin in range(0, len(target.files), _AT_ONCE):
                yield target.files[begin : begin + _AT_ONCE]
            return
        names: list[str] = []
        while names := self.catalog.some_paths(target.root.id, names[-1] if names else None, _AT_ONCE):
            yield names

    def look_for_moved(self) -> None:
        """New files may be those of a folder that was moved as a whole: folders of the gallery that are gone, whether or not
        this run is about them."""
        if all(work.record.status != "pending" for work in self.work):
            return
        for root in self.catalog.roots():
            folder = "" if root.kind == "keys" else self.gallery.folder_of(root)
            if folder and root.id not in self._gone and not os.path.isdir(folder):
                self._note_gone(root.id, folder)

    def tell_of_gone_roots(self) -> None:
        """Folders that are gone are dropped once all of their pictures were found elsewhere, and what could not be read there
        with them; of others the report tells."""
        for i, (folder, before) in self._gone.items():
            left = self.catalog.count_in(i, described=True)
            moved = before > 0 and not left
            if not moved and (left := self.catalog.count_in(i)):
                name = show_path(folder)
                self.report.warnings.append(
                    f"{name} is not there any more (is a disk not mounted?); its {count_of(left, 'picture')} "
                    f"{'is' if left == 1 else 'are'} kept. If it was moved: retrieve index NEW_FOLDER (nothing is described "
                    f"again); {_drop(folder)}"
                )
                continue
            with self.catalog.writing():
                self.catalog.drop_root(i, with_entries=moved)
                self.gallery.describe_roots(self.catalog)

    def _note_gone(self, root: int, folder: str) -> None:
        self._gone[root] = folder, self.catalog.count_in(root, described=True)

    def _walk(self, target: Target, folder: str) -> None:
        root = target.root.id
        if not os.path.isdir(os.path.join(folder, target.prefix)):
            self._note_gone(root, folder)
            return
        leave_out = LeaveOut(self.gallery.exclude, folder)
        walk = Walk(folder, leave_out, self._other_roots(target.root), target.prefix)
        join = Join(None if self.rehash else self._codeless(root))
        gone: list[str] = []
        differ: list[Found] = []
        new: list[Found] = []
        for section, files in walk.sections():
            itself = section == target.prefix != ""
            known = self.catalog.files_below(root, section, itself=itself)
            for path, file in join.differences(known, files, walk.linked, section):
                if file is None:
                    gone.append(path or "")
                elif path is None:
                    new.append(file)
                else:
                    differ.append(file)
        self.report.unchanged += join.same
        scan = walk.scan
        self.report.ignored += scan.ignored
        self.report.left_out += scan.left_out
        for suffix, count in scan.foreign.items():
            self.report.foreign[suffix] = self.report.foreign.get(suffix, 0) + count
        for name, why in scan.unreadable.items():
            self._warn(folder, name, f"could not be listed ({why}); its pictures are kept")
        held = join.same + join.held
        empty = held == len(gone) and not new
        if held and empty and not scan.unreadable and not scan.left_out:
            self._warn(
                folder,
                target.prefix,
                f"holds no pictures now, the gallery {held} of it (is a disk not mounted?); "
                f"they are kept; {_drop(os.path.join(folder, target.prefix) if target.prefix else folder)}",
            )
            return
        self._note_vanished(target.root, self._surely_gone(folder, target.prefix, scan, gone))
        new = self._without_taken_out(target, new)
        new.sort(key=_by_path)
        with self.catalog.writing():
            # All new pictures get their ids now, in the order of their paths, whatever order they are described in.
            self.catalog.add_pending(root, (f.path for f in new))
        changed = sorted([*new, *differ], key=_by_path)
        for begin in range(0, len(changed), _AT_ONCE):
            self._compare(target.root, folder, changed[begin : begin + _AT_ONCE])

    def _surely_gone(self, folder: str, prefix: str, scan: Scan, gone: list[str]) -> list[str]:
        """Of the pictures that were not found those that are not kept because something may be away."""
        doubtful = dict(scan.unreadable)
        unmounted = self._mounts.gone(folder, prefix, scan)
        for name, why in {**unmounted, **scan.away}.items():
            kept = sum(lies_in(path, name) for path in gone)
            if kept:
                doubtful[name] = why
                self._warn(
                    folder,
                    name,
                    f"is away ({why}; is a disk not mounted?); its {count_of(kept, 'picture')} "
                    f"{'is' if kept == 1 else 'are'} kept; {_drop(os.path.join(folder, name))}",
                )
        for path in filter(scan.unopened.__contains__, gone):
            self._warn(folder, path, f"could not be opened ({scan.unopened[path]}); it is kept")
            doubtful[path] = scan.unopened[path]
        self._mounts.remember(folder, prefix, scan.mounts | (unmounted.keys() & doubtful.keys()))
        return [path for path in gone if not any(lies_in(path, name) if name else True for name in doubtful)]

    def _warn(self, folder: str, name: str, text: str) -> None:
        self.report.warnings.append(f"{show_path(os.path.join(folder, name) if name else folder)} {text}")

    def _other_roots(self, own: Root) -> set[tuple[int, int]]:
        """Folders that are indexed by themselves: a link to one must not double its pictures."""
        others = (r for r in self.catalog.roots() if r.kind == "folder" and r.id != own.id)
        return {found for r in others if (found := identity(self.gallery.folder_of(r))) is not None}

    def _codeless(self, root: int) -> set[str]:
        """Paths of a root's pictures that the local index lacks."""
        if self._local is None:
            return set()
        lacking: set[str] = set()
        pairs = self.catalog.hashes(root)
        while part := list(islice(pairs, _HASHES_AT_ONCE)):
            held = self._local.holds([digest for _, digest in part])
            lacking.update(path for (path, _), there in zip(part, held, strict=True) if not there)
        return lacking

    def _note_vanished(self, root: Root, paths: Sequence[str]) -> None:
        for begin in range(0, len(paths), _AT_ONCE):
            for record in self.catalog.find_all(root.id, paths[begin : begin + _AT_ONCE]).values():
                self.vanished[record.id] = record
                if record.hash is not None and record.row is not None:
                    self.moved_from.setdefault(record.hash, []).append(record.id)

    def _without_taken_out(self, target: Target, found: list[Found]) -> list[Found]:
        """Pictures that were taken out stay out, unless they are asked for: all with ``restore``, a file by its name."""
        out = self.catalog.taken_out(target.root.id)
        if not out:
            return found
        if self.restore or target.files:
            with self.catalog.writing():
                self.catalog.take_back(target.root.id, [f.path for f in found if f.path in out])
            return found
        out -= self.catalog.find_all(target.root.id, [f.path for f in found if f.path in out]).keys()
        kept = [f for f in found if f.path not in out]
        self.report.stayed_out += len(found) - len(kept)
        return kept

    def _compare(self, root: Root, folder: str, found: Sequence[Found], *, named: bool = False) -> None:
        """Files one by one. ``named``: not those that a walk came upon."""
        paths = [f.path for f in found]
        known = self.catalog.find_all(root.id, paths)
        if len(known) < len(set(paths)):
            with self.catalog.writing():
                self.catalog.add_pending(root.id, (path for path in dict.fromkeys(paths) if path not in known))
            known = self.catalog.find_all(root.id, paths)
        lacking = self._codeless_of(known.values())
        problems, unknown = [], []
        for file in found:
            record = known[file.path]
            walked = named and record.id not in self.vanished and self._was_walked(root, file.path)
            if named:
                self.vanished.pop(record.id, None)  # of a name that a walk passes over
            if file.problem is not None:
                if record.error != file.problem:
                    problems.append((record, file))
            elif record.id in self._planned:  # a file named twice
                continue
            elif record.status != "pending" and not self.rehash and _is_same(record, file):
                self._planned.add(record.id)
                if record.hash in lacking:
                    self.work.append(Work(record, os.path.join(folder, file.path), file.size, file.mtime_ns))
                    continue
                self.report.unchanged += record.status == "ok" and not walked
                if record.ctime_ns == -1 != file.ctime_ns:
                    unknown.append((record, file))
            else:
                self._planned.add(record.id)
                self.work.append(Work(record, os.path.join(folder, file.path), file.size, file.mtime_ns))
        if unknown:  # a gallery of before: from now on it can tell
            with self.catalog.writing():
                for record, file in unknown:
                    self.catalog.set_identity(record.id, ctime_ns=file.ctime_ns, inode=file.inode)
        if problems:
            with self.catalog.writing():
                for record, file in problems:
                    why, keep = str(file.problem), file.withheld and record.row is not None
                    self.catalog.set_error(record.id, size=-1, mtime_ns=-1, error=why, keep_vector=keep)
                if any(record.row is not None and not file.withheld for record, file in problems):
                    self.catalog.bump_version()

    def _codeless_of(self, records: Iterable[Record]) -> set[str]:
        """Contents that the local index lacks."""
        digests = [r.hash for r in records if r.row is not None and r.hash is not None]
        if self._local is None or not digests:
            return set()
        return {digest for digest, there in zip(digests, self._local.holds(digests), strict=True) if not there}

    def _was_walked(self, root: Root, path: str) -> bool:
        return any(t.root == root and (not t.prefix or lies_in(path, t.prefix)) for t in self._walked)


def _by_path(file: Found) -> bytes:
    return os.fsencode(file.path)


def _is_same(record: Record, file: Found) -> bool:
    """Whether a file is as it was: size, time, and what changes where these were kept. What is not known says nothing."""
    return (record.size, record.mtime_ns) == (file.size, file.mtime_ns) and all(
        -1 in (before, now) or before == now
        for before, now in ((record.ctime_ns, file.ctime_ns), (record.inode, file.inode))
    )


def _drop(folder: str) -> str:
    return f"to drop them: retrieve remove {shlex.quote(show_path(folder))}"

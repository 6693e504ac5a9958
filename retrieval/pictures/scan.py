"""Which pictures lie in a folder. Walks once, opens only files whose names leave it open, is at a loss for nothing it meets."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple

from retrieval.errors import ImageError
from retrieval.files.withheld import may_be_whole
from retrieval.pictures.foreign import foreign_suffix
from retrieval.pictures.imaging import is_picture_name
from retrieval.pictures.leave_out import MARKER, LeaveOut
from retrieval.pictures.unnamed import begins_as_picture, may_be_picture


class Found(NamedTuple):
    """A file with a picture's name or beginning. ``problem`` is set where it is no regular file that could be opened.

    ``ctime_ns`` and ``inode`` change where size and time of a file were kept although it became another. It equals a row of the
    catalog of the same values (``gallery/joining.py``).
    """

    path: str  # relative to the folder walked
    size: int
    mtime_ns: int
    problem: str | None = None
    ctime_ns: int = -1
    inode: int = -1

    @property
    def withheld(self) -> bool:
        """Whether the system tells nothing of the file just now: it may be as it was."""
        return isinstance(self.problem, Withheld)


class Withheld(str):
    """A problem that may be gone another time, with the file as it was."""


@dataclass
class Scan:
    """What a walk found, in a fixed order; ``unreadable``: sub-folders (relative) that could not be listed; ``away``: those
    that hold nothing at all, and links to nothing: a disk may not be mounted there; ``mounts``: those that lie on another
    device than the folder they are in; ``passed``: those that were passed over by rule; ``unopened``: files that may be
    pictures by their names and could not be read, and why; ``ignored``: how many files are taken for none, and of them by
    suffix in ``foreign`` those that ``foreign.py`` knows; ``left_out``: how many files and folders were passed over by rule."""

    files: list[Found] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    away: dict[str, str] = field(default_factory=dict)
    mounts: set[str] = field(default_factory=set)
    passed: set[str] = field(default_factory=set)
    unopened: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    ignored: int = 0
    foreign: Counter[str] = field(default_factory=Counter)


def look(path: str, relative: str) -> Found:
    """One file. A broken link, a FIFO, a folder ... is a Found with its ``problem``."""
    try:
        status = os.stat(path)
    except OSError as error:
        return _unseen(path, relative, error)
    if stat.S_ISREG(status.st_mode):
        return _regular(relative, status)
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
    return Found(relative, -1, -1, f"{kind}, not a picture")


def device(path: str, status: os.stat_result) -> int:
    """What ``path``, of this ``status``, lies on."""
    return status.st_dev


def walk(folder: str, leave_out: LeaveOut | None = None, skip: Collection[tuple[int, int]] = ()) -> Scan:
    """All pictures below ``folder`` by their names' suffixes, and where these leave it open (``unnamed.py``) by their first
    bytes, sorted by path. Names that begin with a dot are passed
    over, and so is what ``leave_out`` says (default: what other programs leave behind) and folders of the identities in
    ``skip``. Links are followed, but not upwards; a folder that can be reached by several ways is walked once, by its own
    name if it lies inside. A folder with a picture's name is reported and walked like any other."""
    whole = Walk(folder, leave_out, skip)
    for _, files in whole.sections():
        whole.scan.files.extend(files)
    whole.scan.files.sort(key=lambda found: os.fsencode(found.path))
    return whole.scan


def pictures_in(paths: Sequence[str]) -> list[str]:
    """Files as they are named, and the pictures below folders."""
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            found += [os.path.join(path, file.path) for file in walk(path).files if file.problem is None]
        else:
            found.append(path)
    return found


class Walk:
    """The same, file by file, for folders of any size: ``scan`` holds all but the files, and is whole once these were taken.

    ``prefix``: the folder below ``folder`` at which it begins; what is found is told relative to ``folder``. ``linked``: links to
    folders that were met so far.
    """

    def __init__(
        self,
        folder: str,
        leave_out: LeaveOut | None = None,
        skip: Collection[tuple[int, int]] = (),
        prefix: str = "",
    ) -> None:
        self.prefix, self.top = prefix, os.path.join(folder, prefix)
        self.leave_out = leave_out or LeaveOut()
        self.scan = Scan()
        self.linked: set[str] = set()
        self._links: deque[tuple[str, str]] = deque()
        top = os.stat(self.top)
        self._seen = {(top.st_dev, top.st_ino), *skip}

    def sections(self) -> Iterator[tuple[str, Iterator[Found]]]:
        """(folder, pictures below it in the order of their paths' bytes): what lies in the top folder itself, then behind each
        link in it. Each to be taken to its end before the next."""
        yield self.prefix, self._below(self.top, self.prefix, device(self.top, os.stat(self.top)))
        self.scan.away.pop(self.prefix, None)
        while self._links:  # last: a folder's own name comes first
            path, relative = self._links.popleft()
            yield relative, self._behind(path, relative)

    def _behind(self, path: str, relative: str) -> Iterator[Found]:
        target = os.path.join(os.path.realpath(path), "")
        if not os.path.join(os.path.realpath(self.top), "").startswith(target):
            own = self._enter(path, relative, None)
            if own is not None:
                yield from self._below(path, relative, own)

    def _enter(self, path: str, relative: str, above: int | None) -> int | None:
        """The device of a folder that is to be listed, else None. ``above``: that of the folder it lies in, None for a link."""
        try:
            status = os.stat(path)
        except OSError as error:
            self.scan.unreadable[relative] = error.strerror or str(error)
            return None
        key = (status.st_dev, status.st_ino)
        own = device(path, status)
        if above not in (None, own):
            self.scan.mounts.add(relative)
        if key in self._seen:
            return None
        self._seen.add(key)
        return own

    def _below(self, folder: str, relative: str, own: int) -> Iterator[Found]:
        listings = [(own, iter(self._list(folder, relative)))]
        while listings:
            above, listing = listings[-1]
            for step in listing:
                if isinstance(step, Found):
                    yield step
                elif (device_below := self._enter(*step, above)) is not None:
                    listings.append((device_below, iter(self._list(*step))))
                    break
            else:
                listings.pop()

    def _list(self, folder: str, prefix: str) -> list[Found | tuple[str, str]]:
        """Pictures, and folders (path, relative) to enter, in the order in which paths of them and below them sort."""
        scan = self.scan
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError as error:
            scan.unreadable[prefix] = error.strerror or str(error)
            return []
        if not entries:
            scan.away[prefix] = "it is empty now"
        if any(entry.name == MARKER for entry in entries):
            scan.left_out += 1
            scan.passed.add(prefix)
            return []
        steps: list[tuple[str, Found | tuple[str, str]]] = []
        before = os.path.join(prefix, "")
        for entry in entries:
            if not entry.name.startswith("."):
                self._entry(entry, before + entry.name, steps)
        try:
            "".join([name for name, _ in steps]).encode()
            steps.sort(key=itemgetter(0))  # text sorts as its UTF-8 does
        except UnicodeEncodeError:
            steps.sort(key=lambda step: os.fsencode(step[0]))
        return [step for _, step in steps]

    def _entry(self, entry: os.DirEntry[str], relative: str, steps: list[tuple[str, Found | tuple[str, str]]]) -> None:
        scan, name = self.scan, entry.name
        wanted = is_picture_name(name)
        try:
            status = entry.stat()
        except OSError as error:
            if wanted:
                steps.append((name, _unseen(entry.path, relative, error)))
            else:
                scan.away[relative] = _why(entry.path, error)
            return
        folder = stat.S_ISDIR(status.st_mode)
        if (folder or self.leave_out.patterns) and self.leave_out(relative, name, folder=folder):
            scan.left_out += 1
            if folder:
                scan.passed.add(relative)
        elif folder:
            if wanted:
                problem = "a folder, not a picture (what it holds was looked at)"
                steps.append((name, Found(relative, -1, -1, problem)))
            if entry.is_symlink():
                self.linked.add(relative)
                self._links.append((entry.path, relative))
            else:
                steps.append((name + "/", (entry.path, relative)))
        elif not (wanted or (stat.S_ISREG(status.st_mode) and self._begins_as_picture(entry, relative))):
            scan.ignored += 1
            if (suffix := foreign_suffix(name)) is not None:
                scan.foreign[suffix] += 1
        elif stat.S_ISREG(status.st_mode):
            steps.append((name, _regular(relative, status)))
        else:
            steps.append((name, look(entry.path, relative)))

    def _begins_as_picture(self, entry: os.DirEntry[str], relative: str) -> bool:
        try:
            return may_be_picture(entry.name) and begins_as_picture(entry.path)
        except ImageError as error:
            self.scan.unopened[relative] = error.message
            return False


def _regular(relative: str, status: os.stat_result) -> Found:
    return Found(relative, status.st_size, status.st_mtime_ns, None, status.st_ctime_ns, status.st_ino)


def _unseen(path: str, relative: str, error: OSError) -> Found:
    why = _why(path, error)
    return Found(relative, -1, -1, Withheld(why) if may_be_whole(error) else why)


def _why(path: str, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a symbolic link that leads to itself"
    if error.errno == errno.ENOENT and os.path.islink(path):
        return "a symbolic link to nothing"
    return error.strerror or str(error)

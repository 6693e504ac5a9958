"""Which pictures lie in a folder. Walks once, opens nothing, and is at a loss for nothing it may meet there."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from retrieval.pictures.foreign import foreign_suffix
from retrieval.pictures.imaging import is_picture_name


@dataclass(frozen=True)
class Found:
    """A file with a picture's name. ``problem`` is set where it is no regular file that could be opened."""

    path: str  # relative to the folder walked
    size: int
    mtime_ns: int
    problem: str | None = None


@dataclass
class Scan:
    """What a walk found, in a fixed order; ``unreadable``: sub-folders (relative) that could not be listed; ``ignored``:
    how many files have no picture's name, and of them by suffix in ``foreign`` those that ``foreign.py`` knows."""

    files: list[Found] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    ignored: int = 0
    foreign: Counter[str] = field(default_factory=Counter)


def look(path: str, relative: str) -> Found:
    """One file. A broken link, a FIFO, a folder ... is a Found with its ``problem``."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Found(relative, -1, -1, _why(path, error))
    if stat.S_ISREG(status.st_mode):
        return Found(relative, status.st_size, status.st_mtime_ns)
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
    return Found(relative, -1, -1, f"{kind}, not a picture")


def walk(folder: str) -> Scan:
    """All pictures below ``folder`` by their names' suffixes, sorted by path. Names that begin with a dot are passed
    over. Links are followed, but not upwards; a folder that can be reached by several ways is walked once, by its own
    name if it lies inside. A folder with a picture's name is reported and walked like any other."""
    scan = Scan()
    top = os.stat(folder)
    seen = {(top.st_dev, top.st_ino)}
    links: list[tuple[str, str]] = []
    _walk(folder, "", seen, links, scan)
    while links:
        path, relative = links.pop(0)
        target = os.path.join(os.path.realpath(path), "")
        if not os.path.join(os.path.realpath(folder), "").startswith(target):
            _enter(path, relative, seen, links, scan)
    scan.files.sort(key=lambda found: os.fsencode(found.path))
    return scan


def pictures_in(paths: Sequence[str]) -> list[str]:
    """Files as they are named, and the pictures below folders."""
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            found += [os.path.join(path, file.path) for file in walk(path).files if file.problem is None]
        else:
            found.append(path)
    return found


def _enter(path: str, relative: str, seen: set[tuple[int, int]], links: list[tuple[str, str]], scan: Scan) -> None:
    status = os.stat(path)
    key = (status.st_dev, status.st_ino)
    if key not in seen:
        seen.add(key)
        _walk(path, relative, seen, links, scan)


def _walk(folder: str, prefix: str, seen: set[tuple[int, int]], links: list[tuple[str, str]], scan: Scan) -> None:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        scan.unreadable[prefix] = error.strerror or str(error)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        relative = os.path.join(prefix, entry.name)
        wanted = is_picture_name(entry.name)
        try:
            status = entry.stat()
        except OSError as error:
            if wanted:
                scan.files.append(Found(relative, -1, -1, _why(entry.path, error)))
            continue
        if stat.S_ISDIR(status.st_mode):
            if wanted:
                scan.files.append(Found(relative, -1, -1, "a folder, not a picture (what it holds was looked at)"))
            if entry.is_symlink():
                links.append((entry.path, relative))  # later: a folder's own name comes first
            else:
                _enter(entry.path, relative, seen, links, scan)
        elif not wanted:
            scan.ignored += 1
            if (suffix := foreign_suffix(entry.name)) is not None:
                scan.foreign[suffix] += 1
        elif stat.S_ISREG(status.st_mode):
            scan.files.append(Found(relative, status.st_size, status.st_mtime_ns))
        else:
            scan.files.append(look(entry.path, relative))


def _why(path: str, error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "a symbolic link that leads to itself"
    if error.errno == errno.ENOENT and os.path.islink(path):
        return "a symbolic link to nothing"
    return error.strerror or str(error)

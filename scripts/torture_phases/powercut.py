"""A folder as a power cut may leave it: only what was forced to the disk is sure, of the rest any part may be there.

Two kinds of file systems take turns. On a "journalled" one changes of names happen in order, and forcing anything forces all
changes of names before it (ext4, XFS). On a "strict" one, as POSIX has it, a name is sure once its folder was forced, and
names that were not may come or go in any combination. Contents that were not forced may be there in any part, in either.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from torture_phases.calls import Event

_SECTOR = 512


@dataclass(eq=False)
class _File:
    disk: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data), or (size, None): cut


@dataclass(eq=False)
class _Folder:
    now: dict[str, _File | _Folder] = field(default_factory=dict)
    disk: dict[str, _File | _Folder] = field(default_factory=dict)


@dataclass(eq=False)
class _Change:
    """Names set in folders (None: taken away), all or none of them."""

    names: list[tuple[_Folder, str, _File | _Folder | None]]
    forced: bool = False


def cut(
    before: Path, place: Path, events: Iterable[Event], rng: np.random.Generator, *, strict: bool
) -> dict[str, bytes | None]:
    """What is left of ``place``, which was a copy of ``before`` when the events began: path -> content, None for folders."""
    root = _read(before)
    changes: list[_Change] = []
    for event in events:
        _happen(event, root, place, changes, strict)
    kept = _kept(changes, rng, strict)
    for change in kept:
        for folder, name, what in change.names:
            if what is None:
                folder.disk.pop(name, None)
            else:
                folder.disk[name] = what
    out: dict[str, bytes | None] = {}
    _collect(root, "", out, rng)
    return out


def write_out(found: dict[str, bytes | None], place: Path) -> None:
    for name, content in found.items():
        path = place / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _read(path: Path) -> _Folder:
    folder = _Folder()
    for entry in os.scandir(path):
        folder.now[entry.name] = _read(Path(entry)) if entry.is_dir() else _File(Path(entry).read_bytes())
    folder.disk = dict(folder.now)
    return folder


def _parent(root: _Folder, place: Path, path: str) -> tuple[_Folder | None, str]:
    """The folder that holds ``path`` now, and its name in there."""
    *folders, name = os.path.relpath(path, place).split(os.sep)
    at: _Folder | None = root
    for part in folders:
        found = at.now.get(part) if at is not None else None
        at = found if isinstance(found, _Folder) else None
    return at, name


def _happen(event: Event, root: _Folder, place: Path, changes: list[_Change], strict: bool) -> None:
    if event.kind == "A":
        return
    if event.kind == "D" and os.path.relpath(event.path, place) == ".":
        parent, what = None, root
    else:
        parent, name = _parent(root, place, event.path)
        what = parent.now.get(name) if parent is not None else None
    if event.kind in "CM" and parent is not None:
        parent.now[name] = made = _Folder() if event.kind == "M" else _File()
        changes.append(_Change([(parent, name, made)]))
    elif event.kind == "U" and parent is not None:
        parent.now.pop(name, None)
        changes.append(_Change([(parent, name, None)]))
    elif event.kind == "R" and parent is not None and what is not None:
        target, new = _parent(root, place, event.other)
        assert target is not None
        del parent.now[name]
        target.now[new] = what
        changes.append(_Change([(parent, name, None), (target, new, what)]))
    elif event.kind in "WT" and isinstance(what, _File):
        what.pending.append((event.offset, event.data if event.kind == "W" else None))
    elif event.kind in "SD":
        if isinstance(what, _File):
            what.disk, what.pending = event.data, []
        for change in changes:
            if not strict or (isinstance(what, _Folder) and change.names[-1][0] is what):
                change.forced = True


def _kept(changes: list[_Change], rng: np.random.Generator, strict: bool) -> list[_Change]:
    loose = [change for change in changes if not change.forced]
    if strict:
        share = rng.random()
        lost = {id(change) for change in loose if rng.random() < share}
    else:
        lost = {id(change) for change in loose[int(rng.integers(0, len(loose) + 1)) :]}
    return [change for change in changes if id(change) not in lost]


def _collect(folder: _Folder, path: str, out: dict[str, bytes | None], rng: np.random.Generator) -> None:
    for name, what in sorted(folder.disk.items()):
        inner = os.path.join(path, name)
        if isinstance(what, _Folder):
            out[inner] = None
            _collect(what, inner, out, rng)
        elif not name.endswith("-shm"):  # memory that processes share; SQLite makes it anew
            out[inner] = _torn(what, rng)


def _torn(file: _File, rng: np.random.Generator) -> bytes:
    """What was forced, and any part of what was written since, sector by sector."""
    content = bytearray(file.disk)
    share = float(rng.choice([0.0, 0.5, 0.9, 1.0]))
    for offset, data in file.pending:
        if rng.random() >= share:
            continue
        if data is None:
            del content[offset:]
            content.extend(bytes(offset - len(content)))
            continue
        first = offset // _SECTOR * _SECTOR
        for sector in range(first, offset + len(data), _SECTOR):
            if share == 1.0 or rng.random() < 0.9:
                begin, end = max(sector, offset), min(sector + _SECTOR, offset + len(data))
                content.extend(bytes(max(0, end - len(content))))
                content[begin:end] = data[begin - offset : end - offset]
    return bytes(content)

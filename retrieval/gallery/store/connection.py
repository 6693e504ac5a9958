"""How a catalog's file is opened, also where SQLite cannot keep its helper files beside it.

A reader on a read-only or a full medium, or without the right to write, gets a private copy of the file and its write-ahead
log (the log may hold what the file does not yet), or the file as it is where there is no log. Such a reader notices when the
originals change, and is opened anew.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

from retrieval.errors import GalleryError
from retrieval.files.identity import identity
from retrieval.gallery.store.schema import entry_crc

WAIT_SECONDS = 30  # for another connection
_TRIES = 10
_NO_ROOM = ("disk I/O error", "disk is full")  # what SQLite says where its helper files find none
_CACHE_KIB = 32_768  # a writer's: content hashes are spread over the whole of their index
_VERSIONS = slice(18, 20)  # of the format, for who writes and who reads: bytes of SQLite's header
_WITH_LOG = b"\x02\x02"  # what they are in a file with a write-ahead log
State = tuple[tuple[int, int, int] | None, ...]


def open_writer(path: Path) -> sqlite3.Connection:
    """For the holder of the gallery's lock. Raises sqlite3.Error."""
    if not _versions_known(path):  # SQLite would read the file, and call it readonly when it is written to
        raise sqlite3.DatabaseError("its header names a version of SQLite's format that there is not")
    connection = sqlite3.connect(path, isolation_level=None, timeout=WAIT_SECONDS, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # What undoes a single statement would else go through a temporary file, which costs more than the statement.
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    connection.create_function("entry_crc", -1, entry_crc, deterministic=True)
    return connection


def mend_versions(path: Path) -> bool:
    """Write anew what the header says of the versions of the format, where SQLite has none of that number. Whether it did."""
    if _versions_known(path):
        return False
    with open(path, "r+b") as file:
        file.seek(_VERSIONS.start)
        file.write(_WITH_LOG)
        file.flush()
        os.fsync(file.fileno())
    return True


def _versions_known(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            head = file.read(_VERSIONS.stop)
        return not head.startswith(b"SQLite format 3\0") or all(version in (1, 2) for version in head[_VERSIONS])
    except OSError:  # SQLite says why, or makes it
        return True


class Reader:
    """A reader's ``connection``. ``stale()``: whether what it shows has been changed behind its back since it was opened;
    ``replaced()``: by another file in its place, as a copy that was put back, or a repair, leaves it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._seen: State | None = None
        self._file = identity(path)
        self.connection = self._open()

    def stale(self) -> bool:
        return self.replaced() if self._seen is None else self._seen != _state(self.path)

    def replaced(self) -> bool:
        now = identity(self.path)
        return now is not None and now != self._file  # what is gone may come back: until then the open file is read

    def close(self) -> None:
        self.connection.close()
        if self._folder is not None:
            self._folder.cleanup()

    def _open(self) -> sqlite3.Connection:
        try:
            connection = _connect(self.path, "mode=ro")
            connection.execute("SELECT 1 FROM meta").fetchone()
            return connection
        except sqlite3.OperationalError as error:
            if os.access(self.path.parent, os.W_OK) and not any(sign in str(error) for sign in _NO_ROOM):
                raise
            reason = error
        for _ in range(_TRIES):
            before = _state(self.path)
            try:
                connection = self._private() if _has_log(before) else _connect(self.path, "immutable=1")
            except OSError:
                raise reason from None
            if before == _state(self.path):
                self._seen = before
                return connection
            connection.close()
        raise GalleryError(f"{self.path} is being written to all the time", "Try again when the writer has finished.")

    def _private(self) -> sqlite3.Connection:
        self._folder = tempfile.TemporaryDirectory(prefix="retrieval-catalog-")
        copy = Path(self._folder.name) / self.path.name
        shutil.copyfile(self.path, copy)
        shutil.copyfile(f"{self.path}-wal", f"{copy}-wal")
        return sqlite3.connect(copy, isolation_level=None, timeout=WAIT_SECONDS, check_same_thread=False)


def _connect(path: Path, how: str) -> sqlite3.Connection:
    uri = f"{path.resolve().as_uri()}?{how}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=WAIT_SECONDS, check_same_thread=False)


def _state(path: Path) -> State:
    """Size, time and inode of the file and of its log."""
    found: list[tuple[int, int, int] | None] = []
    for name in (os.fspath(path), f"{path}-wal"):
        try:
            status = os.stat(name)
            found.append((status.st_size, status.st_mtime_ns, status.st_ino))
        except OSError:
            found.append(None)
    return tuple(found)


def _has_log(state: State) -> bool:
    return state[1] is not None and state[1][0] > 0

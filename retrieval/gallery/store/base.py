"""The catalog's file: a connection, transactions, its own numbers, and its checksums."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from retrieval.errors import GalleryDamaged, GalleryError
from retrieval.gallery.store import schema
from retrieval.gallery.store.connection import WAIT_SECONDS, Reader, open_writer
from retrieval.gallery.store.entry import Record
from retrieval.gallery.store.unread import REPAIR, size_of
from retrieval.messages import first_line

_FIELDS = "id, root, path, size, mtime_ns, hash, width, height, status, error, row"
_LATER = (
    ("metadata", "NULL"),
    ("ctime_ns", "-1"),
    ("inode", "-1"),
    ("crc", "NULL"),
)  # and what stands for a missing one


_BESIDE = (
    "It may be whole: look at the rights to it and to the files beside it (-wal, -shm), and how many files may be open."
)
_SIGNS_OF_DAMAGE = (
    "no such table",
    "no such column",
    "unsupported file format",
    "malformed",
    "Could not decode to UTF-8",
)


class CatalogFile:
    """A connection to ``catalog.sqlite``; ``writable`` ones belong to the holder of the gallery's lock. ``replaced``: how often
    a reader has found another file in its place, and reads that since.

    Every sqlite3 error leaves as GalleryDamaged (the file) or GalleryError (the disk); both name the file. What is asked of a
    closed one is a GalleryError; who is reading when another thread closes it reads on, and the last of them closes the file.
    """

    def __init__(self, path: Path, *, writable: bool = False, create: bool = False) -> None:
        self.path = path
        self._turn = threading.RLock()
        self.replaced = 0
        # Of who uses the connection: SQLite crashes where one is closed under a reader.
        self._counting = threading.Lock()
        self._users, self._closed = 0, False
        self._former: Reader | None = None
        # Of the state that is being read: entries that were looked up, numbers and folders.
        self._looked_up: dict[int, Record] | None = None
        self._head: tuple[dict[str, str], list[tuple[Any, ...]]] | None = None
        if not create and size_of(path) < 0:
            raise GalleryDamaged(f"{path} is missing", "`retrieve index --repair` makes it anew and keeps the vectors.")
        with self._errors():
            self._reader = None if writable or create else Reader(path)
            self._connection = open_writer(path) if self._reader is None else self._reader.connection
            if create:
                self._connection.executescript(schema.CREATE)
            elif self._connection.execute("SELECT count(*) FROM meta").fetchone()[0] < 3:
                raise GalleryDamaged(f"{path} is incomplete", REPAIR)
            elif writable:
                self.check_head()
                schema.migrate(self._connection)
            there = {row[1] for row in self._connection.execute("PRAGMA table_info(images)")}
            self._sealed = "crc" in there
            missing = ((name, value) for name, value in _LATER if name not in there)
            self._fields = f"{_FIELDS}, {', '.join({**{n: n for n, _ in _LATER}, **dict(missing)}.values())}"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Around all that uses the connection."""
        with self._counting:
            if self._closed and not self._users:
                raise GalleryError(f"the gallery {self.path.parent} is closed", "Open it again.")
            self._users += 1
        try:
            yield
        except sqlite3.OperationalError as error:
            text = first_line(error)
            if "full" in text or "disk I/O" in text:
                raise GalleryError(
                    f"the disk is full or failing: {self.path}: {text}",
                    "What was committed is safe; free space and run again.",
                ) from error
            if any(sign in text for sign in _SIGNS_OF_DAMAGE):
                raise GalleryDamaged(f"{self.path} is damaged: {text}", REPAIR) from error
            raise GalleryError(f"{self.path}: {text}", _BESIDE if "unable to open" in text else "") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise GalleryDamaged(f"{self.path} is damaged: {first_line(error)}", REPAIR) from error
        finally:
            with self._counting:
                self._users -= 1
                last = self._closed and not self._users
            if last:
                self._close()

    def close(self) -> None:
        with self._counting:
            first, self._closed = not self._closed, True
            free = not self._users
        if first and free:
            self._close()

    def _close(self) -> None:
        if self._reader is None:
            # With readers about, SQLite would leave what was committed in its log, which it reads up to the first damage.
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._connection.close()
        for reader in (self._reader, self._former):
            if reader is not None:
                reader.close()

    def empty_log(self) -> None:
        """Bring what was committed from the log into the file, as far as no reader is in the way."""
        with self._errors():
            self._connection.execute("PRAGMA busy_timeout = 0")  # readers are not waited for
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._connection.execute(f"PRAGMA busy_timeout = {1000 * WAIT_SECONDS}")

    def _look_again(self) -> None:
        """A reader that SQLite cannot tell of changes is opened anew once there are some."""
        if self._reader is None or not self._reader.stale():
            return
        with self._turn, self._errors():
            if not self._reader.stale() or self._connection.in_transaction:
                return
            replaced = self._reader.replaced()
            fresh = Reader(self.path)
            if self._former is not None:
                self._former.close()
            self._former = self._reader  # another thread may just ask it
            self._reader, self._connection = fresh, fresh.connection
            self.replaced += replaced

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All reads inside see one and the same state of the catalog, and an entry that is looked up again is not read again.
        Other threads wait for their turn."""
        with self._turn, self._errors():
            self._look_again()
            self._connection.execute("BEGIN")
            try:
                self._looked_up, self._head = {}, self.check_head()
                yield
            finally:
                self._looked_up = self._head = None
                self._connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """All changes inside are committed together, or not at all."""
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                schema.seal(self._connection)
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def check_file(self, *, thoroughly: bool = True) -> None:
        with self._errors():
            how = "integrity_check(1)" if thoroughly else "quick_check(1)"
            result = self._connection.execute(f"PRAGMA {how}").fetchone()[0]
        if result != "ok":
            raise GalleryDamaged(f"{self.path} is damaged: {result.splitlines()[-1]:.200}", REPAIR)

    def make_indexes_anew(self) -> None:
        """What finds entries, from the entries. Raises GalleryDamaged where these contradict each other."""
        with self._errors():
            self._connection.execute("REINDEX")

    def check_head(self) -> tuple[dict[str, str], list[tuple[Any, ...]]]:
        """Numbers and folders. Raises GalleryDamaged where they are not what was written."""
        if self._head is not None:
            return self._head
        with self._errors():
            found = schema.head(self._connection)
            stored, now = schema.head_crc(*found)
        if stored and stored != now:
            raise GalleryDamaged(f"{self.path} is damaged: its numbers or folders are not what was written", REPAIR)
        return found

    def check_complete(self, searchable: int, entries: int | None = None) -> None:
        """Raises GalleryDamaged where these are not how many pictures have a vector, and how many there are."""
        for key, found in (("searchable", searchable), ("entries", entries)):
            if found is not None and self.meta(key) is not None and self.number(key) != found:
                what = "pictures with a vector" if key == "searchable" else "pictures"
                raise GalleryDamaged(f"{self.path} is damaged: of {self.number(key)} {what} {found} are found", REPAIR)

    # -- numbers -------------------------------------------------------------------------------------------------

    def meta(self, key: str) -> str | None:
        if (head := self._head) is not None:
            return head[0].get(key)
        self._look_again()
        with self._errors():
            row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def number(self, key: str) -> int:
        """``version`` (changes with the set of searchable pictures), ``vector_count`` or ``generation``."""
        text = self.meta(key)
        try:
            number = int(text or 0)
        except (ValueError, TypeError):
            number = -1
        if number < 0:
            raise GalleryDamaged(f"{self.path} is damaged: its {key} is {text!r:.40}", REPAIR)
        return number

    def set_meta(self, key: str, value: str | int) -> None:
        assert self._head is None, "a state that is being read does not change"
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value)))

    def count_local(self, pictures: int, seconds: float) -> None:
        """Add to what making local codes has taken."""
        self.set_meta("local_made", self.number("local_made") + pictures)
        self.set_meta("local_microseconds", self.number("local_microseconds") + round(1e6 * seconds))

    def bump_version(self) -> None:
        self.set_meta("version", self.number("version") + 1)

"""The catalog: one SQLite row a picture. What is committed here, and only that, is in the gallery."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import GalleryDamaged, GalleryError
from retrieval.files.digest import HASH_BYTES
from retrieval.gallery.store import schema
from retrieval.gallery.store.connection import Reader, open_writer

REPAIR = "Run `retrieve index --repair`."
_FIELDS = "id, root, path, size, mtime_ns, hash, width, height, status, error, row"
_LATER = (
    ("metadata", "NULL"),
    ("ctime_ns", "-1"),
    ("inode", "-1"),
    ("crc", "NULL"),
)  # and what stands for a missing one


@dataclass(frozen=True)
class Record:
    """A picture as catalogued. ``path`` is relative to the root's folder; ``row`` is its vector's row, if it has one.

    ``status``: "ok", "pending" (found, not described yet) or "error" (``error`` says why). An "ok" picture with an
    ``error`` is one whose file changed and cannot be read at present; its last good vector is kept.
    ``metadata``: JSON that came with a picture that a program added. ``ctime_ns``, ``inode``: of the file when it was last
    seen, -1 where unknown.
    """

    id: int
    root: int
    path: str
    size: int
    mtime_ns: int
    hash: str | None
    width: int | None
    height: int | None
    status: str
    error: str | None
    row: int | None
    metadata: str | None = None
    ctime_ns: int = -1
    inode: int = -1


@dataclass(frozen=True)
class Root:
    """Something that was indexed: a whole ``folder``, single ``files`` of a folder, or ``keys``: pictures that were added
    by a program under names of its own, which are no files. ``path`` is as stored (see Gallery)."""

    id: int
    path: str
    kind: str


def encode_path(path: str) -> str | bytes:
    """Paths are stored as text; those that are not UTF-8, as bytes."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def decode_path(stored: str | bytes) -> str:
    return os.fsdecode(stored) if isinstance(stored, bytes) else stored


@dataclass(frozen=True)
class LogState:
    """Where the log of changes stands: it is complete for changes after number ``start``; the newest has number ``end``.

    ``identity`` is the catalog's own, so that a search index of another catalog is never taken for one of this.
    """

    identity: str
    start: int
    end: int


class Catalog:
    """A connection to ``catalog.sqlite``; ``writable`` ones belong to the holder of the gallery's lock.

    Every sqlite3 error leaves as GalleryDamaged (the file) or GalleryError (the disk); both name the file.
    """

    def __init__(self, path: Path, *, writable: bool = False, create: bool = False) -> None:
        self.path = path
        self._turn = threading.RLock()
        if not create and not path.is_file():
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
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "full" in text or "disk I/O" in text:
                raise GalleryError(
                    f"the disk is full or failing: {self.path}: {text}",
                    "What was committed is safe; free space and run again.",
                ) from error
            if any(
                sign in text for sign in ("no such table", "no such column", "unsupported file format", "malformed")
            ):
                raise GalleryDamaged(f"{self.path} is damaged: {text}", REPAIR) from error
            raise GalleryError(f"{self.path}: {text}") from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise GalleryDamaged(f"{self.path} is damaged: {error}", REPAIR) from error

    def close(self) -> None:
        if self._reader is None:
            # With readers about, SQLite would leave what was committed in its log, which it reads up to the first damage.
            with suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._connection.close()
        if self._reader is not None:
            self._reader.close()

    def _look_again(self) -> None:
        """A reader that SQLite cannot tell of changes is opened anew once there are some."""
        if self._reader is not None and self._reader.stale() and not self._connection.in_transaction:
            with self._errors():
                fresh = Reader(self.path)
            self._reader.close()
            self._reader, self._connection = fresh, fresh.connection

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All reads inside see one and the same state of the catalog. Other threads wait for their turn."""
        with self._turn, self._errors():
            self._look_again()
            self._connection.execute("BEGIN")
            try:
                self.check_head()
                yield
            finally:
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

    def check(self, *, thoroughly: bool = True) -> None:
        """Raises GalleryDamaged when SQLite's own consistency check fails (``thoroughly``: also of what finds entries), an entry
        makes no sense, or a checksum does not fit."""
        self.check_file(thoroughly=thoroughly)
        self.check_head()
        roots = {root.id for root in self.roots()}
        count = self.number("vector_count")
        for key in ("version", "generation", "log_start", "compaction_due"):
            self.number(key)
        for record in self.records():
            if record.root not in roots or (record.row is not None and record.row >= count):
                raise GalleryDamaged(f"{self.path} is damaged: its entry of picture {record.id}", REPAIR)

    def check_file(self, *, thoroughly: bool = True) -> None:
        with self._errors():
            how = "integrity_check(1)" if thoroughly else "quick_check(1)"
            result = self._connection.execute(f"PRAGMA {how}").fetchone()[0]
        if result != "ok":
            raise GalleryDamaged(f"{self.path} is damaged: {result.splitlines()[-1]:.200}", REPAIR)

    def check_head(self) -> None:
        """Raises GalleryDamaged where numbers and folders are not what was written."""
        with self._errors():
            stored, now = schema.head_crc(self._connection)
        if stored and stored != now:
            raise GalleryDamaged(f"{self.path} is damaged: its numbers or folders are not what was written", REPAIR)

    def check_complete(self, searchable: int, entries: int | None = None) -> None:
        """Raises GalleryDamaged where these are not how many pictures have a vector, and how many there are."""
        for key, found in (("searchable", searchable), ("entries", entries)):
            if found is not None and self.meta(key) is not None and self.number(key) != found:
                what = "pictures with a vector" if key == "searchable" else "pictures"
                raise GalleryDamaged(f"{self.path} is damaged: of {self.number(key)} {what} {found} are found", REPAIR)

    # -- meta ----------------------------------------------------------------------------------------------------

    def meta(self, key: str) -> str | None:
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
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(value)))

    def count_local(self, pictures: int, seconds: float) -> None:
        """Add to what making local codes has taken."""
        self.set_meta("local_made", self.number("local_made") + pictures)
        self.set_meta("local_microseconds", self.number("local_microseconds") + round(1e6 * seconds))

    def bump_version(self) -> None:
        self.set_meta("version", self.number("version") + 1)

    # -- changes -------------------------------------------------------------------------------------------------

    def log_state(self) -> LogState | None:
        """None for a catalog without a log, see :class:`LogState`."""
        identity = self.meta("identity")
        if identity is None:
            return None
        with self._errors():
            found = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
        return LogState(identity, self.number("log_start"), 0 if found is None else int(found[0]))

    def changes_since(self, seq: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, rows), int64, of the pictures whose vector came, went or changed after change number ``seq``, by
        ascending id; row -1 for those that have no vector now."""
        query = (
            "SELECT changes.id, coalesce(images.row, -1) FROM changes LEFT JOIN images ON images.id = changes.id "
            "WHERE changes.seq > ? ORDER BY changes.id"
        )
        with self._errors():
            table = _numbers(self._connection.execute(query, (seq,)).fetchall(), 2)
        return table[:, 0].copy(), table[:, 1].copy()

    def count_changes(self, seq: int) -> int:
        """How many pictures :meth:`changes_since` would tell of."""
        with self._errors():
            result: int = self._connection.execute("SELECT count(*) FROM changes WHERE seq > ?", (seq,)).fetchone()[0]
            return result

    def forget_changes(self, seq: int) -> None:
        """Drop the log up to change number ``seq``, which a search index on the disk has taken in."""
        self._connection.execute("DELETE FROM changes WHERE seq <= ?", (seq,))
        self.set_meta("log_start", seq)

    # -- roots ---------------------------------------------------------------------------------------------------

    def roots(self) -> list[Root]:
        self.check_head()
        with self._errors():
            rows = self._connection.execute("SELECT id, path, kind FROM roots ORDER BY id").fetchall()
        if not all(
            isinstance(path, str | bytes) and "\0" not in decode_path(path) and kind in ("folder", "files", "keys")
            for _, path, kind in rows
        ):
            raise GalleryDamaged(f"{self.path} is damaged: what it says of folders", REPAIR)
        return [Root(i, decode_path(path), kind) for i, path, kind in rows]

    def add_root(self, path: str, kind: str) -> Root:
        cursor = self._connection.execute("INSERT INTO roots (path, kind) VALUES (?, ?)", (encode_path(path), kind))
        return Root(int(cursor.lastrowid or 0), path, kind)

    def replace_root(self, root: Root) -> Root:
        """The single files of a folder become that whole folder."""
        self._connection.execute("UPDATE roots SET kind = 'folder' WHERE id = ?", (root.id,))
        return Root(root.id, root.path, "folder")

    def move_into(self, old: Root, new: Root, prefix: str) -> None:
        """Pictures of ``old`` become pictures of ``new``, ``prefix`` put before their paths; ``old`` goes."""
        for i, path in self._connection.execute("SELECT id, path FROM images WHERE root = ?", (old.id,)).fetchall():
            moved = encode_path(os.path.join(prefix, decode_path(path)))
            # The same file may have come in both ways; the older row stays.
            self._connection.execute("UPDATE OR IGNORE images SET root = ?, path = ? WHERE id = ?", (new.id, moved, i))
        for path in self.taken_out(old.id):
            moved = encode_path(os.path.join(prefix, path))
            self._connection.execute("INSERT OR IGNORE INTO taken_out VALUES (?, ?)", (new.id, moved))
        self._connection.execute("DELETE FROM taken_out WHERE root = ?", (old.id,))
        self._connection.execute("DELETE FROM images WHERE root = ?", (old.id,))
        self._connection.execute("DELETE FROM roots WHERE id = ?", (old.id,))

    def drop_empty_roots(self) -> None:
        self._connection.execute(
            "DELETE FROM roots WHERE kind IN ('files', 'keys') AND id NOT IN (SELECT root FROM images)"
        )

    # -- images --------------------------------------------------------------------------------------------------

    def records(self, root: int | None = None, status: str | None = None) -> Iterator[Record]:
        """By ascending id. Raises GalleryDamaged at a damaged entry, and at the end where of all entries some are missing."""
        where, values = [], []
        for column, value in (("root", root), ("status", status)):
            if value is not None:
                where.append(f"{column} = ?")
                values.append(value)
        clause = f" WHERE {' AND '.join(where)}" if where else ""
        searchable = entries = 0
        with self._errors():
            for row in self._connection.execute(f"SELECT {self._fields} FROM images{clause} ORDER BY id", values):
                record = _record(row)
                searchable += record.row is not None
                entries += 1
                yield record
        if not where:
            self.check_complete(searchable, entries)

    def records_below(self, root: int, folder: str) -> list[Record]:
        """Those of a root's pictures that lie in a folder (relative to it, not empty), by ascending id; found by their names'
        order, so that the others are not looked at."""
        whole = os.fsencode(folder)
        # Names that are not UTF-8 are stored as bytes, which SQLite sorts behind all text; "0" follows "/".
        ranges: list[tuple[object, object]] = [(whole + b"/", whole + b"0")]
        if isinstance(encode_path(folder), str):
            ranges.append((f"{folder}/", f"{folder}0"))
        found: list[Record] = []
        with self._errors():
            for first, last in ranges:
                query = f"SELECT {self._fields} FROM images WHERE root = ? AND path >= ? AND path < ?"
                found += map(_record, self._connection.execute(query, (root, first, last)))
        return sorted(found, key=lambda record: record.id)

    def troubled(self) -> list[Record]:
        """Pictures that could not be read, the newest state of each."""
        with self._errors():
            query = f"SELECT {self._fields} FROM images WHERE error IS NOT NULL ORDER BY id"
            return [_record(row) for row in self._connection.execute(query)]

    def by_ids(self, ids: Sequence[int]) -> dict[int, Record]:
        found: dict[int, Record] = {}
        with self._errors():
            for begin in range(0, len(ids), 500):
                part = [int(i) for i in ids[begin : begin + 500]]
                query = f"SELECT {self._fields} FROM images WHERE id IN ({','.join('?' * len(part))})"
                found.update((row[0], _record(row)) for row in self._connection.execute(query, part))
        return found

    def check_entries(self, ids: np.ndarray) -> None:
        """Raises GalleryDamaged where the entry of one of these pictures is damaged: with another row, a picture that should be
        answered would be scored by another's vector, and missed."""
        self.by_ids(ids.tolist())

    def searchable(self) -> tuple[np.ndarray, np.ndarray]:
        """(ids, rows), int64, of all pictures with a vector, by ascending id."""
        with self._errors():
            pairs = self._connection.execute("SELECT id, row FROM images WHERE row IS NOT NULL ORDER BY id").fetchall()
        self.check_complete(len(pairs))
        table = _numbers(pairs, 2)
        return table[:, 0].copy(), table[:, 1].copy()

    def rows_of(self, ids: np.ndarray) -> np.ndarray:
        """Vector rows of pictures by id, int64, -1 where there is none (any more)."""
        out = np.full(len(ids), -1, np.int64)
        with self._errors():
            for begin in range(0, len(ids), 500):
                part = [int(i) for i in ids[begin : begin + 500]]
                query = f"SELECT id, row FROM images WHERE row IS NOT NULL AND id IN ({','.join('?' * len(part))})"
                found = dict(self._connection.execute(query, part).fetchall())
                out[begin : begin + 500] = [found.get(i, -1) for i in part]
        return out

    def pictures_of_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(ids, rows), int64, of every picture that has its vector in one of these rows, by ascending id."""
        found: list[tuple[int, int]] = []
        with self._errors():
            for begin in range(0, len(rows), 500):
                part = [int(row) for row in rows[begin : begin + 500]]
                query = f"SELECT id, row FROM images WHERE row IN ({','.join('?' * len(part))})"
                found += self._connection.execute(query, part).fetchall()
        table = _numbers(sorted(found), 2)
        return table[:, 0].copy(), table[:, 1].copy()

    def check_rows(self, count: int) -> None:
        """Raises GalleryDamaged where a picture's vector would lie beyond the ``count`` that are committed, or a described
        picture has none."""
        with self._errors():
            (highest,) = self._connection.execute("SELECT max(row) FROM images").fetchone()
            query = "SELECT id FROM images WHERE status = 'ok' AND row IS NULL LIMIT 1"
            lost = self._connection.execute(query).fetchone() if self._sealed else None
        if highest is not None and not (isinstance(highest, int) and highest < count):
            raise GalleryDamaged(f"{self.path} is damaged: a picture has vector {highest!r:.40} of {count}", REPAIR)
        if lost is not None:
            raise GalleryDamaged(f"{self.path} is damaged: picture {lost[0]} has no vector", REPAIR)

    def rows_needed(self) -> int:
        """How many rows of vectors there must be for all that pictures, present and past, refer to."""
        with self._errors():
            rows = "SELECT row FROM images UNION ALL SELECT row FROM spare"
            query = f"SELECT max(row) FROM ({rows}) WHERE typeof(row) = 'integer'"
            (highest,) = self._connection.execute(query).fetchone()
        return 0 if highest is None else int(highest) + 1

    def any_searchable(self) -> bool:
        with self._errors():
            query = "SELECT 1 FROM images WHERE row IS NOT NULL LIMIT 1"
            return self._connection.execute(query).fetchone() is not None

    def searchable_count(self) -> int:
        with self._errors():
            result: int = self._connection.execute("SELECT count(*) FROM images WHERE row IS NOT NULL").fetchone()[0]
            return result

    def vector_of(self, digest: str) -> tuple[int, int | None, int | None] | None:
        """(row, width, height) of any picture, present or past, with this content hash."""
        with self._errors():
            for table in ("images", "spare"):
                query = f"SELECT row, width, height FROM {table} WHERE hash = ? AND row IS NOT NULL LIMIT 1"
                found = self._connection.execute(query, (digest,)).fetchone()
                if found is not None:
                    result: tuple[int, int | None, int | None] | None = found
                    return result
        return None

    def rows_of_hashes(self, digests: Sequence[str]) -> dict[str, int]:
        """Content hash -> row of a vector, of any picture, present or past, that has one of these."""
        found: dict[str, int] = {}
        with self._errors():
            for table in ("spare", "images"):
                for begin in range(0, len(digests), 500):
                    part = list(digests[begin : begin + 500])
                    query = (
                        f"SELECT hash, row FROM {table} WHERE row IS NOT NULL AND hash IN ({','.join('?' * len(part))})"
                    )
                    found.update(self._connection.execute(query, part))
        return found

    def add_spare(self, pairs: Iterable[tuple[str, int]]) -> None:
        """Vectors without a picture, by content hash: should the picture come (back), it need not be described."""
        self._connection.executemany("INSERT OR IGNORE INTO spare (hash, row) VALUES (?, ?)", pairs)

    def clear_spare(self) -> None:
        self._connection.execute("DELETE FROM spare")

    def counts(self) -> dict[str, int]:
        with self._errors():
            return dict(self._connection.execute("SELECT status, count(*) FROM images GROUP BY status").fetchall())

    def live_rows(self) -> np.ndarray:
        """Rows that some picture uses, ascending, int64."""
        with self._errors():
            rows = self._connection.execute(
                "SELECT DISTINCT row FROM images WHERE row IS NOT NULL ORDER BY row"
            ).fetchall()
        return _numbers(rows, 1).reshape(-1)

    def add_pending(self, root: int, paths: Iterable[str]) -> None:
        rows = ((root, encode_path(path)) for path in paths)
        self._connection.executemany("INSERT INTO images (root, path, status) VALUES (?, ?, 'pending')", rows)

    def add_described(self, root: int, paths: Iterable[str], hashes: Iterable[str], first_row: int) -> None:
        """Pictures whose vectors lie in the rows from ``first_row`` on."""
        rows = ((root, encode_path(p), h, first_row + i) for i, (p, h) in enumerate(zip(paths, hashes, strict=True)))
        self._connection.executemany(
            "INSERT INTO images (root, path, status, hash, row) VALUES (?, ?, 'ok', ?, ?)", rows
        )

    def set_ok(
        self,
        i: int,
        *,
        size: int,
        mtime_ns: int,
        digest: str,
        width: int | None,
        height: int | None,
        row: int,
        ctime_ns: int = -1,
        inode: int = -1,
    ) -> None:
        """A picture's vector, and its file as it was seen. The vector that it had until now stays as a spare one: pictures may
        have changed places, and the other one needs it."""
        self._spare(i, but=row)
        self._connection.execute(
            "UPDATE images SET size=?, mtime_ns=?, hash=?, width=?, height=?, status='ok', error=NULL, row=?, "
            "ctime_ns=?, inode=? WHERE id=?",
            (size, mtime_ns, digest, width, height, row, ctime_ns, inode, i),
        )

    def set_first_ok(self, entries: Iterable[tuple[int, int, str, int | None, int | None, int, int]]) -> None:
        """The same for many pictures that had no vector until now: (size, mtime_ns, hash, width, height, row, id) of each."""
        self._connection.executemany(
            "UPDATE images SET size=?, mtime_ns=?, hash=?, width=?, height=?, status='ok', error=NULL, row=?, "
            "ctime_ns=-1, inode=-1 WHERE id=?",
            entries,
        )

    def drop_damaged(self) -> list[str]:
        """Entries of pictures that make no sense, or are not what was written, go; returns their names. What they said of vectors
        is not trusted: these are found by their content."""
        roots, count = {root.id for root in self.roots()}, self.number("vector_count")
        dropped: list[tuple[int, str]] = []
        for row in self._connection.execute(f"SELECT {self._fields} FROM images").fetchall():
            try:
                record = _record(row)
                sound = record.root in roots and (record.row is None or record.row < count)
            except GalleryDamaged:
                sound = False
            if not sound:
                dropped.append((row[0], decode_path(row[2]) if isinstance(row[2], str | bytes) else repr(row[2])))
        self._connection.executemany("DELETE FROM images WHERE id = ?", [(i,) for i, _ in dropped])
        counts = self._connection.execute("SELECT count(row), count(*) FROM images").fetchone()
        self.set_meta("searchable", counts[0])
        self.set_meta("entries", counts[1])
        return [name for _, name in dropped]

    def drop_damaged_metadata(self) -> int:
        """Metadata that are no JSON object go, so that their pictures can be found again. Returns how many."""
        damaged = "typeof(metadata) != 'text' OR NOT json_valid(metadata) OR json_type(metadata) != 'object'"
        query = f"UPDATE images SET metadata = NULL WHERE metadata IS NOT NULL AND ({damaged})"
        return int(self._connection.execute(query).rowcount)

    def set_metadata(self, i: int, metadata: str | None) -> None:
        self._connection.execute("UPDATE images SET metadata = ? WHERE id = ?", (metadata, i))

    def find(self, root: int, path: str) -> Record | None:
        with self._errors():
            query = f"SELECT {self._fields} FROM images WHERE root = ? AND path = ?"
            row = self._connection.execute(query, (root, encode_path(path))).fetchone()
        return None if row is None else _record(row)

    def find_all(self, root: int, paths: Sequence[str]) -> dict[str, Record]:
        """Those of these paths that have an entry."""
        found: dict[str, Record] = {}
        with self._errors():
            for begin in range(0, len(paths), 500):
                part = [encode_path(path) for path in paths[begin : begin + 500]]
                query = f"SELECT {self._fields} FROM images WHERE root = ? AND path IN ({','.join('?' * len(part))})"
                records = map(_record, self._connection.execute(query, (root, *part)))
                found.update((record.path, record) for record in records)
        return found

    def searchable_below(self, root: int, prefix: str) -> np.ndarray:
        """Ids, int64, ascending, of a root's pictures with a vector whose path is ``prefix`` or lies below it."""
        whole = os.fsencode(prefix)
        query = "SELECT id FROM images WHERE root = ? AND row IS NOT NULL"
        values: list[object] = [root]
        if whole:
            query += " AND (CAST(path AS BLOB) = ? OR substr(CAST(path AS BLOB), 1, ?) = ?)"
            values += [whole, len(whole) + 1, whole + b"/"]
        with self._errors():
            found = self._connection.execute(f"{query} ORDER BY id", values).fetchall()
        return _numbers(found, 1).reshape(-1)

    def set_error(
        self,
        i: int,
        *,
        size: int,
        mtime_ns: int,
        error: str,
        keep_vector: bool,
        ctime_ns: int = -1,
        inode: int = -1,
    ) -> None:
        """Note why a picture cannot be read, and its file as it was seen. ``keep_vector``: its last good vector stays
        searchable."""
        if not keep_vector:
            self._spare(i)
        lost = "" if keep_vector else ", status='error', row=NULL, hash=NULL, width=NULL, height=NULL"
        self._connection.execute(
            f"UPDATE images SET size=?, mtime_ns=?, ctime_ns=?, inode=?, error=?{lost} WHERE id=?",
            (size, mtime_ns, ctime_ns, inode, error, i),
        )

    def set_seen(self, i: int, *, size: int, mtime_ns: int, ctime_ns: int = -1, inode: int = -1) -> None:
        self._connection.execute(
            "UPDATE images SET size=?, mtime_ns=?, ctime_ns=?, inode=?, error=NULL WHERE id=?",
            (size, mtime_ns, ctime_ns, inode, i),
        )

    def set_identity(self, i: int, *, ctime_ns: int, inode: int) -> None:
        """What a gallery made before these were kept does not know of a file that is as it was."""
        self._connection.execute("UPDATE images SET ctime_ns=?, inode=? WHERE id=?", (ctime_ns, inode, i))

    def with_hash(self, digest: str) -> list[Record]:
        """Pictures of this content hash, by ascending id."""
        with self._errors():
            query = f"SELECT {self._fields} FROM images WHERE hash = ? ORDER BY id"
            return [_record(row) for row in self._connection.execute(query, (digest,))]

    def ids_of_hashes(self, digests: Sequence[str]) -> list[int]:
        """Ids of the pictures with a vector that have one of these contents."""
        found: list[int] = []
        with self._errors():
            for begin in range(0, len(digests), 500):
                part = list(digests[begin : begin + 500])
                query = f"SELECT id FROM images WHERE row IS NOT NULL AND hash IN ({','.join('?' * len(part))})"
                found += [i for (i,) in self._connection.execute(query, part)]
        return found

    def sample(self, count: int) -> list[tuple[str, int]]:
        """(content hash, row) of at most so many different pictures with a vector: those of the lowest hashes, which is a random
        choice that does not depend on how the gallery came about."""
        query = "SELECT hash, min(row) FROM images WHERE row IS NOT NULL AND hash IS NOT NULL GROUP BY hash ORDER BY hash LIMIT ?"
        with self._errors():
            found = self._connection.execute(query, (count,)).fetchall()
        if not all(
            isinstance(digest, str) and _is_digest(digest) and isinstance(row, int) and row >= 0
            for digest, row in found
        ):
            raise GalleryDamaged(f"{self.path} is damaged: contents of pictures", REPAIR)
        return found

    def remember_taken_out(self, records: Iterable[Record]) -> None:
        """Pictures that were taken out on purpose, which stay out."""
        rows = ((record.root, encode_path(record.path)) for record in records)
        self._connection.executemany("INSERT OR IGNORE INTO taken_out VALUES (?, ?)", rows)

    def taken_out(self, root: int) -> set[str]:
        with self._errors():
            rows = self._connection.execute("SELECT path FROM taken_out WHERE root = ?", (root,)).fetchall()
        return {decode_path(path) for (path,) in rows}

    def take_back(self, root: int, paths: Iterable[str] | None = None) -> None:
        """Forget that pictures of a root were taken out: these, or all."""
        if paths is None:
            self._connection.execute("DELETE FROM taken_out WHERE root = ?", (root,))
        else:
            pairs = ((root, encode_path(path)) for path in paths)
            self._connection.executemany("DELETE FROM taken_out WHERE root = ? AND path = ?", pairs)

    def drop_root(self, root: int) -> None:
        """A root without pictures goes."""
        self._connection.execute("DELETE FROM taken_out WHERE root = ?", (root,))
        self._connection.execute("DELETE FROM roots WHERE id = ? AND id NOT IN (SELECT root FROM images)", (root,))

    def rename(self, i: int, *, root: int, path: str) -> None:
        self._connection.execute("UPDATE images SET root=?, path=? WHERE id=?", (root, encode_path(path), i))

    def forget_vector(self, i: int) -> None:
        """The picture will be described again."""
        self._connection.execute(
            "UPDATE images SET status='pending', row=NULL, hash=NULL, size=-1, mtime_ns=-1, ctime_ns=-1, inode=-1 WHERE id=?",
            (i,),
        )

    def renumber_rows(self, old_rows: np.ndarray) -> None:
        """The vector in row ``old_rows[i]`` is now in row ``i``. Through negative numbers, so that none collide."""
        pairs = ((-1 - new, int(old)) for new, old in enumerate(old_rows))
        self._connection.executemany("UPDATE images SET row=? WHERE row=?", pairs)
        self._connection.execute("UPDATE images SET row = -1 - row WHERE row < 0")

    def delete(self, ids: Iterable[int]) -> None:
        """Drop pictures; their vectors stay as spare ones until compaction."""
        for i in ids:
            self._spare(i)
            self._connection.execute("DELETE FROM images WHERE id = ?", (i,))

    def _spare(self, i: int, but: int = -1) -> None:
        self._connection.execute(
            "INSERT OR IGNORE INTO spare SELECT hash, row, width, height FROM images "
            "WHERE id = ? AND row IS NOT NULL AND row != ? AND hash IS NOT NULL",
            (i, but),
        )

    def forget_rows(self, rows: Iterable[int]) -> int:
        """Vectors in these rows are lost: their pictures will be described again. Returns how many pictures."""
        lost = 0
        for row in rows:
            self._connection.execute("DELETE FROM spare WHERE row = ?", (row,))
            for (i,) in self._connection.execute("SELECT id FROM images WHERE row = ?", (row,)).fetchall():
                self.forget_vector(i)
                lost += 1
        return lost


def _record(row: tuple[Any, ...]) -> Record:
    """A row as a record. Raises GalleryDamaged where its values are not what they can be: SQLite keeps anything."""
    i, root, path, *rest = row[:-1]
    size, mtime_ns, digest, width, height, status, error, vector, metadata, ctime_ns, inode = rest
    if row[-1] is not None:
        sound = row[-1] == schema.entry_crc(*row[:-1])
    else:
        whole = (size, mtime_ns, ctime_ns, inode)
        perhaps = ((digest, str), (width, int), (height, int), (error, str), (vector, int), (metadata, str))
        sound = (
            isinstance(path, str | bytes)
            and "\0" not in decode_path(path)
            and isinstance(root, int)
            and all(isinstance(value, int) for value in whole)
            and all(value is None or isinstance(value, kind) for value, kind in perhaps)
            and status in ("ok", "pending", "error")
            and (vector is None or vector >= 0)
            and (digest is None or _is_digest(digest))
        )
    sound = sound and (status != "ok" or (vector is not None and digest is not None))
    if not sound:
        raise GalleryDamaged(f"the catalog's entry of picture {i} is damaged", REPAIR)
    return Record(i, root, decode_path(path), *rest)


def _numbers(pairs: list[tuple[Any, ...]], width: int) -> np.ndarray:
    """Numbers of a query, int64 (N, width). Raises GalleryDamaged where there is anything else, or a row below 0."""
    try:
        table = np.array(pairs, np.int64).reshape(-1, width)
    except (ValueError, TypeError, OverflowError) as error:
        raise GalleryDamaged("the catalog's entries of pictures are damaged", REPAIR) from error
    return table


def _is_digest(text: str) -> bool:
    """Whether a text is a content hash in hexadecimal."""
    return len(text) == 2 * HASH_BYTES and set(text) <= set("0123456789abcdef")

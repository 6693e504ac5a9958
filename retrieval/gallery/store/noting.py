"""Pictures in the catalog, noted: what a run found, described, or took out. Inside of :meth:`CatalogFile.writing`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from retrieval.errors import GalleryDamaged
from retrieval.gallery.store import schema
from retrieval.gallery.store.entry import decode_path, encode_path, record_of
from retrieval.gallery.store.folders import Folders


class Seen(NamedTuple):
    """What is known of a picture that gets an entry: its file's ``size`` and ``mtime_ns`` (-1: unknown), and the ``row`` of its
    vector, an ``error``, or neither: it is to be described."""

    root: int
    path: str
    size: int = -1
    mtime_ns: int = -1
    hash: str | None = None
    width: int | None = None
    height: int | None = None
    error: str | None = None
    row: int | None = None


class Noting(Folders):
    """Changes of pictures' entries."""

    def add_pending(self, root: int, paths: Iterable[str]) -> None:
        rows = ((root, encode_path(path)) for path in paths)
        self._connection.executemany("INSERT INTO images (root, path, status) VALUES (?, ?, 'pending')", rows)

    def add_described(self, root: int, paths: Iterable[str], hashes: Iterable[str], first_row: int) -> None:
        """Pictures whose vectors lie in the rows from ``first_row`` on."""
        rows = ((root, encode_path(p), h, first_row + i) for i, (p, h) in enumerate(zip(paths, hashes, strict=True)))
        self._connection.executemany(
            "INSERT INTO images (root, path, status, hash, row) VALUES (?, ?, 'ok', ?, ?)", rows
        )

    def add_seen(self, entries: Iterable[Seen]) -> int:
        """Many pictures at once that have no entry yet, in the order of the ids that they get, with all that is known of them.
        Returns how many have a vector."""
        found = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'images'").fetchone()
        last = 0 if found is None else int(found[0])
        table, searchable = [], 0
        for i, (root, path, size, mtime_ns, digest, width, height, error, row) in enumerate(entries, last + 1):
            status = "ok" if row is not None else "pending" if error is None else "error"
            name = path if path.isascii() else encode_path(path)
            entry = (i, root, name, size, mtime_ns, digest, width, height, status, error, row, None, -1, -1)
            table.append((*entry, schema.entry_crc(*entry)))
            searchable += row is not None
        if table:
            with schema.many_added(self._connection):
                self._connection.executemany(
                    f"INSERT INTO images ({schema.ENTRY_COLUMNS}, crc) VALUES ({', '.join('?' * 15)})", table
                )
        return searchable

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

    def set_metadata(self, i: int, metadata: str | None) -> None:
        self._connection.execute("UPDATE images SET metadata = ? WHERE id = ?", (metadata, i))

    def rename(self, i: int, *, root: int, path: str) -> None:
        self._connection.execute("UPDATE images SET root=?, path=? WHERE id=?", (root, encode_path(path), i))

    def forget_vector(self, i: int) -> None:
        """The picture will be described again."""
        self._connection.execute(
            "UPDATE images SET status='pending', row=NULL, hash=NULL, size=-1, mtime_ns=-1, ctime_ns=-1, inode=-1 WHERE id=?",
            (i,),
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

    def drop_damaged(self) -> list[str]:
        """Entries of pictures that make no sense, or are not what was written, go; returns their names. What they said of vectors
        is not trusted: these are found by their content."""
        roots, count = {root.id for root in self.roots()}, self.number("vector_count")
        dropped: list[tuple[int, str]] = []
        for row in self._connection.execute(f"SELECT {self._fields} FROM images").fetchall():
            try:
                record = record_of(row)
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

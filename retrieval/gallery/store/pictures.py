"""Pictures in the catalog, looked up: by number, by name, by content."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import chain
from typing import Any

import numpy as np

from retrieval.errors import GalleryDamaged
from retrieval.gallery.store.base import CatalogFile
from retrieval.gallery.store.entry import Record, decode_path, encode_path, is_digest, record_of
from retrieval.gallery.store.unread import REPAIR

FileRow = tuple[str, int, int, "str | None", int, int]
"""Path, size, mtime_ns, status (None: ok), ctime_ns and inode: equal to a :class:`retrieval.pictures.scan.Found` of that file."""


class Pictures(CatalogFile):
    """Records, each as it was written: a damaged one raises GalleryDamaged."""

    _without_picture: frozenset[str] = frozenset()  # contents that were looked for in vain

    def records(self, root: int | None = None) -> Iterator[Record]:
        """Of all roots, or of one, by ascending id. Raises GalleryDamaged at a damaged entry or one out of order, and at the end
        where of all entries some are missing."""
        clause, values = ("", []) if root is None else (" WHERE root = ?", [root])
        searchable = entries = last = 0
        with self._errors():
            for row in self._connection.execute(f"SELECT {self._fields} FROM images{clause} ORDER BY id", values):
                record = record_of(row)
                if record.id <= last:  # SQLite takes the order from the pages, and has no check that sees two exchanged
                    raise GalleryDamaged(f"{self.path} is damaged: its entries are out of order", REPAIR)
                last = record.id
                searchable += record.row is not None
                entries += 1
                yield record
        if root is None:
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
                found += map(record_of, self._connection.execute(query, (root, first, last)))
        return sorted(found, key=lambda record: record.id)

    def find(self, root: int, path: str) -> Record | None:
        with self._errors():
            query = f"SELECT {self._fields} FROM images WHERE root = ? AND path = ?"
            row = self._connection.execute(query, (root, encode_path(path))).fetchone()
        return None if row is None else record_of(row)

    def find_all(self, root: int, paths: Sequence[str]) -> dict[str, Record]:
        """Those of these paths that have an entry."""
        found: dict[str, Record] = {}
        with self._errors():
            for begin in range(0, len(paths), 500):
                part = [encode_path(path) for path in paths[begin : begin + 500]]
                query = f"SELECT {self._fields} FROM images WHERE root = ? AND path IN ({','.join('?' * len(part))})"
                records = map(record_of, self._connection.execute(query, (root, *part)))
                found.update((record.path, record) for record in records)
        return found

    def by_ids(self, ids: Sequence[int]) -> dict[int, Record]:
        """Those of these pictures that have an entry."""
        wanted = [int(i) for i in ids]
        known = {} if self._looked_up is None else self._looked_up
        new = [i for i in wanted if i not in known]
        with self._errors():
            for begin in range(0, len(new), 500):
                part = new[begin : begin + 500]
                query = f"SELECT {self._fields} FROM images WHERE id IN ({','.join('?' * len(part))})"
                known.update((row[0], record_of(row)) for row in self._connection.execute(query, part))
        return {i: known[i] for i in wanted if i in known}

    def check_entries(self, ids: np.ndarray) -> None:
        """Raises GalleryDamaged where the entry of one of these pictures is damaged: with another row, a picture that should be
        answered would be scored by another's vector, and missed."""
        self.by_ids(ids.tolist())

    def checked_rows(self, ids: np.ndarray) -> np.ndarray:
        """Vector rows of pictures by id, int64, -1 where there is none (any more). Raises GalleryDamaged as
        :meth:`check_entries` does."""
        known = self.by_ids(ids.tolist())
        rows = (known[i].row if i in known else None for i in ids.tolist())
        return np.array([-1 if row is None else row for row in rows], np.int64)

    def files_below(self, root: int, folder: str, *, itself: bool = False) -> Iterator[FileRow]:
        """What is known of a root's files in a folder ("": of all), in the order of their paths' bytes. ``itself``: also of one
        that has the folder's very name. Entries are not compared with their checksums here, see :meth:`Catalog.check`."""
        columns = "path, size, mtime_ns, nullif(status, 'ok'), ctime_ns, inode"
        query = f"SELECT {columns} FROM images WHERE root = ? AND path"
        # Names that are not UTF-8 are stored as bytes, which SQLite sorts behind all text.
        whole = os.fsencode(folder)
        inside: list[tuple[str, tuple[object, ...]]] = [("< x''", ()), (">= x''", ())]
        if folder:
            name = encode_path(folder)
            text = (f"{folder}/", f"{folder}0") if isinstance(name, str) else ("", "")
            inside = [(">= ? AND path < ?", text), (">= ? AND path < ?", (whole + b"/", whole + b"0"))]
        with self._errors():
            if itself:
                yield from map(_file_row, self._connection.execute(f"{query} = ?", (root, encode_path(folder))))
            known, others = (
                self._connection.execute(f"{query} {where} ORDER BY path", (root, *values)) for where, values in inside
            )
            first = next(others, None)
            if first is None:
                yield from known
            else:
                yield from merge(known, map(_file_row, chain([first], others)), key=lambda row: os.fsencode(row[0]))

    def some_paths(self, root: int, after: str | None, count: int) -> list[str]:
        """So many of a root's paths, from behind ``after`` on (None: from the first), in the catalog's own order."""
        more, values = ("", [root]) if after is None else (" AND path > ?", [root, encode_path(after)])
        query = f"SELECT path FROM images WHERE root = ?{more} ORDER BY path LIMIT ?"
        with self._errors():
            return [decode_path(path) for (path,) in self._connection.execute(query, (*values, count))]

    def hashes(self, root: int) -> Iterator[tuple[str, str]]:
        """(path, content hash) of a root's pictures that have a vector."""
        query = "SELECT path, hash FROM images WHERE root = ? AND row IS NOT NULL AND hash IS NOT NULL"
        with self._errors():
            for path, digest in self._connection.execute(query, (root,)):
                yield decode_path(path), digest

    def count_in(self, root: int, *, described: bool = False) -> int:
        """How many entries a root has; ``described``: only those with a vector."""
        with self._errors():
            query = f"SELECT count(*) FROM images WHERE root = ?{' AND row IS NOT NULL' if described else ''}"
            result: int = self._connection.execute(query, (root,)).fetchone()[0]
            return result

    def troubled(self) -> list[Record]:
        """Pictures that could not be read, the newest state of each."""
        with self._errors():
            query = f"SELECT {self._fields} FROM images WHERE error IS NOT NULL ORDER BY id"
            return [record_of(row) for row in self._connection.execute(query)]

    def with_hash(self, digest: str) -> list[Record]:
        """Pictures of this content hash, by ascending id."""
        with self._errors():
            query = f"SELECT {self._fields} FROM images WHERE hash = ? ORDER BY id"
            return [record_of(row) for row in self._connection.execute(query, (digest,))]

    def contents_of_added(self, root: int) -> set[str]:
        """Contents of a root's pictures that were there to be described; what came as a vector has no size."""
        with self._errors():
            query = "SELECT hash FROM images WHERE root = ? AND row IS NOT NULL AND width IS NOT NULL"
            return {digest for (digest,) in self._connection.execute(query, (root,))}

    def ids_of_hashes(self, digests: Sequence[str]) -> list[int]:
        """Ids of the pictures with a vector that have one of these contents. Raises GalleryDamaged where the catalog's index of
        contents does not lead to a picture that is there."""
        wanted = set(digests)
        ids = [i for (i,) in self._among("SELECT id FROM images WHERE hash", digests)]
        # The entries themselves are asked, for the index may say other than they do.
        entries = self._among("SELECT id, hash, row FROM images NOT INDEXED WHERE id", ids)
        found = [i for i, digest, row in entries if digest in wanted and row is not None]
        lacking = wanted - {digest for _, digest, _ in entries} - self._without_picture
        if lacking:
            lacking -= {digest for (digest,) in self._among("SELECT hash FROM spare WHERE hash", list(lacking))}
        if lacking:  # rare, so all entries are looked at, once
            if self._among("SELECT 1 FROM images NOT INDEXED WHERE hash", list(lacking)):
                raise GalleryDamaged(f"{self.path} is damaged: its index of contents leaves pictures out", REPAIR)
            self._without_picture |= lacking
        return found

    def _among(self, query: str, values: Sequence[object]) -> list[Any]:
        """What a query gives that ends in the column that is to be one of these values."""
        found: list[Any] = []
        with self._errors():
            for begin in range(0, len(values), 500):
                part = values[begin : begin + 500]
                found += self._connection.execute(f"{query} IN ({','.join('?' * len(part))})", part)
        return found

    def sample(self, count: int) -> list[tuple[str, int]]:
        """(content hash, row) of at most so many different pictures with a vector: those of the lowest hashes, which is a random
        choice that does not depend on how the gallery came about."""
        query = "SELECT hash, min(row) FROM images WHERE row IS NOT NULL AND hash IS NOT NULL GROUP BY hash ORDER BY hash LIMIT ?"
        with self._errors():
            found = self._connection.execute(query, (count,)).fetchall()
        if not all(
            isinstance(digest, str) and is_digest(digest) and isinstance(row, int) and row >= 0 for digest, row in found
        ):
            raise GalleryDamaged(f"{self.path} is damaged: contents of pictures", REPAIR)
        return found

    def counts(self) -> dict[str, int]:
        with self._errors():
            return dict(self._connection.execute("SELECT status, count(*) FROM images GROUP BY status").fetchall())


def _file_row(row: tuple[Any, ...]) -> FileRow:
    return (decode_path(row[0]), *row[1:])

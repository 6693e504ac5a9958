"""Folders in the catalog: what was indexed, and what was taken out of it on purpose."""

from __future__ import annotations

import os
from collections.abc import Iterable

from retrieval.errors import GalleryDamaged
from retrieval.gallery.store.base import CatalogFile
from retrieval.gallery.store.entry import Record, Root, decode_path, encode_path
from retrieval.gallery.store.unread import REPAIR


class Folders(CatalogFile):
    """Roots, and the pictures of them that stay out."""

    def roots(self) -> list[Root]:
        _, rows = self.check_head()
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

    def drop_root(self, root: int, *, with_entries: bool = False) -> None:
        """A root without pictures goes; ``with_entries``: together with entries that have no vector."""
        if with_entries:
            self._connection.execute("DELETE FROM images WHERE root = ? AND row IS NULL", (root,))
        self._connection.execute("DELETE FROM taken_out WHERE root = ?", (root,))
        self._connection.execute(
            "DELETE FROM roots WHERE id = ? AND NOT EXISTS (SELECT 1 FROM images WHERE root = roots.id)", (root,)
        )

    def drop_empty_roots(self) -> None:
        self._connection.execute(
            "DELETE FROM roots WHERE kind IN ('files', 'keys') AND NOT EXISTS (SELECT 1 FROM images WHERE root = roots.id)"
        )

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

"""Which picture has its vector in which row, and vectors that no picture has any more."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from retrieval.errors import GalleryDamaged
from retrieval.gallery.store.base import CatalogFile
from retrieval.gallery.store.entry import MOST, numbers_of
from retrieval.gallery.store.unread import REPAIR

_FETCHED = 65_536


class Rows(CatalogFile):
    """Rows of the vectors, by picture and by content."""

    def searchable(self, first: int = 0, last: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(ids, rows), int64, of all pictures with a vector, by ascending id; or of those from id ``first`` to ``last``."""
        query = "SELECT id, row FROM images WHERE row IS NOT NULL AND id BETWEEN ? AND ? ORDER BY id"
        tables = [np.empty((0, 2), np.int64)]
        with self._errors():
            cursor = self._connection.execute(query, (first, MOST if last is None else last))
            while pairs := cursor.fetchmany(_FETCHED):  # as Python's numbers they take ten times the memory
                tables.append(numbers_of(pairs, 2))
        table = np.concatenate(tables)
        if first == 0 and last is None:
            self.check_complete(len(table))
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
        table = numbers_of(sorted(found), 2)
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

    def last_searchable(self) -> int:
        """The highest id of a picture with a vector, 0 where there is none."""
        with self._errors():
            query = "SELECT id FROM images WHERE row IS NOT NULL ORDER BY id DESC LIMIT 1"
            found = self._connection.execute(query).fetchone()
        return 0 if found is None else int(found[0])

    def any_searchable(self) -> bool:
        """By the number that is kept: an index of rows that is damaged may know of none."""
        return self.searchable_count() > 0

    def searchable_count(self) -> int:
        """How many pictures have a vector, as kept."""
        return self.count_searchable() if self.meta("searchable") is None else self.number("searchable")

    def count_searchable(self) -> int:
        """The same, counted."""
        with self._errors():
            result: int = self._connection.execute("SELECT count(*) FROM images WHERE row IS NOT NULL").fetchone()[0]
            return result

    def live_count(self) -> int:
        """How many rows some picture uses."""
        with self._errors():
            result: int = self._connection.execute("SELECT count(DISTINCT row) FROM images").fetchone()[0]
            return result

    def live_rows(self) -> np.ndarray:
        """Rows that some picture uses, ascending, int64."""
        with self._errors():
            rows = self._connection.execute(
                "SELECT DISTINCT row FROM images WHERE row IS NOT NULL ORDER BY row"
            ).fetchall()
        return numbers_of(rows, 1).reshape(-1)

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
            spare = self._connection.execute("SELECT 1 FROM spare LIMIT 1").fetchone()
            for table in ("spare", "images") if spare else ("images",):
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

    def renumber_rows(self, old_rows: np.ndarray) -> None:
        """The vector in row ``old_rows[i]`` is now in row ``i``. Through negative numbers, so that none collide."""
        pairs = ((-1 - new, int(old)) for new, old in enumerate(old_rows))
        self._connection.executemany("UPDATE images SET row=? WHERE row=?", pairs)
        self._connection.execute("UPDATE images SET row = -1 - row WHERE row < 0")

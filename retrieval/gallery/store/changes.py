"""The log of changes: which pictures came, went or got another vector since a search index was written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from retrieval.gallery.store.base import CatalogFile
from retrieval.gallery.store.entry import MOST, numbers_of


@dataclass(frozen=True)
class LogState:
    """Where the log of changes stands: it is complete for changes after number ``start``; the newest has number ``end``.

    ``identity`` is the catalog's own, so that a search index of another catalog is never taken for one of this.
    """

    identity: str
    start: int
    end: int


class ChangeLog(CatalogFile):
    """What the log tells, and how it is shortened."""

    def log_state(self) -> LogState | None:
        """None for a catalog without a log, see :class:`LogState`."""
        identity = self.meta("identity")
        if identity is None:
            return None
        with self._errors():
            found = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchone()
        return LogState(identity, self.number("log_start"), 0 if found is None else int(found[0]))

    def changes_since(self, seq: int, first: int = 0, last: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(ids, rows), int64, of the pictures from id ``first`` to ``last`` whose vector came, went or changed after change
        number ``seq``, by ascending id; row -1 for those that have no vector now."""
        query = (
            "SELECT changes.id, coalesce(images.row, -1) FROM changes LEFT JOIN images ON images.id = changes.id "
            "WHERE changes.seq > ? AND changes.id BETWEEN ? AND ? ORDER BY changes.id"
        )
        with self._errors():
            table = numbers_of(self._connection.execute(query, (seq, first, _end(last))).fetchall(), 2)
        return table[:, 0].copy(), table[:, 1].copy()

    def count_changes(self, seq: int, first: int = 0, last: int | None = None) -> int:
        """How many pictures :meth:`changes_since` would tell of."""
        query = "SELECT count(*) FROM changes WHERE seq > ? AND id BETWEEN ? AND ?"
        with self._errors():
            result: int = self._connection.execute(query, (seq, first, _end(last))).fetchone()[0]
            return result

    def count_live_changes(self, seq: int, first: int = 0, last: int | None = None) -> int:
        """How many of them have a vector."""
        query = (
            "SELECT count(*) FROM changes JOIN images ON images.id = changes.id "
            "WHERE changes.seq > ? AND changes.id BETWEEN ? AND ? AND images.row IS NOT NULL"
        )
        with self._errors():
            result: int = self._connection.execute(query, (seq, first, _end(last))).fetchone()[0]
            return result

    def forget_changes(self, seq: int, spans: Iterable[tuple[int, int, int | None]]) -> None:
        """Drop from the log what search files on the disk have taken in: of each span (number, first id, last id) the changes
        up to that number. The log then leads on from number ``seq``."""
        rows = [(number, first, _end(last)) for number, first, last in spans]
        self._connection.executemany("DELETE FROM changes WHERE seq <= ? AND id BETWEEN ? AND ?", rows)
        self.set_meta("log_start", seq)


def _end(last: int | None) -> int:
    return MOST if last is None else last

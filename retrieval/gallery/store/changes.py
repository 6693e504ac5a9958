"""The log of changes: which pictures came, went or got another vector since a search index was written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retrieval.gallery.store.base import CatalogFile
from retrieval.gallery.store.entry import numbers_of


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

    def changes_since(self, seq: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids, rows), int64, of the pictures whose vector came, went or changed after change number ``seq``, by
        ascending id; row -1 for those that have no vector now."""
        query = (
            "SELECT changes.id, coalesce(images.row, -1) FROM changes LEFT JOIN images ON images.id = changes.id "
            "WHERE changes.seq > ? ORDER BY changes.id"
        )
        with self._errors():
            table = numbers_of(self._connection.execute(query, (seq,)).fetchall(), 2)
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

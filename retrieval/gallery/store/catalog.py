"""The catalog: one SQLite row a picture. What is committed here, and only that, is in the gallery."""

from __future__ import annotations

from retrieval.errors import GalleryDamaged
from retrieval.gallery.store import proof
from retrieval.gallery.store.changes import ChangeLog, LogState
from retrieval.gallery.store.entry import Record, Root
from retrieval.gallery.store.noting import Noting, Seen
from retrieval.gallery.store.pictures import Pictures
from retrieval.gallery.store.rows import Rows
from retrieval.gallery.store.unread import REPAIR

__all__ = ["REPAIR", "Catalog", "LogState", "Record", "Root", "Seen"]


class Catalog(ChangeLog, Pictures, Rows, Noting):
    """All of the catalog: its file (``base.py``), folders, pictures, rows of vectors, and the log of changes."""

    def check(self, *, thoroughly: bool = True) -> None:
        """Raises GalleryDamaged when SQLite's own consistency check fails (``thoroughly``: also of what finds entries), an entry
        makes no sense, or a checksum does not fit."""
        self.check_file(thoroughly=thoroughly)
        self.check_head()
        self.check_complete(self.count_searchable())  # by the index of rows
        roots = {root.id for root in self.roots()}
        count = self.number("vector_count")
        for key in ("version", "generation", "log_start", "compaction_due"):
            self.number(key)
        troubled = 0
        for record in self.records():
            troubled += record.error is not None
            if record.root not in roots or (record.row is not None and record.row >= count):
                raise GalleryDamaged(f"{self.path} is damaged: its entry of picture {record.id}", REPAIR)
        if troubled != len(self.troubled()):
            raise GalleryDamaged(f"{self.path} is damaged: its index of what could not be read", REPAIR)

    def check_once(self) -> None:
        """The check before a run, for its writer; not again for a file that passed it as it is."""
        self.empty_log()
        content = proof.content(self.path)
        if not proof.has_passed(self.path, content):
            self.check(thoroughly=False)
            proof.keep(self.path, content)

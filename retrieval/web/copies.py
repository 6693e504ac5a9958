"""Groups of duplicates for the page: found once in the background for each state of a gallery."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from retrieval.errors import RetrievalError
from retrieval.gallery.duplicates.answers import Duplicates, Level
from retrieval.gallery.duplicates.keep import reasons_to_keep
from retrieval.messages import Update, log
from retrieval.web.errors import as_api_error
from retrieval.web.served import Served
from retrieval.web.telling import shown


class CopiesSearch:
    """The search for duplicates of one gallery: one at a time, its last answer for each level kept."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self._turn = threading.Lock()
        self._done: dict[str, tuple[int, dict[str, Any]]] = {}
        self._running: str | None = None
        self._stage, self._progress = "", (0, 0)

    def ask(self, level: Level, first: int, count: int) -> dict[str, Any]:
        """The groups from the place ``first`` on, or how far the search is that this starts."""
        version = self._version()
        with self._turn:
            known = self._done.get(level)
            if known is not None and known[0] == version:
                groups = known[1]["groups"]
                return {**known[1], "groups": groups[first : first + count], "total": len(groups)}
            if self._running is None:
                self._running, self._stage, self._progress = level, "", (0, 0)
                threading.Thread(target=self._work, args=(level, version), name="copies", daemon=True).start()
            done, total = self._progress
            return {
                "state": "running",
                "level": level,
                "stage": self._stage,
                "done": done,
                "of": total,
                "groups": [],
                "total": 0,
            }

    def _version(self) -> int:
        catalog = self.served.gallery.catalog
        with catalog.reading():
            return catalog.number("version")

    def _work(self, level: Level, version: int) -> None:
        try:
            duplicates = self.served.gallery.duplicates(level, bars=self._bars)
            with self._turn:  # shown now, and judged while they are looked at: that opens every copy
                self._done[level] = (version, self._told(duplicates, None))
            with self._bars("which to keep") as update:
                found = self._told(duplicates, reasons_to_keep(duplicates, update))
        except RetrievalError as error:
            found = {"state": "failed", "level": level, "message": as_api_error(error).message, "groups": []}
        except Exception as error:
            log().error("the search for duplicates failed", exc_info=error)
            found = {
                "state": "failed",
                "level": level,
                "message": "The search failed; the log tells why.",
                "groups": [],
            }
        with self._turn:
            self._done[level] = (version, found)
            self._running = None

    @contextmanager
    def _bars(self, label: str) -> Iterator[Update]:
        self._stage, self._progress = label, (0, 0)

        def update(done: int, total: int) -> None:
            self._progress = (done, total)

        yield update

    def _told(self, found: Duplicates, kept: dict[str, str] | None) -> dict[str, Any]:
        """``kept``: reasons by path, None while they are looked for."""
        served = self.served
        ids = [member.id for group in found.groups for member in group.members if member.id is not None]
        with served.gallery.catalog.reading():
            records = served.gallery.catalog.by_ids(ids)
        labels = served.labels()
        groups = []
        for group in found.groups:
            members = [
                {
                    **served.picture(records[m.id], labels, whole=True),
                    "score": m.score,
                    "relation": m.relation,
                    "verified": m.verified,
                    "best": m.best,
                    "kept": "not looked at yet" if kept is None and not m.best else (kept or {}).get(m.path),
                }
                for m in group.members
                if m.id in records
            ]
            if len(members) > 1:
                groups.append({"kind": group.kind, "members": members})
        unread = [{"path": shown(name).rpartition("/")[2], "reason": why} for name, why in found.unread.items()]
        return {
            "state": "done",
            "level": found.level,
            "judging": kept is None,
            "pictures": found.pictures,
            "groups": groups,
            "unread": unread,
        }

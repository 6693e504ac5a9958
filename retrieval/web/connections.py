"""Connections to a gallery on a server: a request has one to itself, and one that broke is replaced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from retrieval.backends.connect import connect
from retrieval.backends.served import ServedGallery
from retrieval.errors import GalleryDamaged, GalleryError, GalleryMismatch, GalleryMissing

T = TypeVar("T")
_IDLE = 8  # kept open
_FRESH = 60.0  # seconds; then what the gallery's description says is read anew


class Connections:
    """Of the gallery that ``first`` has opened, which stays the caller's to close."""

    def __init__(self, first: ServedGallery) -> None:
        self.first = first
        self._idle = [(time.monotonic(), first)]
        self._turn = threading.Lock()
        self._closed = False

    def ask(self, task: Callable[[ServedGallery], T]) -> T:
        """The result of ``task``, which may be done twice: a connection that lay idle may have ended with its server meanwhile.
        Raises what the task raises, and GalleryError where there is no connection."""
        idle = self._taken()
        if idle is not None:
            try:
                return self._done(*idle, task)
            except (GalleryDamaged, GalleryMismatch, GalleryMissing):
                raise
            except GalleryError:
                self._drop_idle()  # of the same age as the one that broke
        return self._done(time.monotonic(), self._another(), task)

    def _taken(self) -> tuple[float, ServedGallery] | None:
        """One that lies idle; those that have grown old are let go."""
        now, old = time.monotonic(), []
        with self._turn:
            fresh = [one for one in self._idle if now - one[0] < _FRESH]
            old = [one for one in self._idle if now - one[0] >= _FRESH]
            found = fresh.pop() if fresh else None
            self._idle = fresh
        self._let_go(old)
        return found

    def _another(self) -> ServedGallery:
        known = self.first
        address = known.backend.address
        made = ServedGallery(address, connect(address), known.model, known.model.engine_name, known.say)
        if made.spec.fingerprint != known.spec.fingerprint:
            made.close()
            raise GalleryMismatch(f"{made.folder} is another gallery now than the one that was opened")
        return made

    def _done(self, since: float, gallery: ServedGallery, task: Callable[[ServedGallery], T]) -> T:
        try:
            result = task(gallery)
        except GalleryError:
            self._let_go([(since, gallery)])
            raise
        except BaseException:
            self._back(since, gallery)
            raise
        self._back(since, gallery)
        return result

    def _back(self, since: float, gallery: ServedGallery) -> None:
        with self._turn:
            if len(self._idle) < _IDLE and not self._closed:
                self._idle.append((since, gallery))
                return
        self._let_go([(since, gallery)])

    def _drop_idle(self) -> None:
        with self._turn:
            idle, self._idle = self._idle, []
        self._let_go(idle)

    def _let_go(self, galleries: list[tuple[float, ServedGallery]]) -> None:
        for _, gallery in galleries:
            if gallery is not self.first:
                gallery.close()

    def close(self) -> None:
        """All but the first."""
        self._closed = True
        self._drop_idle()

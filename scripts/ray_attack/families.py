"""Processes and all that they ever started, also what outlived its parent: what may be left behind is known by name."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import psutil

_LOOK_SECONDS = 0.1


class Family:
    """A process and its descendants, looked at ten times a second for as long as the block runs."""

    def __init__(self, pid: int) -> None:
        self.first = psutil.Process(pid)
        self._known: dict[tuple[int, float], psutil.Process] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Family:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        for process in [self.first, *self._known.values()]:
            with suppress(psutil.Error):
                for child in process.children(recursive=True):
                    self._known.setdefault((child.pid, child.create_time()), child)

    def alive(self) -> list[psutil.Process]:
        """Descendants that run; what has ended and was not asked for yet does not."""
        found = []
        for process in list(self._known.values()):
            with suppress(psutil.Error):
                if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def left_after(self, seconds: float) -> list[str]:
        """What still runs so long after; it is ended then, so that nothing stays behind."""
        end = time.monotonic() + seconds
        while (left := self.alive()) and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        told = []
        for process in left:
            with suppress(psutil.Error):
                told.append(f"{process.pid} {' '.join(process.cmdline())[:80]}")
                process.kill()
        return told

"""How much is decoded at one time: pictures wait until those before them leave enough memory; giants go one by one."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Lets as many in as their needs allow together, in the order in which they came; the first always gets in."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._held = 0.0

    @contextmanager
    def room(self, need: float, most: float) -> Iterator[None]:
        """Waits until ``need`` bytes fit beside what others hold, into ``most`` bytes; they are held while this is open."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: self._waiting[0] is ticket and (self._held == 0 or self._held + need <= most)
                )
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
            self._held += need
        try:
            yield
        finally:
            with self._changed:
                self._held = self._held - need if self._held > need else 0.0
                self._changed.notify_all()

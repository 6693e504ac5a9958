"""When the curves of a run are drawn: drawing takes about a third of a second, which short epochs must not pay each."""

from __future__ import annotations

import time

_SECONDS = 30.0


class Seldom:
    """Says when something is due: the first time, once half a minute has passed since the last time, and at the end what
    is not done yet."""

    def __init__(self) -> None:
        self._done: float | None = None
        self._waiting = False

    def due(self) -> bool:
        """Asked each time that there is something new; True counts as done."""
        now = time.monotonic()
        self._waiting = self._done is not None and now - self._done < _SECONDS
        if not self._waiting:
            self._done = now
        return not self._waiting

    def left(self) -> bool:
        """Whether the last answer was no: asked at the end."""
        return self._waiting

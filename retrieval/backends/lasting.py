"""A lost connection is opened again. What is asked or written is then done once more, so it must do no harm to do it twice."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from retrieval.errors import GalleryError

F = TypeVar("F", bound=Callable[..., Any])

_WAITS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)  # seconds before each further try: a server that restarts wants some


class ConnectionLost(GalleryError):
    """The server went away, or is not back yet."""


class Connected(Protocol):
    def restore(self) -> None:
        """Open the connection anew where it is lost. Raises ConnectionLost."""


def lasting(method: F) -> F:
    """For a method that reads, or writes what may be written twice. Raises ConnectionLost once the server stayed away for eight
    seconds, whatever the method raises else."""

    @functools.wraps(method)
    def tried(self: Connected, *arguments: Any, **named: Any) -> Any:
        for wait in (*_WAITS, None):
            try:
                self.restore()
                return method(self, *arguments, **named)
            except ConnectionLost:
                if wait is None:
                    raise
                time.sleep(wait)
        raise AssertionError

    return tried  # type: ignore[return-value]

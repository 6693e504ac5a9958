"""Work that can be called off: whoever does much in one go asks between two steps whether anybody still waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from retrieval.errors import CalledOff

_asked: ContextVar[Callable[[], bool] | None] = ContextVar("called_off", default=None)


@contextmanager
def may_be_called_off(asked: Callable[[], bool]) -> Iterator[None]:
    """Within the block, in this thread, :func:`go_on` raises CalledOff once ``asked()`` is true."""
    before = _asked.set(asked)
    try:
        yield
    finally:
        _asked.reset(before)


def go_on() -> None:
    """Raises CalledOff where nobody waits any more; outside of such a block nothing happens."""
    asked = _asked.get()
    if asked is not None and asked():
        raise CalledOff("called off")

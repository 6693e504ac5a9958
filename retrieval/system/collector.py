"""Making very many small objects at once, without Python's garbage collector looking through them again and again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_rest() -> Iterator[None]:
    """Python's collector rests inside: for what makes many objects in one go, none of which refers to itself. It looks through
    all objects that there are whenever a quarter as many have come, which takes longer than making them. Of the whole
    process."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

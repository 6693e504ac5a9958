"""Paths as a user reads them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_HERE: ContextVar[str | None] = ContextVar("here", default=None)


@contextmanager
def seen_from(folder: str) -> Iterator[None]:
    """In this thread, paths are shown for a user whose current folder is ``folder``."""
    token = _HERE.set(folder)
    try:
        yield
    finally:
        _HERE.reset(token)


def show_path(absolute: str) -> str:
    """A path as a user wants to read it: relative when it lies below the current folder; it opens as printed."""
    try:
        here = _HERE.get() or os.getcwd()
    except OSError:
        return absolute
    return os.path.relpath(absolute, here) if absolute.startswith(here.rstrip(os.sep) + os.sep) else absolute


def nearly(path: str) -> str:
    """Of a path to nothing, what may be meant: " (did you mean ./messy?)" where a neighbour is called nearly so, else ""."""
    from difflib import get_close_matches  # only here: most paths lead to something

    folder, name = os.path.split(os.path.abspath(path))
    try:
        close = get_close_matches(name, os.listdir(folder), n=1, cutoff=0.75)
    except OSError:
        return ""
    return f" (did you mean {os.path.join(os.path.dirname(path.rstrip(os.sep)), close[0])}?)" if close else ""


def composed(text: str) -> str:
    """Text in Unicode's composed form (NFC), in which names that look the same are the same."""
    return unicodedata.normalize("NFC", text)


def as_on_disk(folder: str | os.PathLike[str], relative: str) -> str:
    """The path, relative to ``folder``, under which a file lies there: as given, or the one that differs from it in Unicode's
    composed and decomposed forms alone; as given too where there is neither."""
    if relative.isascii() or os.path.lexists(os.path.join(folder, relative)):
        return relative
    here, found = os.fspath(folder), []
    for part in relative.split(os.sep):
        if part in ("", ".", "..") or os.path.lexists(os.path.join(here, part)):
            real = part
        else:
            try:
                real = next(name for name in sorted(os.listdir(here)) if composed(name) == composed(part))
            except (OSError, StopIteration):
                return relative
        found.append(real)
        here = os.path.join(here, real)
    return os.sep.join(found)

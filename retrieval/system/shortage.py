"""What a process may have too little of for a moment."""

from __future__ import annotations

import errno

_NUMBERS = {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN}
_SIGNS = (
    "out of memory",
    "not enough memory",
    "cannot allocate",
    "can't allocate",
    "could not allocate",
    "unable to allocate",
    "bad_alloc",
    "failed to map segment",
    "too many open files",
    "can't start new thread",
)


def is_shortage(error: BaseException) -> bool:
    """Whether an error, or what caused it, comes of too little memory, or of too many files or threads: it says nothing of what
    was being worked on. The system tells so by a number, libraries in errors of many kinds by their words alone."""
    if isinstance(error, OSError) and error.errno is not None:
        told = error.errno in _NUMBERS
    else:
        text = str(error).lower()
        told = isinstance(error, MemoryError) or any(sign in text for sign in _SIGNS)
    return told or (error.__cause__ is not None and is_shortage(error.__cause__))

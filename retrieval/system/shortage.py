"""What a process may have too little of for a moment."""

from __future__ import annotations

import errno

_NUMBERS = {errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN}
_SIGNS = ("memory", "alloc", "failed to map segment", "too many open files", "can't start new thread")


def is_shortage(error: BaseException) -> bool:
    """Whether an error, or what caused it, comes of too little memory, or of too many files or threads: it says nothing of what
    was being worked on. Libraries tell so in errors of many kinds, by their words alone."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _NUMBERS):
        return True
    text = str(error).lower()
    cause = error.__cause__
    return any(sign in text for sign in _SIGNS) or (cause is not None and is_shortage(cause))

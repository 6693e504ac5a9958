"""The stack that a thread's signals are handled on, kept where a library changes it.

OpenVINO's plugin for processors gives the thread that loads it a signal stack of its own, and takes the memory away when
the last model goes, be it in another thread. Python handles signals on such a stack: Ctrl-C then ended the process without a word
(SIGSEGV). Elsewhere than on Linux nothing is done.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_DISABLE = 2  # SS_DISABLE


class _Stack(ctypes.Structure):
    """stack_t of Linux."""

    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """When this ends, the calling thread has the signal stack that it had before, or none where that is too small by now."""
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    before = _Stack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        if libc.sigaltstack(ctypes.byref(before), None) != 0:
            libc.sigaltstack(ctypes.byref(_Stack(None, _DISABLE, 0)), None)

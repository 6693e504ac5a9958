"""The C library's heap: big maps that come and go for every picture should not go back to the system in between.

glibc takes every block of more than 32 MB from the system and returns it when it is freed. Fresh memory costs a page fault for
each 4 KB, and a network on a CPU asks for hundreds of megabytes a picture: measured (docs/speed.md), a tenth to a third of the
time of ResNet-50 at 1024 pixels and half of EfficientNet-Lite0's. Elsewhere than with glibc these functions do nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt's parameters
_MOST = 2**31 - 1


def keep_freed_memory() -> None:
    """From now on, blocks of any size come from the heap, and the process keeps what it frees for the next one.

    It holds for the whole process. Rules for the heap in the environment (``MALLOC_...``, ``GLIBC_TUNABLES``) stay in force.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    setting = _libc("mallopt")
    if setting is not None:
        setting(_MMAP_MAX, 0)
        setting(_TRIM_THRESHOLD, _MOST)
        # For torch, which looks once, at its first big block: pages of 2 MB, so that what is returned costs less to get again.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


class _Usage(ctypes.Structure):
    """struct mallinfo2, glibc 2.33 and later: ten counts, the ninth being the free bytes."""

    _fields_ = [("before", ctypes.c_size_t * 8), ("free", ctypes.c_size_t), ("after", ctypes.c_size_t)]


def return_freed_memory(above: int) -> None:
    """Give the heap's free pages back to the system if they are more than ``above`` bytes (as far as the C library can tell)."""
    trim, usage = _libc("malloc_trim"), _libc("mallinfo2")
    if trim is None:
        return
    if usage is not None:
        usage.restype = _Usage
        if usage().free <= above:
            return
    trim(0)


def _libc(function: str) -> ctypes._NamedFuncPointer | None:
    return getattr(ctypes.CDLL(None), function, None) if sys.platform == "linux" else None

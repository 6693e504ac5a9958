"""What this machine's processor can do, as far as the system says."""

from __future__ import annotations

import functools


@functools.cache
def processor_flags() -> str:
    """The line of abilities in /proc/cpuinfo ("flags : fpu ... avx2 ..."); "" where there is none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return ""

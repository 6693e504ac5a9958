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


def has_bf16() -> bool:
    """Whether it multiplies bfloat16 numbers faster than float32: AVX-512 BF16, AMX, or Arm's BF16."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(processor_flags().split())


def has_vnni() -> bool:
    """Whether it adds up products of bytes in 32 bits, so that none overflows: VNNI, or Arm's dot products."""
    return not {"avx512_vnni", "avx_vnni", "asimddp"}.isdisjoint(processor_flags().split())

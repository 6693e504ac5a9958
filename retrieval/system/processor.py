"""What this machine's processor can do, as far as the system says."""

from __future__ import annotations

import functools
import os

# Levels of oneDNN without such instructions, whatever the processor has: asked for them all the same, OpenVINO crashes.
_WITHOUT_VNNI = {"SSE41", "AVX", "AVX2", "AVX512_CORE"}
_WITHOUT_BF16 = _WITHOUT_VNNI | {"AVX2_VNNI", "AVX512_CORE_VNNI"}


@functools.cache
def processor_flags() -> str:
    """The line of abilities in /proc/cpuinfo ("flags : fpu ... avx2 ..."); "" where there is none."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            return next((line for line in file if line.startswith(("flags", "Features"))), "")
    except OSError:
        return ""


def allowed_cores() -> int:
    """How many cores the system lets this process run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bf16() -> bool:
    """Whether it multiplies bfloat16 numbers faster than float32: AVX-512 BF16, AMX, or Arm's BF16."""
    return _level() not in _WITHOUT_BF16 and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(
        processor_flags().split()
    )


def has_vnni() -> bool:
    """Whether it adds up products of bytes in 32 bits, so that none overflows: VNNI, or Arm's dot products."""
    return _level() not in _WITHOUT_VNNI and not {"avx512_vnni", "avx_vnni", "asimddp"}.isdisjoint(
        processor_flags().split()
    )


def _level() -> str:
    """What oneDNN, which computes for torch and OpenVINO, is told to keep to; "" for all there is."""
    return os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "")).upper()

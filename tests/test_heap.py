"""The heap's rules, in processes of their own: page faults of blocks that come and go, and memory given back."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="these are glibc's rules")

COUNT = """
import ctypes, os, resource, sys
from retrieval.system.heap import keep_freed_memory, return_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
MEGABYTE = 1 << 20
def use(megabytes):
    block = libc.malloc(megabytes * MEGABYTE)
    ctypes.memset(block, 1, megabytes * MEGABYTE)
    libc.free(block)
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // MEGABYTE
if "keep" in sys.argv: keep_freed_memory()
use(100)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5): use(80)
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * os.sysconf("SC_PAGE_SIZE") // MEGABYTE)
held = resident()
return_freed_memory(above=200 * MEGABYTE)
print(held - resident())
return_freed_memory(above=50 * MEGABYTE)
print(held - resident())
"""


def measured(*arguments: str, **environment: str) -> list[int]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", COUNT, *arguments]
    done = subprocess.run(command, env={**clean, **environment}, capture_output=True, text=True, check=True)
    return [int(line) for line in done.stdout.split()]


def test_kept_memory_is_used_again_and_returned_when_asked() -> None:
    fresh, below, above = measured("keep")
    assert fresh < 10  # MB that came from the system
    assert below < 10
    assert above > 80


@pytest.mark.parametrize("rules", [{}, {"MALLOC_ARENA_MAX": "2"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}])
def test_rules_of_the_environment_stay(rules: dict[str, str]) -> None:
    fresh, _, _ = measured(*(["keep"] if rules else []), **rules)
    assert fresh > 350  # as glibc does it: five times 80 MB anew

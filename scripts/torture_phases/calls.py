"""System calls of a process that change files below a folder: counted, stopped at, written down. See ``calls.c``."""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_HEAD = struct.Struct("<5q")
_SOURCE = Path(__file__).with_name("calls.c")


class CannotWatch(Exception):
    """There is no C compiler here, or the system is none where calls can be watched."""


def environment() -> dict[str, str]:
    """What a process takes to be watched. Raises CannotWatch."""
    return {"LD_PRELOAD": str(library()), "OMP_NUM_THREADS": "1"}


@functools.cache
def library() -> Path:
    """The compiled ``calls.c``, made once for each text of it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CannotWatch("no C compiler is here")
    path = Path(tempfile.gettempdir()) / f"torture-calls-{os.getuid()}-{hash_of(_SOURCE.read_bytes())}.so"
    if not path.exists():
        beside = path.with_suffix(f".{os.getpid()}")
        command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(beside), str(_SOURCE), "-ldl", "-lpthread"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise CannotWatch(f"calls.c cannot be compiled here: {done.stderr.strip():.200}")
        os.replace(beside, path)
    return path


def hash_of(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()[:16]


@dataclass(frozen=True)
class Event:
    """Something that was done: "C"reate, "W"rite, "T"runcate, "S"ync of a file with its content, sync of a "D"irectory, "R"ename,
    "U"nlink, "M"ake a folder, "A"cknowledge: the program said that so much is done."""

    kind: str
    path: str
    other: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Ended:
    """How a watched run ended: ``killed``, or by itself with ``error`` ("" for none) after ``calls`` calls."""

    killed: bool
    error: str
    calls: int
    events: list[Event]

    @property
    def acknowledged(self) -> int:
        return max((event.offset for event in self.events if event.kind == "A"), default=0)


def watched(act: Callable[[Callable[[int], None]], None], folder: Path, stop: int, half: bool, scratch: Path) -> Ended:
    """Run ``act(mark)`` in a process of its own, ended by SIGKILL at call number ``stop`` (-1: never) below ``folder``."""
    shim: Any = ctypes.CDLL(None)
    log, said = scratch / "calls.log", scratch / "said"
    with open(log, "wb", buffering=0) as out, open(said, "wb", buffering=0) as words:
        child = os.fork()
        if child == 0:  # nothing may return from here
            status = 1
            try:
                shim.torture_arm(os.fsencode(folder), ctypes.c_long(stop), int(half), out.fileno())
                act(lambda number: shim.torture_mark(ctypes.c_long(number)))
                words.write(str(shim.torture_count()).encode())
                status = 0
            except BaseException as error:
                words.write(f"{type(error).__name__}: {error}"[:500].encode())
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
    text = said.read_text()
    killed = os.WIFSIGNALED(status)
    good = not killed and os.WEXITSTATUS(status) == 0
    return Ended(
        killed, "" if good or killed else text or f"status {status}", int(text) if good else 0, [*_events(log)]
    )


def _events(log: Path) -> Iterator[Event]:
    data = log.read_bytes()
    place = 0
    while place + _HEAD.size <= len(data):
        kind, path, other, offset, size = _HEAD.unpack_from(data, place)
        first = place + _HEAD.size
        second, third = first + path, first + path + other
        place = third + size
        yield Event(
            chr(kind), os.fsdecode(data[first:second]), os.fsdecode(data[second:third]), offset, data[third:place]
        )

"""Where the socket of a gallery lies, and how both ends write to it: lines of JSON. Light to import."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from io import BufferedIOBase
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from retrieval.pictures.limits import MEMORY_VARIABLE, SECONDS_VARIABLE

SWITCH = "RETRIEVE_NO_SERVER"  # set to anything: never ask another process
SIGN_EVERY = 1.0  # seconds between signs that an answer is being made
MOST_OF_A_LINE = 256 << 20  # bytes

Stream: TypeAlias = "BinaryIO | BufferedIOBase"


def available() -> bool:
    """Whether this system has sockets that are files."""
    return hasattr(os, "getuid")


def sockets_folder(*, create: bool = False) -> Path | None:
    """A folder that belongs to this user and that no other can enter; None where there is none to be trusted."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = Path(base, "retrieval") if base else Path(os.environ.get("TMPDIR") or "/tmp", f"retrieval-{os.getuid()}")
    try:
        if create:
            folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o077
    return folder if mine else None


def socket_name(gallery: str | os.PathLike[str]) -> str:
    """The name of the socket for the gallery in a folder: of a fixed length, since addresses are at most 107 bytes long."""
    return hashlib.sha256(os.fsencode(os.path.realpath(gallery))).hexdigest()[:24] + ".sock"


def identity_of(description: dict[str, Any]) -> list[Any]:
    """What tells the gallery that was opened from another one that lies in its place by now."""
    return [description.get("created"), description.get("fingerprint")]


def circumstances() -> list[str]:
    """What else an answer depends on in a process: limits of pictures."""
    return [os.environ.get(name, "") for name in (MEMORY_VARIABLE, SECONDS_VARIABLE)]


def send(stream: Stream, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def receive(stream: Stream) -> dict[str, Any]:
    """The next message. Raises OSError where the other end is gone, or says what is none."""
    line = stream.readline(MOST_OF_A_LINE)
    try:
        message = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise ConnectionError("the other process ended, or speaks another language")
    return message

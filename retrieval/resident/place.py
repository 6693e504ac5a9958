"""Where the socket of a gallery lies. Light to import."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

try:
    from _blake2 import blake2b  # Python's own; hashlib first reads OpenSSL's library, which takes a while
except ImportError:
    from hashlib import blake2b

if TYPE_CHECKING:
    import socket

SWITCH = "RETRIEVE_NO_SERVER"  # set to anything: never ask another process


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
    return blake2b(os.fsencode(os.path.realpath(gallery)), digest_size=12).hexdigest() + ".sock"


def socket_of(gallery: str | os.PathLike[str]) -> Path | None:
    """The socket at which another process of this user may hold the gallery in a folder; None where none does, or none is to be
    asked."""
    folder = None if not available() or os.environ.get(SWITCH) else sockets_folder()
    path = None if folder is None else folder / socket_name(gallery)
    return path if path is not None and path.exists() else None


def connected(path: Path, patience: float, first: bytes = b"") -> socket.socket:
    """A connection to the process behind a socket, which is waited for so many seconds, and to which ``first`` was sent. Raises
    OSError."""
    import socket  # only here, where somebody listens

    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(patience)
        connection.connect(os.fspath(path))
        connection.sendall(first)
    except OSError:
        connection.close()
        raise
    return connection

"""Where the socket of a gallery lies. Imports next to nothing."""

from __future__ import annotations

import os
import stat

try:
    from _blake2 import blake2b  # Python's own; hashlib first reads OpenSSL's library, which takes a while
except ImportError:
    from hashlib import blake2b

SWITCH = "RETRIEVE_NO_SERVER"  # set to anything: never ask another process


def available() -> bool:
    """Whether this system has sockets that are files."""
    return hasattr(os, "getuid")


def sockets_folder(*, create: bool = False) -> str | None:
    """A folder that belongs to this user and that no other can enter; None where there is none to be trusted."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    folder = (
        os.path.join(base, "retrieval")
        if base
        else os.path.join(os.environ.get("TMPDIR") or "/tmp", f"retrieval-{os.getuid()}")
    )
    try:
        if create:
            from contextlib import suppress

            with suppress(FileExistsError):
                os.mkdir(folder, 0o700)
        state = os.lstat(folder)
    except OSError:
        return None
    mine = stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o077
    return folder if mine else None


def socket_name(gallery: str | os.PathLike[str]) -> str:
    """The name of the socket for the gallery in a folder: of a fixed length, since addresses are at most 107 bytes long."""
    return blake2b(os.fsencode(os.path.realpath(gallery)), digest_size=12).hexdigest() + ".sock"


def socket_of(gallery: str | os.PathLike[str]) -> str | None:
    """The socket at which another process of this user may hold the gallery in a folder; None where none does, or none is to be
    asked."""
    folder = None if not available() or os.environ.get(SWITCH) else sockets_folder()
    path = None if folder is None else os.path.join(folder, socket_name(gallery))
    return path if path is not None and os.path.exists(path) else None


def connected(path: str, patience: float, first: bytes = b"") -> int:
    """A connection to the process behind a socket, which is waited for so many seconds, and to which ``first`` was sent: its file
    descriptor. Raises OSError."""
    try:
        import _socket as sockets  # what Python's module wraps, whose import takes as long as all that was imported so far
    except ImportError:
        import socket as sockets  # type: ignore[no-redef]

    connection = sockets.socket(sockets.AF_UNIX)
    try:
        connection.settimeout(patience)
        connection.connect(path)
        connection.sendall(first)
        return connection.detach()
    finally:
        connection.close()

"""One writer at a time. The lock is the operating system's, so it ends with its process however that ends."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from retrieval.errors import GalleryError, GalleryLocked


class WriterLock:
    """``with WriterLock(folder):`` holds the gallery for writing. Raises GalleryLocked, which says who has it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lock"
        self._file: int | None = None

    def __enter__(self) -> WriterLock:
        try:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise GalleryError(f"cannot write in the gallery {self.path.parent}: {error.strerror}") from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = self._holder(file)
            os.close(file)
            raise GalleryLocked(
                f"the gallery {self.path.parent} is being written by {holder}",
                "Wait for it, or stop it, then run this again.",
            ) from error
        self._file = file
        try:
            os.ftruncate(file, 0)
            note = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
            os.pwrite(file, json.dumps(note).encode(), 0)
        except OSError:
            pass  # a full disk: the lock holds all the same, it only cannot say for whom
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @staticmethod
    def _holder(file: int) -> str:
        try:
            note = json.loads(os.pread(file, 4096, 0))
            return f"process {note['pid']} on {note['host']} since {note['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

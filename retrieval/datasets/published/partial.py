"""A file on its way: what has arrived of it, beside its place.

While it arrives the file is ``NAME.part``; ``NAME.part.json`` keeps what tells one version on the server from another
(ETag or date), so that a later run continues the same version and no other. A lock on the part keeps two downloads of
one file apart and ends with its process.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import IO, Any

from retrieval.errors import DownloadError


class Part:
    """The growing file beside its target, locked; knows its length, its hash so far, and which version it is of."""

    def __init__(self, target: Path, url: str) -> None:
        self.target = target
        self.path = target.with_name(target.name + ".part")
        self._state = target.with_name(target.name + ".part.json")
        self._url = url
        self.etag = self.validator = ""
        self.total: int | None = None
        self.bytes = 0
        self._hash = hashlib.sha256()

    def __enter__(self) -> Part:
        self._file = _locked(self.path, self.target)
        self._read_state()
        length = os.fstat(self._file.fileno()).st_size
        if length and (not self.validator or (self.total is not None and length > self.total)):
            self.restart()
            length = 0
        self._file.seek(0)
        while block := self._file.read(1 << 20):
            self._hash.update(block)
        self.bytes = length
        return self

    def __exit__(self, *_: object) -> None:
        if self.bytes == 0:  # nothing to continue; removed while the lock still holds
            self.path.unlink(missing_ok=True)
            self._state.unlink(missing_ok=True)
        self._file.close()

    def _read_state(self) -> None:
        try:
            state = json.loads(self._state.read_bytes())
            if state["url"] == self._url:
                self.etag, self.validator, self.total = str(state["etag"]), str(state["validator"]), state["total"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # unknown: the part is begun afresh

    def begin(self, total: int | None, headers: Any) -> None:
        """Note the version that is arriving, and that the disk can hold it."""
        if total is not None:
            free = shutil.disk_usage(self.path.parent).free
            if free < total - self.bytes:
                raise OSError(errno.ENOSPC, f"{total - self.bytes} bytes are to come and {free} are free")
        self.total = total
        if self.bytes == 0:
            self.etag = headers.get("ETag", "").strip()
            strong = self.etag and not self.etag.startswith("W/")  # RFC 9110: If-Range takes no weak ETag
            self.validator = self.etag if strong else headers.get("Last-Modified", "").strip()
        state = {"url": self._url, "etag": self.etag, "validator": self.validator, "total": total}
        self._state.write_text(json.dumps(state))

    def write(self, block: bytes) -> None:
        self._file.write(block)
        self._hash.update(block)
        self.bytes += len(block)

    def restart(self) -> None:
        """Forget what has arrived."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.bytes, self.total, self.etag, self.validator = 0, None, "", ""

    def digest(self) -> str:
        return self._hash.hexdigest()

    def finish(self) -> None:
        """Give the complete file its name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(self.path, self.target)
        self._state.unlink(missing_ok=True)


def _locked(path: Path, target: Path) -> IO[bytes]:
    """The file at ``path``, opened for reading and writing, ours alone. Raises DownloadError when another has it."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise DownloadError(
                f"{target} is being downloaded by another process", "Wait for it, then run this again."
            ) from error
        # Between opening and locking, the other process may have finished and given this very file its name.
        try:
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        except FileNotFoundError:
            pass
        file.close()

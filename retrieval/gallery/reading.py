"""A picture's file as it was when it was read: its content, content hash, size and times, noted together."""

from __future__ import annotations

import os
import time
from typing import Protocol

from retrieval.errors import ImageError
from retrieval.pictures.scan import look

# A file written this shortly before it was read may change again within the clock's grain: it is looked at once more.
_RACY_NS = 2_000_000_000


class Noted(Protocol):
    """What is read: ``file`` is its path; ``digest`` and what :meth:`note` gets are filled in."""

    file: str
    digest: str

    def note(self, size: int, mtime_ns: int, ctime_ns: int, inode: int) -> None:
        """The file as it was when it was read."""


def read_noted(work: Noted) -> bytes | str:
    """The file's bytes (or its path, when it is very big), with size, time and hash noted as of the reading. Raises ImageError,
    and what was noted until then stays."""
    from retrieval.pictures.content import content_of
    from retrieval.pictures.readers import open_file

    found = look(work.file, "")
    if found.problem is not None:
        raise ImageError(found.problem, transient=True)
    work.note(found.size, _settled(found.mtime_ns), found.ctime_ns, found.inode)
    try:
        with open_file(work.file) as file:
            status = os.fstat(file.fileno())
            work.note(status.st_size, _settled(status.st_mtime_ns), status.st_ctime_ns, status.st_ino)
            data, work.digest = content_of(file, work.file)
    except OSError as error:
        raise ImageError(error.strerror or str(error), transient=True) from error
    return data


def _settled(mtime_ns: int) -> int:
    """The time of a file as it is noted: none of a file that may still change within the clock's grain."""
    return mtime_ns if time.time_ns() - mtime_ns > _RACY_NS else -1

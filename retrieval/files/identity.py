"""Whether two names lead to one thing."""

from __future__ import annotations

import os


def identity(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Device and inode of what a path leads to, the same by whatever name; None where there is nothing."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino

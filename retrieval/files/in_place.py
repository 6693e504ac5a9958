"""Writing into a file that is there, where :mod:`retrieval.files.whole` would have to copy it."""

from __future__ import annotations

import os


def write_at(descriptor: int, offset: int, data: bytes | memoryview) -> None:
    """Write all of ``data`` from ``offset`` on and force it to the disk. Raises OSError."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    os.fsync(descriptor)

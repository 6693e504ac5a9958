"""What a picture is called in a served gallery."""

from __future__ import annotations

from retrieval.errors import UsageError
from retrieval.parts.part import Row
from retrieval.parts.places import local_uri


def name_of(row: Row) -> str:
    """What a picture is called: its file's path, or its key. Where a path is not UTF-8, its URI."""
    if row.file is None:
        return row.key
    return storable(row.file)


def storable(path: str) -> str:
    """A path as engines can keep it: one that is not UTF-8 as its URI."""
    if "\0" in path:
        raise UsageError("a name holds no null bytes")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return local_uri(path)
    return path

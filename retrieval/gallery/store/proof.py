"""A catalog whose file is, to the byte, one that passed its check need not be looked through again.

The hash of a file that passed is kept beside it in ``catalog.checked``, which may be deleted at any time. Reading a file for its
hash takes a hundredth of what looking at its entries does.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from retrieval.files.digest import file_sha256
from retrieval.files.whole import write_whole

_SUFFIX = ".checked"


def content(path: Path) -> str | None:
    """The hash of a catalog's file, for who holds its lock; None where its log may hold more, or it cannot be read."""
    try:
        log = path.with_name(f"{path.name}-wal")
        return None if log.exists() and log.stat().st_size else file_sha256(path)
    except OSError:
        return None


def has_passed(path: Path, digest: str | None) -> bool:
    """Whether a file of this content passed."""
    try:
        return digest is not None and path.with_suffix(_SUFFIX).read_text("ascii") == digest
    except (OSError, ValueError):
        return False


def keep(path: Path, digest: str | None) -> None:
    """Note that a file of this content passed, where the folder can be written to."""
    if digest is not None:
        with suppress(OSError):
            write_whole(path.with_suffix(_SUFFIX), digest)

"""What is said of a gallery's file that cannot be read: damage is only what is not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from retrieval.errors import GalleryDamaged, GalleryError
from retrieval.files.withheld import may_be_whole

REPAIR = "Run `retrieve index --repair`."
_WITHHELD = "It may be whole: mend that and run this again; to do without what it holds, move it away first."


def unread(path: Path, error: OSError, repair: str = REPAIR) -> GalleryError:
    """The error to raise; GalleryDamaged, with ``repair`` as its hint, where there is no such file."""
    why = f"{path} cannot be read ({error.strerror or error})"
    return GalleryError(why, _WITHHELD) if may_be_whole(error) else GalleryDamaged(why, repair)


def size_of(path: Path) -> int:
    """Bytes of a file, -1 where there is none. Raises GalleryError where that cannot be told."""
    try:
        found = os.stat(path)
    except OSError as error:
        if may_be_whole(error):
            raise unread(path, error) from error
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1

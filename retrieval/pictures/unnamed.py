"""Pictures whose names leave open what they are, such as ``scan1`` and ``photo.jpg_large``: their first bytes tell."""

from __future__ import annotations

import os

from retrieval.errors import ImageError
from retrieval.pictures.imaging import SUFFIXES, is_picture_name
from retrieval.pictures.readers import open_file, reader_of

_HEAD = 64
_BEGINNINGS = tuple(SUFFIXES)


def may_be_picture(name: str) -> bool:
    """Whether a file's name leaves it open: without suffix, or with one that begins as a picture's and goes on. Hidden files
    and kept former versions of pictures are none."""
    suffix = os.path.splitext(name)[1].lower()
    former = name.endswith("~") or suffix.endswith("_original")  # as editors and ExifTool keep what they change
    if name.startswith(".") or suffix in SUFFIXES or former:
        return False
    return suffix in ("", ".") or suffix.startswith(_BEGINNINGS)


def begins_as_picture(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins as one of a format that is read here; False for what is no regular file, and for an empty one.

    Raises ImageError for one that cannot be read now, which may be a picture.
    """
    try:
        with open_file(path) as stream:
            return reader_of(os.read(stream.fileno(), _HEAD)) is not None
    except ImageError as error:
        if error.transient:
            raise
        return False
    except OSError as error:
        raise ImageError(error.strerror or str(error), transient=True) from error


def is_picture_file(folder: str, name: str) -> bool:
    """Whether a file in a folder is taken for a picture: by its name, or where that leaves it open by its first bytes. One that
    cannot be read is none."""
    if is_picture_name(name):
        return True
    try:
        return may_be_picture(name) and begins_as_picture(os.path.join(folder, name))
    except ImageError:
        return False

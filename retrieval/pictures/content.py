"""A picture's file and its content hash: read once, and only where its first bytes are those of a picture."""

from __future__ import annotations

import os
from typing import Any, BinaryIO

from retrieval.errors import ImageError
from retrieval.files.digest import content_digest
from retrieval.pictures.limits import Limits
from retrieval.pictures.readers import identify, open_file

_READ_WHOLE = 64 << 20


def read_content(path: str | os.PathLike[str]) -> tuple[bytes | str, str]:
    """What :func:`content_of` gives for a file that is opened here. Raises ImageError."""
    try:
        with open_file(path) as file:
            return content_of(file, path)
    except OSError as error:
        raise ImageError(error.strerror or str(error), transient=True) from error


def digest_of(source: Any) -> str | None:
    """The content hash of a picture that is given by its path or its file's bytes; None for pixels, which have no file. Raises
    ImageError."""
    if isinstance(source, bytes):
        digest = content_digest()
        digest.update(source)
        return digest.hexdigest()
    return read_content(source)[1] if isinstance(source, str | os.PathLike) else None


def content_of(file: BinaryIO, path: str | os.PathLike[str]) -> tuple[bytes | str, str]:
    """The picture as :func:`retrieval.pictures.imaging.load_picture` takes it, and its content hash in hexadecimal: its
    bytes, or its ``path`` where they are more than should be held. Raises ImageError for what is no picture at all, OSError.
    """
    identify(file, Limits.from_environment())
    file.seek(0)
    digest = content_digest()
    if os.fstat(file.fileno()).st_size <= _READ_WHOLE:
        data = file.read(_READ_WHOLE) or b""
        digest.update(data)
        return data, digest.hexdigest()
    while block := file.read(1 << 20):
        digest.update(block)
    return os.fspath(path), digest.hexdigest()

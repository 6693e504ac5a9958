"""What a file holds, as a hash: blake2b for the content of pictures, sha256 for weights and published files."""

from __future__ import annotations

import hashlib
import os
from typing import Protocol, TypeVar


class _Digest(Protocol):
    def update(self, data: bytes, /) -> None: ...


D = TypeVar("D", bound=_Digest)

HASH_BYTES = 28
"""Length of a picture's content hash."""


def content_digest(size: int = HASH_BYTES) -> hashlib.blake2b:
    """A hash to be fed with a picture's bytes; its ``hexdigest`` is how a gallery knows the content."""
    return hashlib.blake2b(digest_size=size)


def content_hash(path: str | os.PathLike[str]) -> str:
    """The hash by which a gallery knows a file's content. Raises OSError."""
    return _feed(path, content_digest()).hexdigest()


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Raises OSError."""
    return _feed(path, hashlib.sha256()).hexdigest()


def _feed(path: str | os.PathLike[str], digest: D) -> D:
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest

"""A sealed part of the local index: an inverted file with its pictures' content hashes, written once and never changed.

The file's name carries its hash. It is compared when the file is first seen and whenever its size, inode or times change
(:mod:`retrieval.gallery.search.intact`); the file is mapped, so a query reads the lists of its own words alone.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.files.digest import HASH_BYTES
from retrieval.files.whole import whole_file
from retrieval.gallery.search import intact
from retrieval.ranking.asmk import CODE_BYTES, LocalCodes
from retrieval.ranking.inverted import InvertedCodes, invert

_NAME = re.compile(r"(\d{6})-([0-9a-f]{64})\.block")
_MAGIC = b"rLB1"
_HEAD = struct.Struct("<4sIII48x")  # words of the codebook, pictures, entries
_HASH = np.dtype(f"V{HASH_BYTES}")


@dataclass
class Block:
    """``hashes`` (P,) void28, ascending as bytes, of the pictures in ``inverted``. ``path`` and ``seen`` (what the system says of
    the file): None for one in memory."""

    inverted: InvertedCodes
    hashes: np.ndarray
    path: Path | None = None
    seen: intact.Identity | None = None

    def __post_init__(self) -> None:
        self._starts = _starts(self.hashes)

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, digest: bytes) -> int | None:
        """The number of the picture of this content."""
        found = int(self.find_all(np.frombuffer(digest, _HASH))[0])
        return None if found < 0 else found

    def find_all(self, digests: np.ndarray) -> np.ndarray:
        """The numbers of the pictures of these contents, void28 (N,): int64 (N,), -1 for one that is not here."""
        starts = _starts(digests)
        first = np.searchsorted(self._starts, starts)
        found = np.full(len(digests), -1, np.int64)
        open_ = np.flatnonzero(first < len(self.hashes))
        while len(open_):  # once, but where hashes begin alike
            there = first[open_]
            same = self._starts[there] == starts[open_]
            equal = same & (self.hashes[there] == digests[open_])
            found[open_[equal]] = there[equal]
            open_ = open_[same & ~equal]
            first[open_] += 1
            open_ = open_[first[open_] < len(self.hashes)]
        return found

    def unchanged(self) -> bool:
        """Whether the mapped file is what it was when it was verified. Memory that a file cut short no longer fills would end the
        process; a file that is gone stays whole while it is mapped."""
        if self.path is None:
            return True
        try:
            now = intact.identity(self.path)
        except OSError:
            return True
        return now == self.seen


def block_of(pictures: Mapping[bytes, LocalCodes], words: int) -> Block:
    """A block in memory, of pictures by content hash."""
    digests = sorted(pictures)
    return Block(invert([pictures[d] for d in digests], words), np.frombuffer(b"".join(digests), _HASH))


def is_block(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def number_of(name: str) -> int:
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else 0


def write_block(folder: Path, number: int, block: Block) -> Path:
    """Write it, whole or not at all. Raises OSError."""
    inverted = block.inverted
    parts = [
        _HEAD.pack(_MAGIC, len(inverted.offsets) - 1, len(block), len(inverted.postings)),
        inverted.planes.astype("<u8").tobytes(),
        inverted.offsets.astype("<i8").tobytes(),
        np.ascontiguousarray(inverted.places).tobytes(),
        inverted.postings.astype("<u2").tobytes(),
        inverted.counts.astype("<u2").tobytes(),
        block.hashes.tobytes(),
    ]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    path = folder / f"{number:06d}-{digest.hexdigest()}.block"
    with whole_file(path) as file, open(file, "wb") as stream:
        stream.writelines(parts)
    intact.remember(path, digest.hexdigest(), intact.identity(path))
    return path


def open_block(path: Path, words: int) -> Block:
    """Raises GalleryDamaged, or OSError where it is gone."""
    found = _NAME.fullmatch(path.name)
    assert found is not None
    seen = intact.verify(path, found[2])
    try:
        data = np.memmap(path, np.uint8, "r")
        magic, known, pictures, entries = _HEAD.unpack(data[: _HEAD.size].tobytes())
        sizes = (CODE_BYTES * entries, 8 * (known + 1), 4 * entries, 2 * entries, 2 * pictures, HASH_BYTES * pictures)
        if magic != _MAGIC or known != words or _HEAD.size + sum(sizes) != len(data):
            raise ValueError
    except (ValueError, struct.error) as error:
        raise intact.damaged(path, "it is no part of a local index") from error
    planes, offsets, places, postings, counts, hashes = np.split(np.asarray(data)[_HEAD.size :], np.cumsum(sizes)[:-1])
    inverted = InvertedCodes(
        counts.view("<u2"),
        offsets.view("<i8"),
        postings.view("<u2"),
        planes.view("<u8").reshape(2, -1),
        places.reshape(-1, 4),
    )
    return Block(inverted, hashes.view(_HASH), path, seen)


def remove_block(path: Path) -> None:
    for old in (path, path.with_suffix(intact.SUFFIX)):
        old.unlink(missing_ok=True)


def _starts(hashes: np.ndarray) -> np.ndarray:
    """The first eight bytes of each hash as a number, in the order of bytes."""
    table = np.frombuffer(hashes.tobytes(), np.uint8).reshape(len(hashes), HASH_BYTES)[:, :8]
    return np.ascontiguousarray(table).view(">u8").reshape(-1).astype(np.uint64)

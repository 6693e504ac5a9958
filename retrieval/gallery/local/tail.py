"""The part of the local index that still grows: records one after the other, each with its picture's hash and a checksum.

A record counts when it is whole. What a kill or a power cut left half written ends the readable part; the next writer cuts it
off, and its picture is looked at again.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from retrieval.files.digest import HASH_BYTES
from retrieval.files.in_place import write_at
from retrieval.ranking.asmk import WORD_BYTES, LocalCodes

NAME = "tail"
_RECORD = struct.Struct(f"<I{HASH_BYTES}sH")  # CRC of all that follows it in the record; content hash; words


def append(path: Path, pictures: Mapping[bytes, LocalCodes]) -> int:
    """Add pictures, by content hash, and force them to the disk; what an interrupted call left is cut off first. Returns how many
    records there are now. Raises OSError."""
    data = b"".join(_packed(digest, codes) for digest, codes in pictures.items())
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        lengths = [length for _, _, length in _records(_whole(descriptor))]
        os.ftruncate(descriptor, sum(lengths))
        write_at(descriptor, sum(lengths), data)
    finally:
        os.close(descriptor)
    return len(lengths) + len(pictures)


def read(path: Path, words: int) -> dict[bytes, LocalCodes]:
    """All whole records up to the first that is not, of a codebook of so many ``words``. Raises OSError."""
    found = {}
    for digest, codes, _ in _records(path.read_bytes()):
        if not len(codes) or int(codes.words[-1]) < words:
            found[digest] = codes
    return found


def _packed(digest: bytes, codes: LocalCodes) -> bytes:
    body = codes.to_bytes()
    head = _RECORD.pack(0, digest, len(codes))
    return struct.pack("<I", zlib.crc32(head[4:] + body)) + head[4:] + body


def _records(data: bytes) -> Iterator[tuple[bytes, LocalCodes, int]]:
    """(content hash, codes, length in bytes) of each."""
    at = 0
    while at + _RECORD.size <= len(data):
        crc, digest, count = _RECORD.unpack_from(data, at)
        end = at + _RECORD.size + WORD_BYTES * count
        if end > len(data) or zlib.crc32(memoryview(data)[at + 4 : end]) != crc:
            return
        yield digest, LocalCodes.from_bytes(memoryview(data)[at + _RECORD.size : end]), end - at
        at = end


def _whole(descriptor: int) -> bytes:
    parts, at = [], 0
    while block := os.pread(descriptor, 1 << 24, at):
        parts.append(block)
        at += len(block)
    return b"".join(parts)

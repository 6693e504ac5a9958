"""Bytes of a file by their place, read a block at a time."""

from __future__ import annotations

from typing import BinaryIO

_BLOCK = 1 << 16


class Blocks:
    """Of ``stream``; the last block is held."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._begin, self._data = stream, 0, b""

    def at(self, place: int, count: int) -> bytes:
        """``count`` bytes from ``place``; fewer at the file's end."""
        if not self._begin <= place <= place + count <= self._begin + len(self._data):
            self._stream.seek(place)
            self._begin, self._data = place, self._stream.read(max(count, _BLOCK))
        return self._data[place - self._begin : place - self._begin + count]

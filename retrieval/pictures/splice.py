"""A file seen through a list of its parts: what a reader must not meet is left out, nothing is copied."""

from __future__ import annotations

import bisect
import io
import itertools
from collections.abc import Sequence
from typing import BinaryIO, TypeAlias

Span: TypeAlias = tuple[int, int]
"""Where a part begins in the file, and where it ends."""


class Spliced(io.RawIOBase):
    """The ``spans`` of ``stream``, one after the other, as one read-only file."""

    def __init__(self, stream: BinaryIO, spans: Sequence[Span]) -> None:
        self._stream = stream
        self._spans = _merged(spans)
        self._starts = [0, *itertools.accumulate(end - begin for begin, end in self._spans)]
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._starts[-1]}[whence]
        self._place = max(0, base + offset)
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        left = self._starts[-1] - self._place
        left = left if size is None or size < 0 else min(size, left)
        parts = []
        while left > 0:
            index = bisect.bisect_right(self._starts, self._place) - 1
            begin, end = self._spans[index]
            begin += self._place - self._starts[index]
            self._stream.seek(begin)
            part = self._stream.read(min(left, end - begin))
            if not part:  # the file has become shorter
                break
            parts.append(part)
            self._place += len(part)
            left -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _merged(spans: Sequence[Span]) -> list[Span]:
    merged: list[Span] = []
    for begin, end in spans:
        if begin >= end:
            continue
        if merged and merged[-1][1] == begin:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((begin, end))
    return merged

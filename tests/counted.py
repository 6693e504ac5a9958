"""Files that count what is read of them: how much a reader does, in place of how long it takes."""

from __future__ import annotations

import io
from collections.abc import Callable


class _Counting:
    """``reads``: how many times it was read; ``taken``: how many bytes that gave."""

    reads = 0
    taken = 0

    def _count(self, read: Callable[[int], bytes], size: int) -> bytes:
        data = read(size)
        self.reads += 1
        self.taken += len(data)
        return data


class CountedBytes(_Counting, io.BytesIO):
    def read(self, size: int | None = -1, /) -> bytes:
        return self._count(super().read, -1 if size is None else size)


class CountedFile(_Counting, io.FileIO):
    def read(self, size: int | None = -1, /) -> bytes:
        return self._count(super().read, -1 if size is None else size)

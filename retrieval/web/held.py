"""Thumbnails that are kept in memory: the last looked at, up to so many bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict

_MOST_BYTES = 64 << 20


class HeldThumbnails:
    """By content hash; several threads may ask."""

    def __init__(self, most: int = _MOST_BYTES) -> None:
        self.most = most
        self._turn = threading.Lock()
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def get(self, digest: str) -> bytes | None:
        with self._turn:
            if digest in self._held:
                self._held.move_to_end(digest)
            return self._held.get(digest)

    def keep(self, digest: str, made: bytes) -> None:
        with self._turn:
            if digest in self._held:
                return
            self._held[digest] = made
            self._bytes += len(made)
            while self._bytes > self.most:
                self._bytes -= len(self._held.popitem(last=False)[1])

"""Codes of pictures that are being decoded anyway: made by the workers, kept before the vectors of the same pictures count."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from retrieval.gallery.local.index import LocalIndex
from retrieval.gallery.local.pictures import large_enough
from retrieval.models.spec import ModelSpec
from retrieval.ranking.asmk import LocalCodes

if TYPE_CHECKING:
    from typing_extensions import Self

_turn = threading.Lock()
_sharing = 0  # who shares the cores now
_threads = 0  # of OpenCV, before that
_forked = False


class Collector:
    """Gathers for one run, inside of ``with``. ``looked``: pictures that got codes, in so many ``seconds`` of processor time."""

    def __init__(self, index: LocalIndex, spec: ModelSpec) -> None:
        self.index, self.spec = index, spec
        self.looked = 0
        self.seconds = 0.0
        self._turn = threading.Lock()
        self._claimed = index.contents()
        self._sharing = False
        self._shared = ExitStack()
        self._ready: dict[str, LocalCodes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._turn:
            self._sharing = True  # a worker that is late begins nothing any more
            self._shared.close()

    def claim(self, digest: str) -> bool:
        """Whether this content has no codes and nobody makes them: then the caller does."""
        with self._turn:
            if digest in self._claimed:
                return False
            self._claimed.add(digest)
            return True

    def look(self, digest: str, array: npt.NDArray[np.uint8], source: Any) -> None:
        """Make the codes of a picture from its ``source``; ``array``, uint8 (H, W, 3), is what the network gets of it."""
        with self._turn:
            if not self._sharing:  # here, so that a run without new pictures imports nothing
                self._shared.enter_context(cores_shared())
                self._sharing = True
        started = time.thread_time()
        codes = self.index.describe(large_enough(array, self.spec, source))
        with self._turn:
            self._ready[digest] = codes
            self.looked += 1
            self.seconds += time.thread_time() - started

    def keep(self) -> None:
        """Write what is ready. Raises GalleryError."""
        with self._turn:
            ready, self._ready = self._ready, {}
        self.index.append(ready)


@contextmanager
def cores_shared() -> Iterator[None]:
    """Workers share the cores by pictures; inside one picture each library keeps to one. Of several who ask at a time the first
    sets that and the last takes it back. Not in a forked process: OpenCV would wait there for threads of its parent's."""
    import cv2
    from threadpoolctl import threadpool_limits

    global _sharing, _threads
    with _turn:
        if not _sharing and not _forked:
            _threads = int(cv2.getNumThreads())
            cv2.setNumThreads(1)
        _sharing += 1
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        with _turn:
            _sharing -= 1
            if not _sharing and not _forked:
                cv2.setNumThreads(_threads)


def _after_fork() -> None:
    global _turn, _sharing, _forked
    _turn, _sharing, _forked = threading.Lock(), 0, True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

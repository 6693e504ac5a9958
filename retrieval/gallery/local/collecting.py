"""Codes of pictures that are being decoded anyway: made by the workers, kept before the vectors of the same pictures count."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from retrieval.gallery.local.index import SIDE, LocalIndex
from retrieval.models.spec import ImageRule
from retrieval.ranking.asmk import LocalCodes

if TYPE_CHECKING:
    from os import PathLike


class Collector:
    """Gathers for one run. ``looked``: pictures that got codes; ``seconds``: of one processor core, for all of them."""

    def __init__(self, index: LocalIndex, rule: ImageRule) -> None:
        self.index, self.rule = index, rule
        self.looked = 0
        self.seconds = 0.0
        self._turn = threading.Lock()
        self._claimed: set[str] = set()
        self._ready: dict[str, LocalCodes] = {}

    @contextmanager
    def working(self) -> Iterator[None]:
        """Workers share the cores by pictures; inside one picture each library keeps to one."""
        import cv2
        from threadpoolctl import threadpool_limits

        before = int(cv2.getNumThreads())
        cv2.setNumThreads(1)
        try:
            with threadpool_limits(1, user_api="blas"):
                yield
        finally:
            cv2.setNumThreads(before)

    def claim(self, digest: str) -> bool:
        """Whether this content has no codes and nobody makes them: then the caller does."""
        with self._turn:
            if digest in self._claimed or digest in self.index:
                return False
            self._claimed.add(digest)
            return True

    def look(
        self, digest: str, image: npt.NDArray[np.uint8], source: bytes | str | PathLike[str] | None = None
    ) -> None:
        """Make the codes of a picture as the network gets it, uint8 (H, W, 3). Where that is too small for local features, it is
        decoded again from its ``source``."""
        started = time.thread_time()
        if source is not None and (self.rule.size or SIDE) < SIDE:
            from retrieval.pictures import imaging

            image = imaging.load_picture(source, size=SIDE, exif=self.rule.exif).array
        codes = self.index.describe(image)
        with self._turn:
            self._ready[digest] = codes
            self.looked += 1
            self.seconds += time.thread_time() - started

    def keep(self) -> None:
        """Write what is ready. Raises GalleryError."""
        with self._turn:
            ready, self._ready = self._ready, {}
        self.index.append(ready)

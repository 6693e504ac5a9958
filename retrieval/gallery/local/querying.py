"""Local codes of query pictures, made while the network works on the same pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.gallery.local.index import LocalIndex
from retrieval.gallery.local.pictures import large_enough
from retrieval.models.spec import ModelSpec
from retrieval.ranking.asmk import LocalCodes

if TYPE_CHECKING:
    from typing_extensions import Self


class QueryCodes:
    """``begin`` starts on a picture, ``of`` waits for it; both by any number."""

    def __init__(self, index: LocalIndex, spec: ModelSpec) -> None:
        self.index, self.spec = index, spec
        self._pool = ThreadPoolExecutor(min(2, os.cpu_count() or 1), thread_name_prefix="local")
        self._made: dict[int, Future[LocalCodes]] = {}

    def __enter__(self) -> Self:
        self._pool.submit(_warm_up)  # meanwhile the network is loaded
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def begin(self, number: int, array: np.ndarray, source: Any, bbox: Sequence[float] | None = None) -> None:
        """``array`` uint8 (H, W, 3) is the picture, or its box, as the network gets it."""
        self._made[number] = self._pool.submit(self._describe, array, source, bbox)

    def of(self, number: int) -> LocalCodes:
        return self._made.pop(number).result()

    def _describe(self, array: np.ndarray, source: Any, bbox: Sequence[float] | None) -> LocalCodes:
        return self.index.describe(large_enough(array, self.spec, source, bbox), query=True)


def _warm_up() -> None:
    import cv2  # noqa: F401

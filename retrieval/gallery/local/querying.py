"""Local codes of query pictures, made once the network is done with them.

Not beside it: the network waits for each of its threads at every layer, so that one core less makes it slower than the core is
worth (62 ms together, 20 and 24 ms one after the other, on two cores).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.gallery.local.index import LocalIndex
from retrieval.gallery.local.pictures import large_enough
from retrieval.models.spec import ModelSpec
from retrieval.ranking.asmk import LocalCodes

if TYPE_CHECKING:
    from typing_extensions import Self


class QueryCodes:
    """``keep`` takes a picture, ``of`` gives its codes; both by any number."""

    def __init__(self, index: LocalIndex, spec: ModelSpec) -> None:
        self.index, self.spec = index, spec
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="local")
        self._kept: dict[int, Callable[[], LocalCodes]] = {}

    def __enter__(self) -> Self:
        self._pool.submit(_warm_up)  # meanwhile the network is loaded
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def keep(
        self, number: int, array: np.ndarray, source: Any, bbox: Sequence[float] | None = None, *, now: bool = False
    ) -> None:
        """``array`` uint8 (H, W, 3) is the picture, or its box, as the network gets it. ``now``: while the network is still
        being loaded there is a core for it."""
        if now:
            self._kept[number] = self._pool.submit(self._describe, array, source, bbox).result
        else:
            self._kept[number] = lambda: self._describe(array, source, bbox)

    def of(self, number: int) -> LocalCodes:
        """Raises ImageError for a picture that is gone since, where it has to be decoded anew."""
        return self._kept.pop(number)()

    def _describe(self, array: np.ndarray, source: Any, bbox: Sequence[float] | None) -> LocalCodes:
        return self.index.describe(large_enough(array, self.spec, source, bbox), query=True)


def _warm_up() -> None:
    import cv2  # noqa: F401

"""One picture on its way to its descriptor before anybody asks for it, while the program is still being imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from retrieval.engines.choose import import_engine
from retrieval.system.ending import UNAWAITED

if TYPE_CHECKING:
    from retrieval.describe.model import Model


class Begun:
    """``image`` (a path), or its ``bbox``, as ``model`` decodes and describes it.

    Threads do what is hardly Python's work: reading the network, decoding and running it. What the network needs is imported
    first, for two threads that import take longer than one. A process that ends does not wait for them: they may be preparing
    the network, or fetching its weights.
    """

    def __init__(self, model: Model, image: str, bbox: Sequence[float] | None = None) -> None:
        self.image, self.bbox = image, None if bbox is None else tuple(bbox)
        import_engine(model.engine_name)
        pool = ThreadPoolExecutor(2, thread_name_prefix=UNAWAITED)
        self._engine = pool.submit(model.engine)  # first, for it takes longest
        self._pixels = pool.submit(model.load, image, bbox)
        self._descriptor = pool.submit(lambda: self._engine.result().describe(self._pixels.result()[None])[0])
        pool.shutdown(wait=False)

    def is_of(self, image: object, bbox: Sequence[float] | None) -> bool:
        return isinstance(image, str) and (image, None if bbox is None else tuple(bbox)) == (self.image, self.bbox)

    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3), once they are there. Raises ImageError."""
        return self._pixels.result()

    def descriptor(self) -> np.ndarray | None:
        """float32 (D,), once it is there. None where something went wrong: describing it in the usual way tells what. Raises what
        stands against the engine, which is not built twice: fetching weights in vain takes long."""
        self._engine.result()
        with suppress(Exception):
            found: np.ndarray = self._descriptor.result()
            if np.isfinite(found).all() and found.any():
                return found
        return None

    def when_done(self, call: Callable[[], None]) -> None:
        """Once, from a thread, whatever became of it."""
        self._descriptor.add_done_callback(lambda _: call())

    def done(self) -> bool:
        """Whether the descriptor is there, or will not come."""
        return self._descriptor.done()

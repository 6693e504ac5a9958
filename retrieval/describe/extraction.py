"""Many pictures to descriptors: decoding in parallel with the network, batches of equal shape, bounded memory.

Knows no model and no gallery: what to load and what runs it are given.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from retrieval.engines.base import Engine
from retrieval.errors import ImageError, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Described(Generic[T]):
    """The fate of one item: a ``descriptor`` float32 (D,), or an ``error``, or neither when ``load`` asked to skip it."""

    item: T
    descriptor: np.ndarray | None = None
    error: ImageError | None = None


def describe_all(
    items: Iterable[T],
    load: Callable[[T], np.ndarray | None],
    engine: Callable[[], Engine],
    *,
    workers: int | None = None,
    budget: int = 256 << 20,
) -> Iterator[Described[T]]:
    """Describe ``items`` in whatever order keeps the machine busy; every item is yielded exactly once.

    ``load`` runs in worker threads: item -> uint8 (H, W, 3); None skips the item; ImageError becomes its ``error``.
    ``engine`` is called once, when the first picture is ready. ``budget``: bytes of decoded pictures that may wait.
    Pictures are never padded or reshaped to fill a batch, so batching cannot change a descriptor's meaning.
    An engine with several streams works on as many batches at a time, each in a thread of its own.
    """
    workers = workers or max(2, min(8, os.cpu_count() or 2))
    buckets: dict[tuple[int, ...], list[tuple[T, np.ndarray]]] = {}
    waiting = 0
    source = iter(items)
    running: deque[tuple[T, Future[np.ndarray | None]]] = deque()
    ready: Engine | None = None
    described: _Batches[T] | None = None

    def run(shape: tuple[int, ...], most: int | None = None) -> Iterator[Described[T]]:
        nonlocal waiting, ready, described
        batch = buckets[shape][:most]
        del buckets[shape][:most]
        if not buckets[shape]:
            del buckets[shape]
        waiting -= sum(array.nbytes for _, array in batch)
        if described is None:
            ready = ready or engine()
            described = _Batches(ready)
        yield from described.put(batch)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        exhausted = False
        while True:
            # A few pictures ahead of the network: enough to hide decoding, too few to fill the memory.
            while not exhausted and len(running) < 2 * workers:
                try:
                    item = next(source)
                except StopIteration:
                    exhausted = True
                    break
                running.append((item, pool.submit(load, item)))
            if not running:
                break
            item, future = running.popleft()
            try:
                array = future.result()
            except ImageError as error:
                yield Described(item, error=error)
                continue
            if array is None:
                yield Described(item)
                continue
            bucket = buckets.setdefault(array.shape, [])
            bucket.append((item, array))
            waiting += array.nbytes
            if ready is None:
                ready = engine()
            full = max(1, ready.batch_pixels // (array.shape[0] * array.shape[1]))
            if len(bucket) >= min(full, 64):
                yield from run(array.shape)
            while waiting > budget:
                yield from run(max(buckets, key=lambda s: sum(a.nbytes for _, a in buckets[s])))
        while buckets:  # the last ones in parts, so that no stream has two pictures to go while another has none
            shape = max(buckets, key=lambda s: len(buckets[s]))
            left = sum(len(batch) for batch in buckets.values())
            yield from run(shape, -(-left // getattr(ready, "streams", 1)))
        if described is not None:
            yield from described.rest()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        if described is not None:
            described.close()


class _Batches(Generic[T]):
    """Batches on their way through an engine, as many at a time as it has streams; results come out in order."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._streams = getattr(engine, "streams", 1)
        self._pool = ThreadPoolExecutor(self._streams, thread_name_prefix="engine") if self._streams > 1 else None
        self._running: deque[tuple[list[T], Future[np.ndarray | ImageError]]] = deque()

    def put(self, batch: list[tuple[T, np.ndarray]]) -> Iterator[Described[T]]:
        """Give it to the engine; yields what is done meanwhile."""
        items = [item for item, _ in batch]
        pixels = np.stack([array for _, array in batch])
        if self._pool is None:
            yield from self._results(items, self._attempt(pixels))
            return
        self._running.append((items, self._pool.submit(self._attempt, pixels)))
        # One batch more than there are streams, so that none of them waits for us.
        while self._running and (len(self._running) > self._streams or self._running[0][1].done()):
            yield from self._next()

    def rest(self) -> Iterator[Described[T]]:
        while self._running:
            yield from self._next()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def _next(self) -> Iterator[Described[T]]:
        items, future = self._running.popleft()
        return self._results(items, future.result())

    def _attempt(self, pixels: np.ndarray) -> np.ndarray | ImageError:
        """Descriptors of pictures of one shape. What an engine refuses of them can only be their shape."""
        try:
            return self._engine.describe(pixels)
        except UsageError as error:
            return ImageError(error.message)

    @staticmethod
    def _results(items: list[T], descriptors: np.ndarray | ImageError) -> Iterator[Described[T]]:
        if isinstance(descriptors, ImageError):
            yield from (Described(item, error=descriptors) for item in items)
            return
        for item, descriptor in zip(items, descriptors, strict=True):
            if not np.isfinite(descriptor).all():
                yield Described(item, error=ImageError("the network gave no finite descriptor for it"))
            elif not descriptor.any():
                yield Described(item, error=ImageError("the network sees nothing in it"))
            else:
                yield Described(item, descriptor)

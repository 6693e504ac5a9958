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
from retrieval.errors import ImageError

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
    """
    workers = workers or max(2, min(8, os.cpu_count() or 2))
    buckets: dict[tuple[int, ...], list[tuple[T, np.ndarray]]] = {}
    waiting = 0
    source = iter(items)
    running: deque[tuple[T, Future[np.ndarray | None]]] = deque()
    ready: Engine | None = None

    def run(shape: tuple[int, ...], count: int) -> Iterator[Described[T]]:
        nonlocal waiting, ready
        bucket = buckets[shape]
        batch, rest = bucket[:count], bucket[count:]
        if rest:
            buckets[shape] = rest
        else:
            del buckets[shape]
        waiting -= sum(array.nbytes for _, array in batch)
        ready = ready or engine()
        descriptors = ready.describe(np.stack([array for _, array in batch]))
        for (item, _), descriptor in zip(batch, descriptors, strict=True):
            if not np.isfinite(descriptor).all():
                yield Described(item, error=ImageError("the network gave no finite descriptor for it"))
            else:
                yield Described(item, descriptor)

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
                yield from run(array.shape, len(bucket))
            while waiting > budget:
                shape = max(buckets, key=lambda s: sum(a.nbytes for _, a in buckets[s]))
                yield from run(shape, len(buckets[shape]))
        for shape in list(buckets):
            yield from run(shape, len(buckets[shape]))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)

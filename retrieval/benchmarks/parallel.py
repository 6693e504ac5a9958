"""Many small computations on several threads: one each, instead of all threads on one.

Pooling a map is a chain of operations of some microseconds. Split between threads, each operation waits for the slowest of
them; whole pictures side by side wait for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def one_thread() -> Iterator[int]:
    """While this is open, torch's operations run on one thread each; yields how many it had before, and will again."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def side_by_side(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``function`` of every item, in order, without gradients, on as many threads as torch has; each item on one of them."""

    def run(item: T) -> R:
        with torch.inference_mode():  # the mode is a thread's own
            return function(item)

    with one_thread() as threads, ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(pool.map(run, items))

"""Small products of matrices belong on one core: threads that share one wait for its end, busily, for longer than they work."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

_limited = threading.Lock()


@contextmanager
def products_on_one_core() -> Iterator[None]:
    """While this is open, NumPy's products use one thread each, in all of the process; then as many as before. One of several
    threads sets the limit, the first, and takes it back: OpenBLAS heeds the thread that set it alone. Those that are not done by
    then go on without. Libraries that are loaded after the first time are not reached."""
    if not _limited.acquire(blocking=False):
        yield
        return
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        _limited.release()


@functools.cache
def _controller() -> ThreadpoolController:
    """Finding the libraries takes 4 ms, limiting them hardly any time."""
    import numpy  # noqa: F401  # whose library is to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()

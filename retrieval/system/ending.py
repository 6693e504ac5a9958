"""What a process that ends waits for, and what it does not."""

from __future__ import annotations

import threading

UNAWAITED = "begun"
"""How the names of threads begin whose results are of no use to a process that ends."""

_PATIENCE = 0.2  # seconds for a thread that ends just now


def must_wait() -> bool:
    """Whether threads are at work that an ending process has to wait for."""
    threads = [thread for thread in threading.enumerate() if thread is not threading.current_thread()]
    awaited = [thread for thread in threads if not thread.name.startswith(UNAWAITED)]
    if len(awaited) < len(threads):  # waiting in the usual way would be for these, too
        for thread in awaited:
            thread.join(_PATIENCE)
    return any(thread.is_alive() for thread in awaited)

"""Work of requests in threads: so many at once, so many waiting, none for a client that has left."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from retrieval.system.calling_off import may_be_called_off
from retrieval.web.errors import ApiError

T = TypeVar("T")
_LOOK = 0.25  # seconds between two looks whether a waiting client is still there


class Workers:
    """``at_once`` threads; beyond ``waiting`` requests in the queue the next is sent away with 503."""

    def __init__(self, name: str, at_once: int, waiting: int, seconds: float) -> None:
        self.name, self.at_once, self.most_waiting, self.seconds = name, at_once, waiting, seconds
        self.waiting = self.working = 0
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix=name)
        self._slots = asyncio.Semaphore(at_once)

    async def run(self, task: Callable[[], T], gone: Callable[[], Awaitable[bool]] | None = None) -> T:
        """The result of ``task``. ``gone`` tells whether who asked has left; then a task that has not begun never does.

        Raises what the task raises, and ApiError: too many wait, or it takes too long. A task that has begun and that nobody
        waits for any more is called off (:mod:`retrieval.system.calling_off`) and keeps its place until it ends, so that no
        more are worked on than was said.
        """
        if self.waiting >= self.most_waiting:
            raise ApiError(503, "The server has more to do than it can; try again soon.", headers={"Retry-After": "2"})
        self.waiting += 1
        try:
            await self._slot(gone)
        finally:
            self.waiting -= 1
        self.working += 1
        called_off = threading.Event()

        def work() -> T:
            with may_be_called_off(called_off.is_set):
                return task()

        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        future.add_done_callback(self._ended)
        try:
            return await self._awaited(future, gone)
        finally:
            called_off.set()

    async def _awaited(self, future: asyncio.Future[T], gone: Callable[[], Awaitable[bool]] | None) -> T:
        until = time.monotonic() + self.seconds
        while True:
            done, _ = await asyncio.wait([future], timeout=_LOOK)
            if done:
                return future.result()
            if gone is not None and await gone():
                raise ApiError(499, "The client has left.", "gone")
            if time.monotonic() > until:
                raise ApiError(503, "This took too long.", "too_long", headers={"Retry-After": "10"})

    async def _slot(self, gone: Callable[[], Awaitable[bool]] | None) -> None:
        until = time.monotonic() + self.seconds
        while True:
            try:
                await asyncio.wait_for(self._slots.acquire(), _LOOK)
                return
            except asyncio.TimeoutError:
                if gone is not None and await gone():
                    raise ApiError(499, "The client has left.", "gone") from None
                if time.monotonic() > until:
                    raise ApiError(503, "The server is busy.", headers={"Retry-After": "5"}) from None

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self.working -= 1
        self._slots.release()
        if not future.cancelled():
            future.exception()  # looked at, also where nobody waits any more

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

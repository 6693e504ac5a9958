"""The body of a request, up to a number of bytes and seconds, so many at once; it stays in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.requests import ClientDisconnect

from retrieval.web.errors import ApiError
from retrieval.web.settings import WebLimits

JSON = "application/json"
_BINARY = ("application/octet-stream", "")


class Uploads:
    """Hands out bodies. ``now``: how many are held; ``waiting``: requests whose body is not read yet."""

    def __init__(self, limits: WebLimits) -> None:
        self.limits = limits
        self.now = self.waiting = 0
        self._places = asyncio.Semaphore(limits.uploads)

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[tuple[bytes, str]]:
        """The whole body and its type (``image/...``, or JSON). Raises ApiError: too large, too slow, too many, another type."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != JSON and not kind.startswith("image/") and kind not in _BINARY:
            raise ApiError(
                415,
                "Send the picture itself (curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' ...) or JSON.",
            )
        most = self.limits.upload_bytes
        told = request.headers.get("content-length", "")
        if told.isascii() and told.isdigit() and int(told[:18]) > most:
            raise ApiError(413, f"At most {most >> 20} MB are taken.")
        await self._place()
        self.now += 1
        try:
            data = await asyncio.wait_for(self._read(request, most), self.limits.upload_seconds)
            if not data:
                raise ApiError(422, "The body is empty; a picture is needed.")
            yield data, kind
        except asyncio.TimeoutError:
            raise ApiError(408, "The picture came too slowly.", headers={"Connection": "close"}) from None
        except ClientDisconnect:
            raise ApiError(499, "The client has left.", "gone") from None
        finally:
            self.now -= 1
            self._places.release()

    async def _place(self) -> None:
        """Wait until another body may be held. What waits here was not read: its client is slowed down."""
        if self.waiting >= self.limits.waiting:
            raise ApiError(503, "Too many pictures are being sent; try again soon.", headers={"Retry-After": "2"})
        self.waiting += 1
        try:
            await asyncio.wait_for(self._places.acquire(), self.limits.seconds)
        except asyncio.TimeoutError:
            raise ApiError(503, "The server is busy.", headers={"Retry-After": "5"}) from None
        finally:
            self.waiting -= 1

    @staticmethod
    async def _read(request: Request, most: int) -> bytes:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > most:
                raise ApiError(413, f"At most {most >> 20} MB are taken.", headers={"Connection": "close"})
            parts.append(part)
        return b"".join(parts)

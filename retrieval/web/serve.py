"""Runs the server until it is stopped."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence

import uvicorn

from retrieval.backends.served import ServedGallery
from retrieval.errors import RetrievalError
from retrieval.gallery.gallery import Gallery
from retrieval.web.app import create_app
from retrieval.web.settings import WebSettings

_CONNECTIONS = 512  # at once; each costs a file and some memory
_HEADER_BYTES = 16 << 10


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0 takes a free one. Raises RetrievalError where that cannot be had."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # With the protocol named, asyncio turns Nagle's algorithm off: else each small answer waits 40 ms for the client.
        made = socket.socket(found[0], socket.SOCK_STREAM, socket.IPPROTO_TCP)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(found[4])
        made.listen(1024)
    except OSError as error:
        raise RetrievalError(
            f"cannot listen on {host} port {port}: {error.strerror or error}", "Name another with --port."
        ) from error
    return made


def serve(
    galleries: Sequence[Gallery | ServedGallery],
    settings: WebSettings,
    listener: socket.socket,
    ready: Callable[[], None],
) -> None:
    """Answers until it is interrupted. ``ready`` is called once requests are taken."""

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    async def run() -> None:
        config = uvicorn.Config(
            create_app(galleries, settings),
            log_level="warning",
            access_log=False,  # a token may stand in an address
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=20,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_graceful_shutdown=5,
            http="h11",
            ws="none",
        )
        await Server(config).serve([listener])

    asyncio.run(run())

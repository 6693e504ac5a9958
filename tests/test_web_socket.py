"""The server's socket: what the system does with small answers."""

from __future__ import annotations

import asyncio
import socket

from retrieval.web.serve import listen


def test_small_answers_leave_at_once() -> None:
    """Without TCP_NODELAY the second part of an answer waits until the client has acknowledged the first, 40 ms."""
    listener = listen("127.0.0.1", 0)
    delays: list[int] = []

    async def run() -> None:
        def accepted(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            made: socket.socket = writer.get_extra_info("socket")
            delays.append(made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.write(b"x")
            writer.close()

        server = await asyncio.start_server(accepted, sock=listener)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        assert await reader.read() == b"x"
        writer.close()
        server.close()

    asyncio.run(run())
    assert len(delays) == 1
    assert delays[0]

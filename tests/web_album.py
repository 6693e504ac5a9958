"""A gallery of textures with the fake model, served in this process or on a port, for the tests of the page and its API."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fakes import fake_gallery
from PIL import Image
from textures import texture, turned, write_textures

from retrieval import Gallery, Model
from retrieval.web.settings import WebSettings

HERE = "http://127.0.0.1:8000"
SIZE = (240, 180)


def make_album(folder: Path, count: int = 8, model: Model | None = None) -> Gallery:
    """album/ with ``count`` textures, two of them in album/deep, a copy, and a file that is no picture; with the fake model
    where none is given."""
    write_textures(folder / "album", count - 2)
    write_textures(folder / "album" / "deep", 2, first=count - 2)
    Image.fromarray(texture(0, SIZE, 60)).resize((120, 90)).save(folder / "album" / "copy.png")
    (folder / "album" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))
    gallery = fake_gallery(folder / ".retrieval") if model is None else Gallery.create(folder / ".retrieval", model)
    gallery.index([folder / "album"])
    return gallery


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def known(number: int = 2) -> bytes:
    """One of the album's textures, from elsewhere."""
    return png(turned(texture(number, SIZE, 60)))


@contextlib.contextmanager
def asked(galleries: Sequence[Gallery], **settings: Any) -> Iterator[Any]:
    """A client of an application in this process."""
    from fastapi.testclient import TestClient

    from retrieval.web.app import create_app

    app = create_app(galleries, WebSettings(**settings))
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client:
        yield client


@contextlib.contextmanager
def on_a_port(galleries: Sequence[Gallery], **settings: Any) -> Iterator[str]:
    """The address of a real server, which ends with the block."""
    import asyncio

    import uvicorn

    from retrieval.web.app import create_app
    from retrieval.web.serve import listen

    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    app = create_app(galleries, WebSettings(port=port, **settings))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", http="h11", ws="none"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(20)
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()

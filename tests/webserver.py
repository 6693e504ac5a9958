"""A web server on 127.0.0.1 that misbehaves on demand, and archives to serve; used by the tests of downloads."""

from __future__ import annotations

import io
import os
import random
import re
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from retrieval.datasets.published import sets as published

BODY = random.Random(0).randbytes(300_000)


@dataclass
class Serving:
    """A file on the server and how it misbehaves. ``script``: a step a request, then nothing special any more:
    ("cut", n) breaks the connection after n bytes of body, ("status", code), ("hang",), ("swap", bytes, etag)."""

    body: bytes
    etag: str | None = '"one"'
    modified: str | None = None
    ranges: bool = True
    ignore_if_range: bool = False
    wrong_start: int = 0  # by how much a part begins too early
    length: int | None = None  # what it claims
    chunked: bool = False
    script: list[tuple] = field(default_factory=list)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Serving] = {}
        self.requests: list[tuple[str, str | None]] = []  # path and Range
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def put(self, path: str, body: bytes = BODY, **how: object) -> str:
        self.files[path] = Serving(body, **how)  # type: ignore[arg-type]
        return self.url + path

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # broken pipes are the point


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        file = self.server.files.get(self.path)
        if file is None:
            return self._status(404)
        step = file.script.pop(0) if file.script else ("serve",)
        if step[0] == "status":
            return self._status(*step[1:])
        if step[0] == "redirect":
            return self._status(302, {"Location": step[1]})
        if step[0] == "hang":
            self.server.released.wait(20)
            return None
        if step[0] == "swap":
            file.body, file.etag = step[1], step[2]
        start, body = 0, file.body
        match = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        condition = self.headers.get("If-Range")
        same = condition is None or file.ignore_if_range or condition in (file.etag, file.modified)
        if match and file.ranges and same:
            start = int(match[1])
            if start >= len(body):
                return self._status(416)
        self.send_response(206 if start else 200)
        if start:
            start -= file.wrong_start
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        if file.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str((len(body) if file.length is None else file.length) - start))
        if file.etag:
            self.send_header("ETag", file.etag)
        if file.modified:
            self.send_header("Last-Modified", file.modified)
        self.end_headers()
        sent = body[start : start + step[1]] if step[0] == "cut" else body[start:]
        if file.chunked:
            sent = b"%x\r\n%s\r\n" % (len(sent), sent) + (b"" if step[0] == "cut" else b"0\r\n\r\n")
        self.wfile.write(sent)
        self.wfile.flush()

    def _status(self, code: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving() -> Iterator[Server]:
    """A server in a thread, with nothing in the environment that would lead past it."""
    named = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", published.MIRROR)
    before = {name: os.environ.pop(name) for name in named if name in os.environ}
    made = Server()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.released.set()
        made.shutdown()
        made.server_close()
        thread.join()
        os.environ.update(before)


def tar_of(entries: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

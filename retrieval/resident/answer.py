"""The end that answers: threads that ask an open gallery for whoever comes to its socket."""

from __future__ import annotations

import base64
import errno
import os
import socket
import socketserver
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrieval.describe.begun import Begun
from retrieval.errors import RetrievalError
from retrieval.files.paths import seen_from
from retrieval.gallery.gallery import Gallery
from retrieval.messages import first_line
from retrieval.resident.place import SWITCH, available, socket_name, sockets_folder
from retrieval.resident.talk import LANGUAGE, SIGN_EVERY, Stream, circumstances, identity_of, receive, send
from retrieval.version import __version__

_ALONE = "With --no-server, retrieve query answers by itself."
_AT_ONCE = 4  # requests that are worked at; others wait
_PATIENCE = 1.0  # seconds for another server to let one in


@contextmanager
def answering(galleries: Sequence[Gallery]) -> Iterator[None]:
    """As long as this lasts, `retrieve query` of the same user asks these galleries through their sockets. Where that cannot be,
    or another process does so already, nothing happens."""
    sockets = None if not available() or os.environ.get(SWITCH) else sockets_folder(create=True)
    with ExitStack() as stack:
        for gallery in galleries if sockets is not None else ():
            assert sockets is not None
            stack.enter_context(_listening(gallery, Path(sockets, socket_name(gallery.folder))))
        yield


@contextmanager
def _listening(gallery: Gallery, path: Path) -> Iterator[None]:
    server, inode = _bound(gallery, path)
    if server is None:
        yield
        return
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.2}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.ending = True
        server.shutdown()
        server.server_close()
        with suppress(OSError):
            if path.stat().st_ino == inode:  # by now it may be another process's
                path.unlink()


def _bound(gallery: Gallery, path: Path) -> tuple[_Server | None, int]:
    """The server and its socket's inode; None where somebody else listens there, be it that they are stopped or too busy to let
    one in. A socket that was left behind gives way."""
    server = None
    try:
        if path.exists():
            with socket.socket(socket.AF_UNIX) as other:
                other.settimeout(_PATIENCE)
                if other.connect_ex(os.fspath(path)) != errno.ECONNREFUSED:
                    return None, 0
            path.unlink()
        server = _Server(gallery, path)
        return server, path.stat().st_ino
    except OSError:  # also where another one that starts took the socket away
        if server is not None:
            server.server_close()
        return None, 0


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, gallery: Gallery, path: Path) -> None:
        self.gallery = gallery
        self.turns = threading.Semaphore(_AT_ONCE)
        self.ending = False
        super().__init__(os.fspath(path), _Visit)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A visitor that left is nobody's trouble."""


class _Visit(socketserver.StreamRequestHandler):
    server: _Server
    begun: Begun | None = None  # the picture that the visitor named first

    def handle(self) -> None:
        gallery = self.server.gallery
        with suppress(OSError):
            send(
                self.wfile,
                {
                    "version": __version__,
                    "language": LANGUAGE,
                    "identity": identity_of(gallery.description),
                    "fingerprint": gallery.spec.fingerprint,
                    "judges": gallery.local is not None,
                    "circumstances": [gallery.model.engine_name, *circumstances()],
                },
            )
            while True:
                asked = receive(self.rfile)
                here = str(asked.pop("here", os.sep))
                with seen_from(here):
                    self._reply(gallery, here, **asked)

    def _reply(self, gallery: Gallery, here: str, ask: str, **values: Any) -> None:
        say = self.wfile
        try:
            if ask == "ahead":  # without a reply
                self._begin(gallery, os.fsdecode(bytes.fromhex(values["name"])))
                return
            if ask == "count":
                send(say, {"count": len(gallery)})
            elif ask == "rank_by":
                send(say, {"by": gallery.rank_by(**values)})
            elif ask == "answers":
                found: list[dict[str, Any]] = []
                begun, self.begun = self.begun, None
                try:
                    # Not while they are sent: whoever does not read them would keep others waiting.
                    with _signs_of_life(say), self.server.turns:
                        found.extend(_answers(gallery, here, begun, **values))
                finally:
                    for told in found:
                        send(say, told)
            send(say, {"done": True})
        except OSError:
            raise  # most likely the visitor's end
        except Exception as error:
            if self.server.ending:  # the gallery may be closed by now: what failed is no damage
                raise ConnectionError from error
            self._failed(error)

    def _begin(self, gallery: Gallery, image: str) -> None:
        """Describe a picture before all is known of the question, where nobody waits. Never raises: the question is yet to come,
        and finds out itself what is wrong."""
        turns = self.server.turns
        if self.begun is None and turns.acquire(blocking=False):
            try:
                self.begun = Begun(gallery.model, image)
            except Exception:  # neither threads nor memory: with a turn lost, others would wait for ever
                turns.release()
            else:
                self.begun.when_done(turns.release)

    def _failed(self, error: Exception) -> None:
        """Without a reply the visitor would take a failure for the server's end, and come again."""
        if isinstance(error, RetrievalError):
            kind, why = type(error).__name__, [error.message, error.hint]
        else:
            kind, why = "RetrievalError", [f"the server that holds this gallery failed: {first_line(error)}", _ALONE]
        send(self.wfile, {"failed": kind, "why": why})


@contextmanager
def _signs_of_life(stream: Stream) -> Iterator[None]:
    """While this waits and works, the visitor is told so: one who hears nothing goes."""
    ended = threading.Event()

    def tell() -> None:
        with suppress(OSError, ValueError):  # the visitor left
            while not ended.wait(SIGN_EVERY):
                send(stream, {"working": True})

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _answers(
    gallery: Gallery, here: str, begun: Begun | None, images: list[dict[str, str]], **options: Any
) -> Iterator[dict[str, Any]]:
    sources = [
        base64.b64decode(image["bytes"]) if "bytes" in image else os.path.join(here, image["name"]) for image in images
    ]
    for result in gallery.answers(sources, begun=begun, **options):
        error = None if result.error is None else [result.error.message, result.error.hint]
        yield {
            "matches": [asdict(match) for match in result.matches],
            "bbox": result.bbox,
            "error": error,
            "filtered": result.filtered,
        }

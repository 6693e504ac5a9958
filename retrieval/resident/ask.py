"""The end that asks: a gallery of another process, as a command sees it. Imports no array library."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from retrieval import errors
from retrieval.errors import ImageError, RetrievalError, ServerEnded
from retrieval.gallery.address import DESCRIPTION
from retrieval.gallery.answers import Match, QueryResult
from retrieval.resident.early import taken
from retrieval.resident.place import connected, socket_of
from retrieval.resident.talk import LANGUAGE, MOST_OF_A_LINE, Stream, circumstances, identity_of, receive, send
from retrieval.version import __version__

if TYPE_CHECKING:
    from retrieval.gallery.gallery import Gallery

_PATIENCE = 2.0  # seconds for the other process to say who it is
_SILENCE = 10.0  # seconds without any sign after which the other process is given up: stopped, or hung
_BLOCK = 16  # pictures of one request: their answers are sent when all are there
MOST = MOST_OF_A_LINE // 2  # bytes of a picture that can be sent


class ResidentGallery:
    """Made by :func:`ask_resident`. What ``retrieve query`` needs of a gallery: ``folder``, ``fingerprint``, whether it
    ``judges`` (has a local index), whether its pictures are turned as ``exif`` says, how many it holds, and its answers. Where
    the other process ends, or falls silent, the gallery that ``alone`` opens answers what is left."""

    def __init__(
        self,
        folder: Path,
        connection: socket.socket,
        stream: Stream,
        hello: dict[str, Any],
        exif: bool,
        alone: Callable[[], Gallery] | None = None,
    ) -> None:
        self.folder = folder
        self._alone = alone
        self._own: Gallery | None = None
        self.fingerprint: str = hello["fingerprint"]
        self.judges: bool = hello["judges"]
        self.exif = exif
        self._connection, self._stream = connection, stream

    def __enter__(self) -> ResidentGallery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._stream.close()
        self._connection.close()
        if self._own is not None:
            self._own.close()

    def __len__(self) -> int:
        told = self._one("count")
        return len(self._opened()) if told is None else int(told["count"])

    def rank_by(self, rank: str | None, reranked: bool = False, judged: bool = False) -> str:
        """See :meth:`retrieval.Gallery.rank_by`."""
        told = self._one("rank_by", rank=rank, reranked=reranked, judged=judged)
        return self._opened().rank_by(rank, reranked, judged) if told is None else str(told["by"])

    def answers(
        self, images: Sequence[str | bytes], k: int = 10, bbox: Sequence[float] | None = None, **options: Any
    ) -> Iterator[QueryResult]:
        """See :meth:`retrieval.Gallery.answers`: of files, as they are named here, and of pictures in memory, each of at most
        :data:`MOST` bytes."""
        done = 0
        try:
            for first in range(0, len(images), _BLOCK) if self._own is None else ():
                for result in self._block(images[first : first + _BLOCK], k, bbox, **options):
                    yield result
                    done += 1
        except ServerEnded:
            if self._alone is None:
                raise
        if done < len(images):
            yield from self._opened().answers(list(images[done:]), k, bbox, **options)

    def _block(
        self, images: Sequence[str | bytes], k: int, bbox: Sequence[float] | None, **options: Any
    ) -> Iterator[QueryResult]:
        from base64 import b64encode

        sent = [{"bytes": b64encode(i).decode()} if isinstance(i, bytes) else {"name": i} for i in images]
        found = self._asked("answers", images=sent, k=k, bbox=None if bbox is None else list(bbox), **options)
        for place, told in enumerate(found):
            name = images[place]
            error = None if told["error"] is None else ImageError(*told["error"])
            matches = [Match(**{**match, "copies": tuple(match["copies"])}) for match in told["matches"]]
            box = None if told["bbox"] is None else tuple(told["bbox"])
            yield QueryResult("" if isinstance(name, bytes) else name, box, matches, error, told["filtered"])

    def _opened(self) -> Gallery:
        """The gallery as this process opens it, once the other is gone."""
        assert self._alone is not None
        if self._own is None:
            self._own = self._alone()
        return self._own

    def _one(self, what: str, **values: Any) -> dict[str, Any] | None:
        """The reply; None where the gallery is asked here by now."""
        if self._own is not None:
            return None
        try:
            (told,) = list(self._asked(what, **values))
        except ServerEnded:
            if self._alone is None:
                raise
            return None
        return told

    def _asked(self, what: str, **values: Any) -> Iterator[dict[str, Any]]:
        try:
            send(self._stream, {"ask": what, "here": os.getcwd(), **values})
            while "done" not in (told := receive(self._stream)):
                if "failed" in told:
                    kind = getattr(errors, told["failed"], RetrievalError)
                    raise kind(*told["why"])
                if "working" not in told:
                    yield told
        except OSError as error:
            raise ServerEnded(
                "the server that holds this gallery ended in between", "Run this again; it will answer by itself."
            ) from error


def ask_resident(folder: Path, alone: Callable[[], Gallery] | None = None) -> ResidentGallery | None:
    """The gallery in ``folder`` as the process holds it that serves it; None where none does, or not this very
    gallery, or with another engine or other limits than a command has here. ``alone`` opens it here, for the case that the
    process ends in between."""
    path = socket_of(folder)
    if path is None:
        return None
    connection = None
    try:
        opened = taken(path)
        opened = connected(path, _PATIENCE) if opened is None else opened
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=opened)
        os.getcwd()  # from a folder that is gone, names mean nothing to others
        connection.settimeout(_PATIENCE)
        stream: Stream = connection.makefile("rwb")
        hello = receive(stream)
        description = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        same = [hello.get(name) for name in ("version", "language", "identity", "circumstances")]
        if same == [__version__, LANGUAGE, identity_of(description), ["auto", *circumstances()]]:
            exif = bool(description["model"]["image"]["exif"])
            connection.settimeout(_SILENCE)
            return ResidentGallery(folder, connection, stream, hello, exif, alone)
    except (OSError, ValueError, AttributeError, KeyError):
        pass
    if connection is not None:
        connection.close()
    return None

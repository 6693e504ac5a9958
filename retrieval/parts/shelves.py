"""Where parts and their manifest lie: a folder, or a place of fsspec's such as ``s3://bucket/parts``. Files are there whole, or
not at all.

In a folder what is written is renamed into place. An object store shows an object once all of it has come; should a store show
half of one, a part tells it by its checksums and is made anew. Reading and writing there are tried three times.
"""

from __future__ import annotations

import atexit
import io
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from retrieval.errors import GalleryError
from retrieval.files.whole import sync_folder, whole_file
from retrieval.messages import first_line
from retrieval.parts.places import TRIES, file_system, is_remote, wait_before_next

T = TypeVar("T")

_LEFT_SECONDS = 86_400.0


class Shelf(Protocol):
    """``str()`` of it is its path or URI. What goes wrong is raised as OSError, or GalleryError of a store."""

    def has(self, name: str) -> bool:
        """Whether there is such a file."""

    def source(self, name: str) -> Any:
        """A file as pyarrow reads it, a path or a stream; None where there is none."""

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError too."""

    def keep(self, name: str, write: Callable[[Any], object]) -> None:
        """Write a file, whole: ``write`` gets a path or a stream."""

    def keep_once(self, name: str, text: str) -> None:
        """The same of ASCII text, unless the file is there already: somebody else's stays."""

    def names(self) -> list[str]:
        """Of what lies in it, files and folders; nothing where it is not there. Raises NotADirectoryError."""

    def local(self, name: str) -> Path:
        """A file on this machine with what lies there, for as long as this process runs."""

    def tidy(self) -> None:
        """Take away what killed processes left long ago."""


def shelf_at(place: str | os.PathLike[str]) -> Shelf:
    """Raises UsageError for a URI whose file system cannot be had."""
    if not is_remote(os.fspath(place)):
        return Folder(Path(place))
    if os.fspath(place).startswith("file://"):
        return Folder(Path(file_system(os.fspath(place))[1]))
    return Store(os.fspath(place))


def write_to(file: Path | IO[bytes], data: bytes) -> None:
    """Bytes to what :meth:`Shelf.keep` hands out."""
    if isinstance(file, Path):
        file.write_bytes(data)
    else:
        file.write(data)


class Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def has(self, name: str) -> bool:
        return os.path.exists(os.path.join(self.path, name))

    def source(self, name: str) -> Any:
        path = self.path / name
        if not path.exists():
            return None
        if not path.is_file():
            raise ValueError("it is no file")
        return path

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def keep(self, name: str, write: Callable[[Any], object]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        with whole_file(self.path / name) as file:
            write(file)
        sync_folder(self.path)

    def keep_once(self, name: str, text: str) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / name
        beside = path.with_name(f".{secrets.token_hex(8)}.tmp")
        try:
            with open(beside, "x", encoding="ascii") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(beside, path)
            except FileExistsError:
                return
            except OSError:  # no second names here: the moment between the two is the price
                if not path.exists():
                    os.replace(beside, path)
            sync_folder(self.path)
        finally:
            beside.unlink(missing_ok=True)

    def names(self) -> list[str]:
        with suppress(FileNotFoundError):
            return os.listdir(self.path)
        return []

    def local(self, name: str) -> Path:
        return self.path / name

    def tidy(self) -> None:
        for path in self.path.glob(".*.tmp"):
            with suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _LEFT_SECONDS:  # a young one may be another process's, at work
                    path.unlink()


class Store:
    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip("/")
        self._system, self._path = file_system(self.uri)

    def __str__(self) -> str:
        return self.uri

    def has(self, name: str) -> bool:
        return bool(self._tried(lambda: self._fresh().exists(self._at(name))))

    def source(self, name: str) -> Any:
        with suppress(FileNotFoundError):
            return io.BytesIO(self.read(name))
        return None

    def read(self, name: str) -> bytes:
        return bytes(self._tried(lambda: self._fresh().cat_file(self._at(name))))

    def keep(self, name: str, write: Callable[[IO[bytes]], object]) -> None:
        buffer = io.BytesIO()
        write(buffer)
        self._tried(lambda: self._system.pipe_file(self._at(name), buffer.getvalue()))

    def keep_once(self, name: str, text: str) -> None:
        try:
            self._tried(lambda: self._create(name, text.encode("ascii")))
        except FileExistsError:
            return

    def names(self) -> list[str]:
        try:
            found = self._tried(lambda: self._fresh().ls(self._path, detail=False))
        except FileNotFoundError:
            return []
        return [str(name).rstrip("/").rpartition("/")[2] for name in found]

    def local(self, name: str) -> Path:
        folder = tempfile.mkdtemp(prefix="retrieval-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / name
        path.write_bytes(self.read(name))
        return path

    def tidy(self) -> None:
        """A store keeps nothing that is unfinished under a name of its own."""

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}"

    def _fresh(self) -> Any:
        """The file system, without what it remembers of listings: other workers write there."""
        self._system.invalidate_cache()
        return self._system

    def _create(self, name: str, data: bytes) -> None:
        try:
            self._system.pipe_file(self._at(name), data, mode="create")
        except FileExistsError:
            there = self.read(name)
            if len(there) >= len(data) or not data.startswith(there):
                raise
            self._system.pipe_file(self._at(name), data)  # half of the same was there, of a try that failed

    def _tried(self, do: Callable[[], T]) -> T:
        """Each file system has errors of its own: they become GalleryError; what is there, or is not, is told as such."""
        trouble = ""
        for attempt in range(TRIES):
            try:
                return do()
            except (FileNotFoundError, FileExistsError):
                raise
            except Exception as error:
                trouble = first_line(error) or type(error).__name__
            if attempt + 1 < TRIES:
                wait_before_next(attempt)
        raise GalleryError(f"{self.uri} fails ({trouble})", "Run the same command again: what is described stays.")

"""Where bytes are: local files, file systems of fsspec (``s3://``, ``gs://``, ``memory://``), web addresses.

Reading one picture is tried three times. A whole archive is not: who reads it begins anew.
"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from retrieval.errors import ImageError, UsageError
from retrieval.messages import first_line
from retrieval.pictures.limits import Limits

T = TypeVar("T")

TRIES = 3
_WAIT_SECONDS = 0.25  # before the second try, doubled before each further one
_WEB = ("http://", "https://")
_DRIVERS = {  # what fsspec needs for the stores that most people mean
    "s3": "Run: pip install s3fs.",
    "gs": "Run: pip install gcsfs.",
    "gcs": "Run: pip install gcsfs.",
    "abfs": "Run: pip install adlfs.",
}


def is_remote(text: str) -> bool:
    return "://" in text


def local_uri(path: str) -> str:
    """An absolute path as a ``file://`` URI, byte for byte."""
    return "file://" + urllib.parse.quote(os.fsencode(path))


def local_path(uri: str) -> str | None:
    """The path that such a URI means; None for what lies elsewhere, or in an archive, or has no plain path."""
    if not uri.startswith("file://") or "#" in uri:
        return None
    path = os.fsdecode(urllib.parse.unquote_to_bytes(uri.removeprefix("file://")))
    return path if is_plain(path) else None


def is_plain(path: str) -> bool:
    """Whether a path is absolute, and written in the one shortest way."""
    return os.path.isabs(path) and os.path.normpath(path) == path and "\0" not in path


def wait_before_next(attempt: int) -> None:
    """Between two tries, of which ``attempt``, from 0 on, has failed."""
    time.sleep(_WAIT_SECONDS * 2**attempt)


def file_system(uri: str) -> tuple[Any, str]:
    """fsspec's file system for a URI, and the path in it. Raises UsageError where it cannot be had."""
    try:
        import fsspec
    except ImportError:
        raise UsageError(f"{uri} takes fsspec", "Run: pip install 'retrieval[parts]'.") from None
    try:
        system, path = fsspec.core.url_to_fs(uri)
    except ImportError as error:  # s3fs, gcsfs ...: fsspec says which
        raise UsageError(
            f"{uri} cannot be opened: {first_line(error)}", _DRIVERS.get(uri.partition(":")[0], "")
        ) from None
    except ValueError as error:
        raise UsageError(f"{uri} cannot be opened: {first_line(error)}") from None
    return system, path


def list_files(uri: str) -> list[str]:
    """URIs of all files below a folder of fsspec's, or of that very file, by name. Raises UsageError."""
    system, path = file_system(uri)
    try:
        found = sorted(str(name) for name in system.find(path))
        base = str(system._strip_protocol(path)).rstrip("/")
    except Exception as error:  # each file system has errors of its own
        raise UsageError(f"{uri} cannot be listed: {first_line(error)}") from error
    if not found:
        raise UsageError(f"there is nothing at {uri}")
    return [uri.rstrip("/") + name[len(base) :] for name in found]


def open_binary(uri: str) -> BinaryIO:
    """A local file or one of fsspec's, open for reading, seekable. Raises UsageError, OSError and what its file system raises."""
    if not is_remote(uri):
        return open(uri, "rb")
    system, path = file_system(uri)
    stream: BinaryIO = system.open(path, "rb")
    return stream


def fetch(uri: str, timeout: float) -> bytes:
    """A remote picture's bytes, for at most ``timeout`` seconds each try where it is a web address. Raises ImageError."""
    most = Limits.from_environment().file_bytes
    data = _tried(lambda: _fetch_web(uri, timeout, most) if uri.startswith(_WEB) else _fetch(uri, most))
    if len(data) > most:
        raise ImageError(f"more than {most / 1e9:.1f} GB in one file are more than a picture needs")
    return data


def _fetch(uri: str, most: int) -> bytes:
    system, path = file_system(uri)
    return bytes(system.cat_file(path, None, most + 1))


def _fetch_web(uri: str, timeout: float, most: int) -> bytes:
    end = time.monotonic() + timeout
    request = urllib.request.Request(uri, headers={"User-Agent": "retrieval"})
    parts, length = [], 0
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        while length <= most and (block := answer.read1(1 << 20)):
            parts.append(block)
            length += len(block)
            if time.monotonic() > end:  # drop by drop: no single wait is too long
                raise TimeoutError
        if answer.length:
            raise ConnectionError("the answer ends early")
    return b"".join(parts)


def _tried(read: Callable[[], T]) -> T:
    for left in reversed(range(TRIES)):
        try:
            return read()
        except UsageError as error:
            raise ImageError(str(error)) from None
        except FileNotFoundError:
            raise ImageError("it is not there") from None
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise ImageError(f"the server answers {error.code}") from None
            trouble = f"the server answers {error.code}"
        except Exception as error:  # each file system has errors of its own
            late = isinstance(getattr(error, "reason", error), TimeoutError)
            trouble = "timed out" if late else first_line(getattr(error, "reason", error))
        if left:
            wait_before_next(TRIES - 1 - left)
    raise ImageError(f"cannot be read after {TRIES} tries: {trouble}", transient=True)


def name_of(uri: str) -> str:
    """The last part of a path or URI. A store's names may hold ? and #, which end the path in a web address alone."""
    return Path(urllib.parse.urlsplit(uri).path if uri.startswith(_WEB) else uri).name

"""Fetch one file over HTTP: continued where it broke off, checked, and put in place whole or not at all.

What has arrived of it lies beside it (``partial.py``).
"""

from __future__ import annotations

import errno
import http.client
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.datasets.published.partial import Part
from retrieval.errors import DownloadError
from retrieval.messages import first_line
from retrieval.version import __version__

CHUNK = 1 << 18
LONGEST_WAIT = 60.0  # seconds between two tries
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_AGAIN = frozenset({408, 425, 429})  # client errors that pass; other 4xx do not

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Fetched:
    """What arrived: its path, where from, how many bytes, their sha256, and the server's ETag ("" if it gave none)."""

    path: Path
    url: str
    bytes: int
    sha256: str
    etag: str


class _TryAgain(Exception):
    """This try failed in a way that may pass; ``wait``: what the server asked for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def download(
    url: str,
    target: str | os.PathLike[str],
    *,
    size: int | None = None,
    sha256: str | None = None,
    timeout: float = 60.0,
    attempts: int = 5,
    backoff: float = 1.0,
    progress: Progress | None = None,
) -> Fetched:
    """Fetch ``url`` (http or https) to ``target``, which is replaced only by a complete and checked file.

    ``size`` and ``sha256``: what was published, where it is known. ``timeout``: seconds without a byte after which a
    connection counts as dead. ``attempts``: tries in a row that may bring nothing new (a try that gets further than all
    before it starts the count again, within twenty times as many in all); between them the wait doubles, from
    ``backoff`` seconds. ``progress(done, total)`` is called as bytes arrive; ``total`` is None where the server does
    not say. Raises DownloadError.
    """
    target = Path(target)
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url} is not an http or https address")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with Part(target, url) as part:
            fetched = _fetch(url, part, size, sha256, timeout, attempts, backoff, progress)
            part.finish()
            return fetched
    except OSError as error:
        raise DownloadError(_disk_trouble(error, target)) from error


def _fetch(
    url: str,
    part: Part,
    size: int | None,
    sha256: str | None,
    timeout: float,
    attempts: int,
    backoff: float,
    progress: Progress | None,
) -> Fetched:
    failures, furthest, again = 0, part.bytes, not part.bytes
    for _ in range(20 * attempts):
        try:
            if part.total is None or part.bytes != part.total:
                _attempt(url, part, size, timeout, progress)
            digest = part.digest()
            if size is not None and part.bytes != size:
                raise _wrong_size(url, part, part.bytes, size)
            if sha256 is not None and digest != sha256:
                part.restart()
                if again:
                    raise DownloadError(
                        f"{url} is not the file that was published: its sha256 is {digest}, not {sha256}"
                    )
                again = True  # what a former run left may have been the fault: once more, from the start
                continue
            return Fetched(part.target, url, part.bytes, digest, part.etag)
        except _TryAgain as error:
            if part.bytes > furthest:
                failures, furthest = 0, part.bytes
            failures += 1
            if failures >= attempts:
                raise DownloadError(
                    f"could not download {url}: {error} ({failures} tries)",
                    "What has arrived is kept: the same command continues it." if part.bytes else "",
                ) from error
            time.sleep(min(LONGEST_WAIT, max(backoff * 2 ** (failures - 1), error.wait)))
    raise DownloadError(f"could not download {url}: the connection keeps breaking", "The same command continues it.")


def _attempt(url: str, part: Part, size: int | None, timeout: float, progress: Progress | None) -> None:
    """One request, read to its end. Raises _TryAgain, DownloadError, or OSError of the disk."""
    if part.bytes and not part.validator:
        part.restart()  # nothing says that the server still has the same file
    headers = {"User-Agent": f"retrieval/{__version__}", "Accept-Encoding": "identity"}
    if part.bytes:
        headers |= {"Range": f"bytes={part.bytes}-", "If-Range": part.validator}
    try:
        response = _opener().open(urllib.request.Request(url, headers=headers), timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            part.restart()
            raise _TryAgain("the server no longer has the rest of the file") from error
        message = f"the server answered {error.code} {error.reason}"
        if error.code in _AGAIN or error.code >= 500:
            raise _TryAgain(message, _seconds(error.headers.get("Retry-After"))) from error
        raise DownloadError(f"could not download {url}: {message}") from error
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise DownloadError(f"could not download {url}: {reason}") from error
        raise _TryAgain(_words(reason)) from error
    with response:
        total = _accept(response, part)
        if size is not None and total is not None and total != size:
            raise _wrong_size(url, part, total, size)
        part.begin(total, response.headers)
        _receive(response, part, total, progress)


def _wrong_size(url: str, part: Part, found: int, wanted: int) -> DownloadError:
    part.restart()
    return DownloadError(f"{url} has {found} bytes where {wanted} were published")


def _accept(response: Any, part: Part) -> int | None:
    """See to it that the body continues the part, or begin afresh; the size of the whole file where it is told."""
    if response.status == 206:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        etag = response.headers.get("ETag", "")
        changed = etag and part.etag and etag != part.etag
        if found is None or int(found[1]) != part.bytes or changed:
            part.restart()
            raise _TryAgain("the server sent another part than was asked for")
        return None if found[3] == "*" else int(found[3])
    if response.status != 200:
        raise _TryAgain(f"the server answered {response.status}")
    part.restart()
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def _receive(response: Any, part: Part, total: int | None, progress: Progress | None) -> None:
    if progress is not None:
        progress(part.bytes, total)
    while True:
        try:
            block = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _TryAgain(_words(error)) from error
        if not block:
            break
        part.write(block)
        if progress is not None:
            progress(part.bytes, total)
    if total is not None and part.bytes != total:
        if part.bytes > total:
            part.restart()
        raise _TryAgain(f"the connection broke after {part.bytes} of {total} bytes")
    part.total = part.bytes


def _opener() -> urllib.request.OpenerDirector:
    """Requests over http and https alone, redirects included: never ``file:`` or ``ftp:``."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _seconds(text: str | None) -> float:
    return float(text) if text is not None and text.isdigit() else 0.0


def _words(error: object) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return first_line(error)


def _disk_trouble(error: OSError, target: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        detail = error.strerror if error.strerror and "bytes" in error.strerror else "no space left"
        return f"the disk with {target.parent} is full: {detail}"
    return f"cannot write {target}: {error.strerror or error}"

"""Unpack an archive of pictures from somewhere else: into its own folder, and nothing but files.

An archive is refused as a whole, and what it brought removed, when any entry leads out of the folder, is a link or a
device, or when it swells beyond what an honest archive of pictures can (a bomb).
"""

from __future__ import annotations

import errno
import gzip
import hashlib
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from retrieval.errors import DownloadError

CHUNK = 1 << 18
DIGEST_BYTES = 16
_LONGEST_HEADER = 1 << 20  # bytes that one tar header (a long name, a pax record) may take

Place = Callable[[str], str | None]


@dataclass(frozen=True)
class Limits:
    """What an honest archive stays within: entries, bytes unpacked, and bytes unpacked for each byte packed (pictures
    are packed already), the last beyond ``grace`` bytes only."""

    files: int = 2_000_000
    bytes: int = 1 << 40
    ratio: float = 20.0
    grace: int = 64 << 20


@dataclass(frozen=True)
class Unpacked:
    """One file that was unpacked: its path below the folder (with ``/``), its size and the digest of its content."""

    path: str
    size: int
    digest: str


def new_digest() -> Any:
    """The hash that tells damage to a file: BLAKE2b of 16 bytes."""
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def unpack(
    archive: str | os.PathLike[str],
    into: str | os.PathLike[str],
    *,
    place: Place = lambda path: path,
    limits: Limits | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Unpacked]:
    """Unpack a ``.tar``, ``.tar.gz`` or ``.zip`` (told apart by content) as the new folder ``into``.

    ``place`` says where below ``into`` a file goes, from its path in the archive; None leaves it out. The folder gets
    its name when all is there; until then it is ``.INTO.unpacking`` beside it. ``progress(done, total)`` counts bytes
    of the archive. Raises DownloadError, which names the archive; nothing is left behind then.
    """
    archive, into = Path(archive), Path(into)
    if into.exists():
        raise DownloadError(f"{into} is there already", "Move it away first.")
    work = into.with_name(f".{into.name}.unpacking")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        found = list(_unpack(archive, work, place, limits or Limits(), progress))
        os.rename(work, into)
        return found
    except _Refused as error:
        raise DownloadError(f"{archive} is refused: {error}", "Nothing of it was kept.") from None
    except (tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, EOFError, zlib.error, struct.error) as error:
        raise DownloadError(f"{archive} is damaged or no archive ({error or type(error).__name__})") from error
    except (NotImplementedError, RuntimeError) as error:  # zipfile: an unknown compression, a password
        raise DownloadError(f"{archive} cannot be unpacked: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(f"the disk with {into.parent} is full", "Make room, then run this again.") from error
        raise DownloadError(f"cannot unpack {archive}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


class _Refused(Exception):
    """The archive holds what no honest archive holds."""


class _Meter:
    """Counts what comes out of an archive against its limits."""

    def __init__(self, limits: Limits, packed: int) -> None:
        self.limits = limits
        self.files = 0
        self.bytes = 0
        self.most = min(limits.bytes, limits.grace + int(limits.ratio * packed))

    def entry(self) -> None:
        self.files += 1
        if self.files > self.limits.files:
            raise _Refused(f"it has more than {self.limits.files} entries")

    def add(self, count: int) -> None:
        self.bytes += count
        if self.bytes > self.most:
            raise _Refused(f"it unpacks to more than {self.most} bytes, far more than pictures can")


def _unpack(
    archive: Path, work: Path, place: Place, limits: Limits, progress: Callable[[int, int], None] | None
) -> Iterator[Unpacked]:
    packed = archive.stat().st_size
    meter = _Meter(limits, packed)
    with open(archive, "rb") as raw:
        magic = raw.read(4)
        raw.seek(0)
        if magic == b"PK\x03\x04":
            entries = _zip_entries(raw, meter)
        elif magic[:2] == b"\x1f\x8b":
            entries = _tar_entries(gzip.GzipFile(fileobj=raw), work, meter)
        else:
            entries = _tar_entries(raw, work, meter)
        for name, stream in entries:
            path = place(_checked(name))
            if path is not None:
                yield _write(stream, work, _checked(path), meter)
            if progress is not None:
                progress(min(raw.tell(), packed), packed)


def _tar_entries(stream: Any, work: Path, meter: _Meter) -> Iterator[tuple[str, IO[bytes]]]:
    measured = _Measured(stream, meter)
    with tarfile.open(fileobj=measured, mode="r:") as tar:  # type: ignore[call-overload]
        while (entry := tar.next()) is not None:
            tar.members = []  # a million of them would stay in memory
            meter.entry()
            _checked(entry.name)
            if entry.isdir():
                continue
            if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE):
                raise _Refused(f"{entry.name[:100]!r} is {_KINDS.get(entry.type, 'no plain file')}")
            if hasattr(tarfile, "data_filter"):
                try:
                    tarfile.data_filter(entry, str(work))
                except tarfile.FilterError as error:
                    raise _Refused(str(error)) from None
            content = tar.extractfile(entry)
            assert content is not None  # a plain file has content
            yield entry.name, content
    # tarfile takes a garbled header for the end. The true end is a block of zeros, and gzip's checksum comes last.
    if len(measured.last) < tarfile.BLOCKSIZE or measured.last.strip(b"\0"):
        raise tarfile.ReadError("it breaks off or is garbled in the middle")
    while block := measured.read(CHUNK):
        meter.add(len(block))


_KINDS = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


class _Measured:
    """A stream for ``tarfile`` that takes no header of absurd length and no skip beyond the limits."""

    def __init__(self, stream: Any, meter: _Meter) -> None:
        self._stream = stream
        self._most = meter.most
        self.last = b""

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= max(CHUNK, _LONGEST_HEADER):
            raise _Refused("a header in it is longer than any name can be")
        self.last = self._stream.read(count)
        return self.last

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if position > self._most + (self._most >> 2) + _LONGEST_HEADER:  # headers and padding come on top
            raise _Refused(f"it unpacks to more than {self._most} bytes, far more than pictures can")
        return self._stream.seek(position, whence)

    def tell(self) -> int:
        return self._stream.tell()


def _zip_entries(raw: IO[bytes], meter: _Meter) -> Iterator[tuple[str, IO[bytes]]]:
    if _zip_directory_bytes(raw) > 46 * meter.limits.files + (1 << 16):  # 46 bytes is the least an entry takes
        for _ in range(meter.limits.files + 1):
            meter.entry()
    with zipfile.ZipFile(raw) as bundle:
        for entry in bundle.infolist():
            meter.entry()
            _checked(entry.filename)
            kind = stat.S_IFMT(entry.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _Refused(
                    f"{entry.filename[:100]!r} is {'a symbolic link' if stat.S_ISLNK(kind) else 'no plain file'}"
                )
            if not entry.is_dir():
                with bundle.open(entry) as content:
                    yield entry.filename, content


def _zip_directory_bytes(raw: IO[bytes]) -> int:
    """Length of a zip's directory as its end record tells it, read before ``zipfile`` builds an object for each entry;
    0 where there is no such record (``zipfile`` will say so)."""
    end = raw.seek(0, os.SEEK_END)
    raw.seek(max(0, end - 65_557))
    tail = raw.read()
    raw.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        return 0
    (length,) = struct.unpack_from("<L", tail, at + 12)
    if length != 0xFFFFFFFF:
        return length
    locator = tail.rfind(b"PK\x06\x06")
    return struct.unpack_from("<Q", tail, locator + 40)[0] if locator >= 0 and len(tail) >= locator + 48 else end


def _checked(name: str) -> str:
    """``name`` as a plain relative path with ``/``. Raises _Refused for any other."""
    windows = PureWindowsPath(name)  # splits at both kinds of slash and knows drives: what it takes is safe anywhere
    odd = not name or any(ord(letter) < 32 for letter in name)
    if odd or windows.drive or windows.root or ".." in windows.parts:
        raise _Refused(f"{name[:100]!r} is no path inside the folder")
    return str(PurePosixPath(name))


def _write(content: IO[bytes], work: Path, path: str, meter: _Meter) -> Unpacked:
    target = work / path
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = new_digest(), 0
    try:
        with open(target, "xb") as file:
            while block := content.read(CHUNK):
                meter.add(len(block))
                size += len(block)
                digest.update(block)
                file.write(block)
    except FileExistsError:
        raise _Refused(f"{path[:100]!r} is in it twice") from None
    return Unpacked(path, size, digest.hexdigest())

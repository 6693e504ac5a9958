"""From a path, bytes or an open file to the header of a picture: what may be opened, what it is, and why it cannot be used.

The file is looked at before it is opened, and its signature before a reader sees it. See ``imaging.py`` for the
formats and for what becomes of the pixels.
"""

from __future__ import annotations

import errno
import functools
import importlib
import io
import logging
import os
import re
import stat
import struct
from typing import Any, BinaryIO

from PIL import Image

from retrieval.errors import ImageError, UsageError
from retrieval.pictures.limits import MAX_PIXELS, Limits

# What it logs is for whoever listens; unheard it would be printed, beside what we say of the file.
logging.getLogger("PIL").addHandler(logging.NullHandler())

_READERS = {  # format: module and class of Pillow's reader
    "JPEG": "JpegImagePlugin.JpegImageFile",  # also for MPO: its first picture is a JPEG like any other
    "PNG": "PngImagePlugin.PngImageFile",
    "GIF": "GifImagePlugin.GifImageFile",
    "WebP": "WebPImagePlugin.WebPImageFile",
    "TIFF": "TiffImagePlugin.TiffImageFile",
    "BMP": "BmpImagePlugin.BmpImageFile",
    "PPM": "PpmImagePlugin.PpmImageFile",
    "JPEG 2000": "Jpeg2KImagePlugin.Jpeg2KImageFile",
    "AVIF": "AvifImagePlugin.AvifImageFile",
}
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    rb"RIFF....WEBP": "WebP",
    rb"II[*+]\0|MM\0[*+]": "TIFF",
    rb"BM.{12}[\x0c(48@l|]\0\0\0": "BMP",  # the length of the second header, one of seven
    rb"P[1-6f](\s*#|\s+\d+\s+[#\d])": "PPM",  # width and height: a text may begin with "P5 3 things"
    rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51": "JPEG 2000",
    rb"....ftyp(.{4}){0,9}avi[fs]": "AVIF",
    rb"....ftyp(.{4}){0,9}(hei[cxms]|hev[cxms]|mif1|msf1)": "HEIC",
}
_OTHERS = {  # what turns up under a picture's name
    rb"\s*<!doctype html|\s*<html": "an HTML page, not a picture",
    rb"\s*(<\?xml.*)?<svg": "an SVG drawing, not a picture of pixels",
    rb"version https://git-lfs": "a Git LFS pointer, not the picture itself",
    b"%PDF": "a PDF document, not a picture",
    rb"\xff\x0a|\0\0\0\x0cJXL ": "a JPEG XL picture, which cannot be read",
    rb"....ftyp": "a film or a camera's raw file, which cannot be read",
    b"PK\x03\x04": "a ZIP archive, not a picture",
}
_EARLY = "truncated: the file ends early"


def open_stream(source: Any) -> tuple[BinaryIO, bool]:
    """An open binary file at its start, and whether it is ours to close."""
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source), True
    if isinstance(source, str | os.PathLike):
        return open_file(source), True
    if not hasattr(source, "read"):
        raise UsageError(f"a picture is given by its path, its bytes or a binary file, not {type(source).__name__}")
    try:
        # Only these have a file number, if any, behind which lie the same bytes (libtiff reads from there).
        if not isinstance(source, io.BytesIO | io.BufferedReader | io.FileIO) or not source.seekable():
            return io.BytesIO(source.read()), True
        source.seek(0)
    except TypeError:
        raise UsageError("the file was opened as text", "Open it in binary mode ('rb').") from None
    except Exception as error:
        raise ImageError(f"cannot be read: {_line(error)}", transient=True) from error
    return source, False


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """A picture's file, open at its start. Looks before it opens, and waits for nothing: not for the other end of a FIFO, a
    modem, or a file of the system that has something to say now and then. Raises ImageError."""
    try:
        _regular(os.stat(path))
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            status = os.fstat(number)
            _regular(status)  # it may have become another one
            if not status.st_size:  # also those of /proc, whose reading may wait for ever
                raise ImageError("empty file")
            return open(number, "rb")
        except BaseException:
            os.close(number)
            raise
    except ValueError as error:  # a NUL in the name
        raise ImageError(f"not a file name: {_line(error)}") from error
    except OSError as error:
        link = os.path.islink(path)
        if error.errno == errno.ENOENT and link:
            raise ImageError("a symbolic link to nothing", transient=True) from error
        if error.errno == errno.ELOOP and link:
            raise ImageError("a symbolic link that leads to itself") from error
        if isinstance(error, PermissionError):
            raise ImageError("permission denied", transient=True) from error
        lasting = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)
        raise ImageError(_line(error), transient=not lasting) from error


def _regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ImageError("a directory, not a picture")
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
        raise ImageError(f"not a regular file ({kinds.get(stat.S_IFMT(status.st_mode), 'device')})")


def reader_of(head: bytes) -> str | None:
    """The format that is read here of which a file begins with ``head``, 64 bytes of it or more; else None."""
    return next((name for pattern, name in _SIGNATURES.items() if re.match(pattern, head, re.DOTALL)), None)


def identify(stream: BinaryIO, limits: Limits) -> str:
    """The format, by its signature; a file of more bytes than any picture needs is refused here too. Reads 256 bytes."""
    head = stream.read(256)
    if not head:
        raise ImageError("empty file")
    if (name := reader_of(head)) is not None:
        stream.seek(0, os.SEEK_END)
        length = stream.tell()
        # Some readers take a whole file into memory before they know the picture's size.
        if length > limits.file_bytes:
            raise ImageError(f"{length / 1e9:.1f} GB in one file are more than a picture needs")
        if name == "WebP" and length < 7 + int.from_bytes(head[4:8], "little"):
            raise ImageError(_EARLY)
        return name
    for pattern, reason in _OTHERS.items():
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            raise ImageError(reason)
    printable = sum(byte >= 32 or byte in b"\t\n\r" for byte in head if byte != 127)
    raise ImageError("text, not a picture" if printable == len(head) else "not a picture that can be read")


def open_header(stream: BinaryIO, name: str) -> Image.Image:
    stream.seek(0)
    if name == "HEIC":
        try:
            from pillow_heif.as_plugin import HeifImageFile
        except ImportError:
            raise ImageError("HEIC pictures need pillow-heif: pip install 'retrieval[heif]'") from None
        return HeifImageFile(stream, "")
    # The reader itself, not Image.open(): no process-wide limit, no warnings. And without a name it does not
    # map the file into memory: a mapped file that shrinks while it is read kills the process.
    return _reader(name)(stream, "")


@functools.cache
def _reader(name: str) -> Any:
    module, _, reader = _READERS[name].partition(".")
    try:
        found = getattr(importlib.import_module(f"PIL.{module}"), reader)
    except ImportError:
        raise ImageError(f"{name} pictures need a newer Pillow: pip install -U pillow") from None
    if name != "JPEG":
        return found
    # It looks into the EXIF data for a resolution that nobody wants here, and fails where they are broken.
    return type(reader, (found,), {"_read_dpi_from_exif": lambda self: None})


def _line(error: BaseException) -> str:
    """One short line of an exception's text."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:120].rstrip(". ")


def explained(error: Exception, reader: str, stream: BinaryIO | None) -> ImageError:
    """What a reader raised, as the one error that callers need to know."""
    if isinstance(error, MemoryError):
        return ImageError("not enough memory to decode it", transient=True, out_of_memory=True)
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(f"its pixels exceed the limit of {MAX_PIXELS / 1e6:.0f} megapixels")
    if isinstance(error, OSError) and error.errno is not None:
        return ImageError(f"cannot be read: {_line(error)}", transient=True)
    text = _line(error).removesuffix(" when reading image file")
    text = re.sub(r" \([^)]*\bb'.*", "", text)  # chunk names and other bytes help nobody
    root = error.__cause__ or error
    short = re.search("truncated|only got|end of file", text, re.IGNORECASE)
    if short or isinstance(root, struct.error | EOFError | IndexError):
        return ImageError(_EARLY)
    if re.match("not identified|cannot load this", text):
        try:
            if stream is not None and not stream.read(1):
                return ImageError(_EARLY)
        except (OSError, ValueError):
            pass
        text = "its header makes no sense"
    elif isinstance(root, KeyError | TypeError | AttributeError) or re.search("invalid literal|b'", text):
        text = "its header makes no sense"
    elif re.fullmatch(r"(decoder error )?-\d+", text):
        text = "its pixels cannot be decoded"
    return ImageError(f"damaged {reader}: {text}")

"""Standard output and error as a command needs them: any path can be printed, and an output that fails is one clear error.

Python alone dies in the middle of a ranking at a name that its encoding lacks, says nothing of a closed output, and reports
a full one only at exit. And where a standard descriptor is closed, the next file that is opened, a catalog perhaps, gets
its number, and whatever a library prints goes into it.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from typing import Any

from retrieval.errors import RetrievalError

ERRORS = "retrieval.as_in_the_file_system"


class OutputError(RetrievalError):
    """Standard output cannot be written. ``gone``: whoever read it has stopped (`| head`), which is no fault."""

    def __init__(self, message: str, gone: bool) -> None:
        super().__init__(message)
        self.gone = gone
        self.exit_code = 0 if gone else 1


class _Output(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            gone = error.errno == errno.EPIPE
            why = "it is closed" if error.errno == errno.EBADF else error.strerror or str(error)
            raise OutputError(f"cannot write to standard output: {why}", gone) from error


class _Messages(io.FileIO):
    """Standard error: where it cannot be written there is nobody to tell, and the work goes on."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def prepare_streams() -> None:
    """Make standard output and error so, for this process; to be called before anything is opened."""
    codecs.register_error(ERRORS, _as_in_the_file_system)
    _occupy_descriptors()
    if sys.stdout is sys.__stdout__:  # not where somebody captures them
        sys.stdout = _text(_Output(1, "w", closefd=False), sys.stdout, ERRORS)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_Messages(2, "w", closefd=False), sys.stderr, "backslashreplace")


def forget_output() -> None:
    """Whatever is still to be written to standard output goes nowhere: so nothing fails again at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def write_path(path: str, end: str = "\n") -> None:
    """Print a path as the bytes that it has in the file system, whatever the output's encoding, and ``end``."""
    binary = getattr(sys.stdout, "buffer", None)
    if binary is None:
        sys.stdout.write(path + end)
        return
    sys.stdout.flush()
    binary.write(_as_bytes(path) + end.encode())
    if sys.stdout.isatty():
        binary.flush()


def _as_in_the_file_system(error: UnicodeError) -> tuple[bytes, int]:
    """What an encoding lacks leaves as the bytes that the file system has for it, so that a path opens as printed."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return _as_bytes(error.object[error.start : error.end]), error.end


def _as_bytes(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except (
        UnicodeEncodeError
    ):  # a name that was stored under another locale; half a surrogate pair, which is in no name
        try:
            return text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            return text.encode("utf-8", "backslashreplace")


def _text(raw: io.FileIO, before: Any, errors: str) -> io.TextIOWrapper:
    encoding = getattr(before, "encoding", None) or "utf-8"
    by_line = raw.fileno() == 2 or raw.isatty()
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding, errors=errors, line_buffering=by_line)


def _occupy_descriptors() -> None:
    """Give closed standard descriptors to the null device. Output's is opened for reading, so that writing to it fails."""
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, mode)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)

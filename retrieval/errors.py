"""Every error a user can meet. Each says in one line what is wrong and, where there is one, what to do about it.

The command line prints ``str(error)`` and leaves with ``exit_code``: 2 for a mistake in the request, 1 for a failure.
"""

from __future__ import annotations

import numbers
import operator
from contextlib import suppress


class RetrievalError(Exception):
    """Base class. ``message`` says what is wrong, ``hint`` what to do about it (may be empty)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        if "\n" in message:  # of a name, or of an array that was given for one
            message = " ".join(message.split())
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.hint}" if self.hint else self.message


class UsageError(RetrievalError, ValueError):
    """The request itself cannot be met: a wrong option, value or shape. Exit status 2."""

    exit_code = 2


class BoxError(UsageError):
    """A box that is none of the picture's: outside of it, empty, not four finite numbers."""


class ImageError(RetrievalError):
    """One picture cannot be used; ``message`` is the reason alone (the caller knows the path).

    ``transient`` is true where trying the unchanged file again may help (permissions, I/O), so it is tried again;
    ``limited`` where a limit that can be raised refuses it; ``out_of_memory`` where the system did.
    """

    def __init__(
        self,
        message: str,
        hint: str = "",
        *,
        transient: bool = False,
        limited: bool = False,
        out_of_memory: bool = False,
    ) -> None:
        super().__init__(message, hint)
        self.transient = transient
        self.limited = limited
        self.out_of_memory = out_of_memory


class ModelError(RetrievalError):
    """A model, its weights or its checkpoint cannot be had or read."""


class DownloadError(RetrievalError):
    """A download failed or what arrived is not what was published."""


class DatasetError(RetrievalError):
    """A data set, its layout, ground truth or ranking is wrong or incomplete."""


class GalleryError(RetrievalError):
    """A gallery cannot be found, opened, read or written."""


class ServerEnded(RetrievalError):
    """The process that held a gallery open and answered ended, or answers no more."""


class GalleryMissing(GalleryError):
    """There is no gallery of this name on the server."""


class GalleryMismatch(GalleryError):
    """The gallery was made with another model than the one at hand."""


class GalleryLocked(GalleryError):
    """Another process is writing to the gallery."""


class GalleryDamaged(GalleryError):
    """A file of the gallery is missing or damaged; the message names it."""


def number_between(name: str, value: object, least: float, most: float) -> float:
    """``value`` as a float, where it is a number (Python's or numpy's, no bool) from ``least`` to ``most``; else UsageError."""
    number = float("nan")
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # as good as infinite
            number = float(value)
    if not least <= number <= most:
        raise UsageError(f"{name} must be a number from {least:g} to {most:g}, not {value!r:.60}")
    return number


def whole_number(name: str, value: object) -> int:
    """``value`` as an int, where it is a whole number (of Python's or numpy's, no bool) of at least 1; else UsageError."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = 0
    if number < 1 or isinstance(value, bool):
        raise UsageError(f"{name} must be a whole number of at least 1, not {value!r:.60}")
    return number


class CalledOff(RetrievalError):
    """Work ended before its time, because nobody waits for it any more."""

"""What a long task tells whoever started it: lines for a person, and progress bars. Text that cannot disturb a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import logging

_MINUTE = 60.0

Say = Callable[[str], None]
"""Gets one-line messages for the user."""
Update = Callable[[int, int], object]
"""``update(done, total)``, called as work is dealt with."""
Bars = Callable[[str], AbstractContextManager[Update]]
"""A label -> a progress bar for one stage of the work."""


def log() -> logging.Logger:
    """The logger ``retrieval``: a library is silent until its user says otherwise."""
    import logging  # only here: it takes as long as half of the command line's library

    logger = logging.getLogger("retrieval")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


class _Announced:
    def __init__(self, say: Say | None, level: Literal["info", "warning"]) -> None:
        self.say, self.level = say, level

    def __call__(self, message: str) -> None:
        if "logging" in sys.modules:  # else nobody listens
            getattr(log(), self.level)("%s", message)
        if self.say is not None:
            self.say(message)


def announced(say: Say | None, level: Literal["info", "warning"] = "info") -> Say:
    """``say``, and the same lines to the logger ``retrieval``, once."""
    return say if isinstance(say, _Announced) else _Announced(say, level)


def say_nothing(_: str) -> None:
    return None


def no_update(done: int, total: int) -> None:
    return None


@contextmanager
def no_bars(label: str) -> Iterator[Update]:
    yield no_update


def first_line(error: object, most: int = 160) -> str:
    """What an exception says, in one line: its system message, or the first line of its text, or else its type's name."""
    text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
    return str(text).splitlines()[0][:most]


def safe(text: str) -> str:
    """Text that cannot disturb a terminal: control characters and undecodable bytes are shown escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def count_of(number: int, thing: str, things: str | None = None) -> str:
    """ASCII: ``1 picture``, ``2,000 pictures``; ``things`` where an s does not make it several."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def human_bytes(size: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_time(seconds: float) -> str:
    """Roughly: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


class SlowSteps:
    """A line for work that is silent by itself: ``say`` gets "LABEL NUMBER of TOTAL" once it has taken ``after`` seconds, then
    each time twice as long has passed. Nothing of work that is quicker."""

    def __init__(self, label: str, total: int, say: Say, after: float = 1.0) -> None:
        self.label, self.total, self.say = label, total, say
        self.done = 0
        self._wait = after
        self._next = time.monotonic() + after

    def step(self) -> None:
        """Another one begins."""
        self.done += 1
        if self.done < self.total and (now := time.monotonic()) >= self._next:
            self.say(f"{self.label} {self.done} of {self.total}")
            self._wait *= 2
            self._next = now + self._wait


class _Lines:
    """Progress for a log file: a line on stderr every minute, nothing of work that is quicker."""

    def __init__(self, label: str, unit: str) -> None:
        self.label, self.unit = label, unit
        self._started = self._said = time.monotonic()

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if now < self._said + _MINUTE or done >= total:
            return
        self._said = now
        rate = done / (now - self._started)
        left = f", about {human_time((total - done) / rate)} left" if rate else ""
        print(
            f"{self.label}: {done:,} of {total:,} {self.unit}, {rate:.1f} a second{left}", file=sys.stderr, flush=True
        )


def bar_size() -> dict[str, int]:
    """How large tqdm may draw on stderr: as the terminal says, else 80 x 24; where it does not tell, tqdm would draw nothing."""
    try:
        known = all(os.get_terminal_size(sys.stderr.fileno()))
    except (OSError, ValueError):
        known = False
    return {"dynamic_ncols": True} if known else {"ncols": 80, "nrows": 24}


@contextmanager
def progress_bar(label: str, quiet: bool, unit: str = "img") -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr with ``unit``s a second and time left, where that is a terminal, else a line a minute:
    ``update(done, total)``."""
    if quiet:
        yield no_update
        return
    if not sys.stderr.isatty():
        yield _Lines(label, unit).update
        return
    from tqdm import tqdm

    bar = tqdm(desc=label, unit=unit, file=sys.stderr, smoothing=0.1, **bar_size())

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)
        bar.refresh()

    try:
        yield update
    finally:
        bar.close()

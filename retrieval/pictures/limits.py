"""How much one picture may cost: pixels, bytes, memory, scans, seconds. More is refused, with the reason."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from retrieval.errors import UsageError

MAX_PIXELS = 178_956_970
MEMORY_VARIABLE = "RETRIEVE_PICTURE_MEMORY"
SECONDS_VARIABLE = "RETRIEVE_PICTURE_SECONDS"


@dataclass(frozen=True)
class Limits:
    """The most that is spent on one picture.

    ``pixels``: width x height. ``memory``: bytes that decoding and resizing may hold at one time, all pictures of the
    process that are being decoded together. ``seconds``: of decoding, where it can be stopped. ``file_bytes``: of the
    file. ``scans``: of a JPEG (a progressive one has about ten).
    """

    pixels: int = MAX_PIXELS
    memory: int = 720_000_000
    seconds: float = 20.0
    file_bytes: int = 8 * MAX_PIXELS
    scans: int = 200

    @classmethod
    def from_environment(cls) -> Limits:
        """The defaults, or what ``RETRIEVE_PICTURE_MEMORY`` (in MB) and ``RETRIEVE_PICTURE_SECONDS`` say.

        Raises UsageError for a value that is no positive number.
        """
        return cls(
            memory=round(_number(MEMORY_VARIABLE, cls.memory / 1e6) * 1e6),
            seconds=_number(SECONDS_VARIABLE, cls.seconds),
        )


def _number(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1e9:
        raise UsageError(f"{variable} must be a positive number, not {text!r}")
    return value

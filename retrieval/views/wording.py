"""Text that is made to fit into a line or a tile of a sheet."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

_ELLIPSIS = "..."
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """One line without control characters or the half-characters that stand for undecodable bytes. What joins letters and
    emoji stays."""
    kept = (char if char in _JOINERS or unicodedata.category(char)[0] not in "CZ" else " " for char in str(text)[:500])
    return "".join(kept).strip()


def fitted(text: str, width: int, length: Callable[[str], float]) -> str:
    """The text, with as much of its middle left out as makes it fit."""
    if length(text) <= width:
        return text
    low, high = 0, len(text) - 1  # how many characters may stay
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if length(_without_middle(text, middle)) <= width else (low, middle - 1)
    return _without_middle(text, low) if length(_without_middle(text, low)) <= width else ""


def _without_middle(text: str, keep: int) -> str:
    head = keep // 2
    return text[:head] + _ELLIPSIS + text[len(text) - (keep - head) :]


def wrapped(text: str, width: int, length: Callable[[str], float]) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and length(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines

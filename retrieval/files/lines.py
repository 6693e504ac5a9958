"""Lines of text files that hold names."""

from __future__ import annotations


def lines_of(text: str) -> list[str]:
    r"""Lines that end in \n or \r\n, without that. ``str.splitlines`` ends them at ten characters more, which names may hold."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]

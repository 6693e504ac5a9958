"""Pictures as a command names them: files, folders, globs that the shell left alone."""

from __future__ import annotations

import glob
import os
import sys

from retrieval.errors import UsageError
from retrieval.messages import safe

STANDARD_INPUT = "-"


def expand_pictures(images: tuple[str, ...]) -> list[str]:
    """Files as named; the pictures in folders; what globs match that the shell left alone. Raises UsageError where nothing is
    found, and for words and addresses of the web, which are no pictures."""
    if " " in " ".join(images) and all(map(_is_word, images)):  # one word may be a name with a letter wrong
        raise UsageError(
            f"there is no file or folder called {safe(', '.join(images))}",
            "Pictures are found by pictures, not by words.",
        )
    files: list[str] = []
    for name in images:
        if name == STANDARD_INPUT:
            files.append(name)
        elif os.path.isdir(name):
            from retrieval.pictures.scan import walk

            found = [os.path.join(name, f.path) for f in walk(name).files if f.problem is None]
            if not found:
                raise UsageError(f"there are no pictures in {safe(name)}")
            files += found
        elif name.startswith(("http://", "https://")) and not os.path.lexists(name):
            raise UsageError(f"{safe(name)} is not on this machine", "Fetch it first, such as with: curl -O ADDRESS")
        elif not os.path.lexists(name) and glob.has_magic(name):
            matched = sorted(m for m in glob.glob(name, recursive=True) if not os.path.isdir(m))
            if not matched:
                raise UsageError(f"nothing matches {safe(name)}")
            files += matched
        else:
            files.append(name)
    return files


def _is_word(name: str) -> bool:
    """Neither there nor with anything that a file's name has and a word has not."""
    return name.replace(" ", "").isalpha() and not os.path.lexists(name)


def piped_picture() -> bytes:
    """The picture on standard input. Raises UsageError where there is none."""
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("- means a picture on standard input, and there is none", "Send one: ... | retrieve query -")
    data = sys.stdin.buffer.read()
    if not data:
        raise UsageError("standard input is empty", "- means that a picture comes from there.")
    first = data[:4096].partition(b"\n")[0].rstrip(b"\r")
    if b"\0" not in first and os.path.exists(os.fsdecode(first)):
        raise UsageError(
            "standard input names files, and - means a picture", "For names: ... | xargs -d '\\n' retrieve query"
        )
    return data

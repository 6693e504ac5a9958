"""The picture of a query named to the process that will be asked, while the command that asks is still being imported.

What a command line means is known only once its options are read, and reading them takes as long as a third of the query. So
this guesses, where there is little to be wrong about; a wrong guess costs the other process the description of a picture that
nobody asks for. Imports next to nothing.
"""

from __future__ import annotations

import os

from retrieval.errors import UsageError
from retrieval.gallery.address import located
from retrieval.resident.place import connected, socket_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# With these the other process is not asked (for --under, with a relative folder), or for a part of the picture.
_OTHERWISE = (
    "--bbox",
    "--no-server",
    "--engine",
    "--model",
    "--size",
    "--scales",
    "--rerank",
    "--sheet",
    "--explain",
    "--under",
)
_PATIENCE = 0.2  # seconds for the other process to take a line: one that is stopped shall not keep this one

_begun: list[tuple[str, int]] = []


def begin(arguments: Sequence[str]) -> None:
    """Name the picture, where ``arguments`` (of the command line) are a query for one file in the gallery found from here and a
    process holds that. Never raises."""
    if arguments[:1] != ["query"] or any(argument.startswith(_OTHERWISE) for argument in arguments):
        return
    files = [argument for argument in arguments[1:] if argument[:1] != "-" and os.path.isfile(argument)]
    try:
        if len(files) != 1:
            return
        folder = located(_index(arguments))
        path = None if folder is None else socket_of(folder)
        if path is None:
            return
        name = os.fsencode(os.path.join(os.getcwd(), files[0])).hex()  # nothing in it that JSON would escape
        hint = f'{{"ask": "ahead", "name": "{name}"}}\n'
        _begun.append((path, connected(path, _PATIENCE, hint.encode())))
    except (OSError, ValueError, UsageError):
        return


def _index(arguments: Sequence[str]) -> str | None:
    """What the option names."""
    for place, argument in enumerate(arguments):
        if argument.startswith("--index="):
            return argument.partition("=")[2]
        if argument == "--index":
            return arguments[place + 1] if place + 1 < len(arguments) else None
    return None


def taken(path: str) -> int | None:
    """The connection (a file descriptor) to the process behind a socket that was told of a picture; once."""
    known, connection = _begun.pop() if _begun else (None, None)
    if connection is not None and known != path:
        os.close(connection)
        return None
    return connection

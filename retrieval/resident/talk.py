"""How both ends write to a socket: lines of JSON. And what they tell each other of themselves."""

from __future__ import annotations

import json
import os
from io import BufferedIOBase
from typing import Any, BinaryIO, TypeAlias

from retrieval.pictures.limits import MEMORY_VARIABLE, SECONDS_VARIABLE

LANGUAGE = 3  # an end that was started from an earlier working copy may know less, of the same version
SIGN_EVERY = 1.0  # seconds between signs that an answer is being made
MOST_OF_A_LINE = 256 << 20  # bytes

Stream: TypeAlias = "BinaryIO | BufferedIOBase"


def identity_of(description: dict[str, Any]) -> list[Any]:
    """What tells the gallery that was opened from another one that lies in its place by now."""
    return [description.get("created"), description.get("fingerprint")]


def circumstances() -> list[str]:
    """What else an answer depends on in a process: limits of pictures."""
    return [os.environ.get(name, "") for name in (MEMORY_VARIABLE, SECONDS_VARIABLE)]


def send(stream: Stream, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def receive(stream: Stream) -> dict[str, Any]:
    """The next message. Raises OSError where the other end is gone, or says what is none."""
    line = stream.readline(MOST_OF_A_LINE)
    try:
        message = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        message = None
    if not isinstance(message, dict):
        raise ConnectionError("the other process ended, or speaks another language")
    return message

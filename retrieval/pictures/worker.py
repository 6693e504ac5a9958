"""The process in which ``apart.py`` has pictures decoded: questions on standard input, answers on standard output."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import Any, BinaryIO

from retrieval.errors import ImageError, RetrievalError, UsageError
from retrieval.pictures import apart, imaging
from retrieval.pictures.limits import Limits

_SLACK = 96 << 20  # beyond the limit: the file itself, what libraries set up, the pipe


def main() -> None:
    """Answers until its input ends. Never returns to the code that follows: exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process decides
    apart.inside = True
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints gets among the answers
    _one_thread_of_avif()
    _answer(answers, {})
    try:
        while (question := _question(sys.stdin.buffer)) is not None:
            _answer(answers, *_dealt_with(*question))
    except (BrokenPipeError, KeyboardInterrupt):
        pass
    os._exit(0)


def _one_thread_of_avif() -> None:
    """As many pictures as there are processors are decoded at a time already."""
    try:
        from PIL import AvifImagePlugin
    except ImportError:
        return
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _question(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    head = stream.read(apart.HEADER.size)
    if len(head) < apart.HEADER.size:
        return None
    length, size = apart.HEADER.unpack(head)
    return json.loads(stream.read(length)), stream.read(size)


def _answer(stream: BinaryIO, answer: dict[str, Any], pixels: Any = None) -> None:
    text = json.dumps(answer).encode()
    data = memoryview(pixels).cast("B") if pixels is not None else memoryview(b"")
    stream.write(apart.HEADER.pack(len(text), len(data)) + text)
    stream.write(data)
    stream.flush()


def _dealt_with(question: dict[str, Any], data: bytes) -> tuple[dict[str, Any], Any]:
    limits = Limits(**question["limits"])
    source: str | bytes = data if question["path"] is None else question["path"]
    restrict(limits, len(data))
    try:
        if question["what"] == "size":
            width, height = imaging.picture_size(source, limits=limits, **question["options"])
            return {"width": width, "height": height}, None
        picture = imaging.load_picture(source, limits=limits, **question["options"])
        found = {"width": picture.width, "height": picture.height, "shape": picture.array.shape}
        return found, picture.array
    except UsageError as error:
        return {"error": error.message, "hint": error.hint, "usage": True}, None
    except ImageError as error:
        told = {"error": error.message, "hint": error.hint, "transient": error.transient, "limited": error.limited}
        if error.out_of_memory:
            told |= {
                "error": f"decoding it takes more memory than the limit of {limits.memory / 1e6:,.0f} MB",
                "hint": "Make a smaller copy of it, or raise the limit: --picture-memory MB.",
                "transient": False,
                "limited": True,
            }
        return told, None
    except RetrievalError as error:
        return {"error": error.message, "hint": error.hint, "transient": False, "limited": False}, None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def restrict(limits: Limits, data: int) -> None:
    """Memory and time of the processor that this process may use from now on; more ends it."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, 0.9 * limits.seconds)
    try:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return
    most = now + limits.memory + data + _SLACK
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
    except (OSError, ValueError):
        return

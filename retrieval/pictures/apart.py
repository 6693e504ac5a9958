"""Pictures that may take long, take much or bring a decoder down are decoded in a process of their own, which can be stopped.

A thread inside a decoder cannot be interrupted. The process is started when the first such picture comes, stays for the
next one, and ends with this one. It may use as much memory and time as the limits say; what it does beyond ends it, and
its picture is refused with the reason. Where no process can be started, pictures are decoded here.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import struct
import sys
import threading
import time
from typing import IO, Any

import numpy as np

from retrieval.errors import ImageError, RetrievalError, UsageError
from retrieval.pictures.limits import SECONDS_VARIABLE, Limits

HEADER = struct.Struct(">QQ")
"""Before each message: bytes of JSON, bytes of data."""

_START_SECONDS = 60.0
_MOST_IDLE = 4

inside = False
"""Whether this process is such a one: then it decodes itself."""

_idle: list[_Worker] = []
_busy: set[_Worker] = set()
_lock = threading.Lock()
_none_can_be_had = False


def load(source: str | bytes, options: dict[str, Any], limits: Limits) -> tuple[np.ndarray, int, int] | None:
    """uint8 (H, W, 3), width and height of a picture, by path or bytes; None where no process can be had.

    ``options``: those of ``imaging.load_picture``, as JSON has them. Raises ImageError and UsageError as that does.
    """
    return _ask("load", source, options, limits)


def size(source: str | bytes, options: dict[str, Any], limits: Limits) -> tuple[int, int] | None:
    """Width and height alone, as ``imaging.picture_size`` has them; None where no process can be had."""
    found = _ask("size", source, options, limits)
    return None if found is None else found[1:]


def _ask(what: str, source: str | bytes, options: dict[str, Any], limits: Limits) -> tuple[np.ndarray, int, int] | None:
    data = source if isinstance(source, bytes) else b""
    question = {
        "what": what,
        "path": source if isinstance(source, str) else None,
        "options": options,
        "limits": vars(limits),
    }
    crashed: _Crashed | None = None
    while (worker := _take()) is not None:
        try:
            return worker.ask(question, data, limits)
        except _Crashed as error:
            # What a process saw before may be why: a picture is judged by one that saw no damage.
            if not worker.saw_damage:
                raise
            crashed = error
        finally:
            _give_back(worker)
    if crashed is not None:
        raise crashed
    return None


def _take() -> _Worker | None:
    global _none_can_be_had
    with _lock:
        while _idle:
            worker = _idle.pop()
            if worker.lives():
                _busy.add(worker)
                return worker
            worker.end()
        if _none_can_be_had:
            return None
    try:
        worker = _Worker()
    except OSError:
        _none_can_be_had = True
        return None
    with _lock:
        _busy.add(worker)
    return worker


def _give_back(worker: _Worker) -> None:
    with _lock:
        _busy.discard(worker)
        kept = worker.ready and len(_idle) < _MOST_IDLE
        if kept:
            _idle.append(worker)
    if not kept:
        worker.end()


def _forget() -> None:
    """After a fork: the processes belong to the parent."""
    global _lock
    _lock = threading.Lock()
    _idle.clear()
    _busy.clear()


def _end_all() -> None:
    with _lock:
        workers, _idle[:] = [*_idle, *_busy], []  # those at work where nobody waits for them (retrieval.system.ending)
    for worker in workers:
        worker.end()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
atexit.register(_end_all)


class _Stopped(Exception):
    """The process ended, or was ended, before it answered."""


class _Crashed(ImageError):
    """The decoder ended its process by a fault."""


class _Worker:
    """One process: asked through its standard input, answering through its standard output. Raises OSError when none starts.

    ``ready``: whether it can be asked again. It can after a damaged picture (``saw_damage``), not after one for which its
    memory was not enough.
    """

    ready = saw_damage = False

    def __init__(self) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from retrieval.pictures.worker import main; main()"
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        import subprocess  # only here: most programs that decode start no other process

        self._process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | threads,
            bufsize=0,
        )
        try:
            self._receive(time.monotonic() + _START_SECONDS)
        except (_Stopped, ImageError, ValueError) as error:
            self.end()
            raise OSError("no process for pictures could be started") from error

    def ask(self, question: dict[str, Any], data: bytes, limits: Limits) -> tuple[np.ndarray, int, int]:
        deadline = time.monotonic() + limits.seconds
        self.ready = False
        try:
            self._send(json.dumps(question).encode(), data, deadline)
            answer, pixels = self._receive(deadline)
        except _Stopped:
            raise self._explained(limits) from None
        self.ready = not answer.get("limited")
        if "error" in answer:
            self.saw_damage = True
            raise _error(answer)
        return pixels, answer["width"], answer["height"]

    def lives(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        process.kill()
        process.wait()

    def _send(self, text: bytes, data: bytes, deadline: float) -> None:
        pipe = self._pipe(self._process.stdin)
        for part in (HEADER.pack(len(text), len(data)) + text, data):
            view = memoryview(part)
            while len(view):
                self._wait([], [pipe], deadline)
                try:
                    view = view[os.write(pipe.fileno(), view[:65536]) :]
                except BrokenPipeError:
                    raise _Stopped from None

    def _receive(self, deadline: float) -> tuple[dict[str, Any], np.ndarray]:
        head = bytearray(HEADER.size)
        self._fill(memoryview(head), deadline)
        length, size = HEADER.unpack(head)
        text = bytearray(length)
        self._fill(memoryview(text), deadline)
        answer = json.loads(text)
        pixels = np.empty(answer.get("shape", (0,)), np.uint8)
        if pixels.nbytes != size:
            raise _Stopped
        if size:
            self._fill(memoryview(pixels.data).cast("B"), deadline)
        return answer, pixels

    def _fill(self, view: memoryview, deadline: float) -> None:
        pipe = self._pipe(self._process.stdout)
        while len(view):
            self._wait([pipe], [], deadline)
            count = os.readv(pipe.fileno(), [view[: 1 << 20]])
            if not count:
                raise _Stopped
            view = view[count:]

    def _wait(self, reading: list[Any], writing: list[Any], deadline: float) -> None:
        """Until a pipe is ready. Not select(): that knows no file numbers above 1023."""
        poll = select.poll()
        for pipe in reading:
            poll.register(pipe.fileno(), select.POLLIN)
        for pipe in writing:
            poll.register(pipe.fileno(), select.POLLOUT)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            self._process.kill()
            raise _Stopped

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe

    def _explained(self, limits: Limits) -> ImageError:
        """Why the process ended."""
        status = self._process.wait()
        if status == -signal.SIGPROF:  # its own clock: so much time of the processor, whatever else runs here
            return ImageError(
                f"decoding it takes longer than the limit of {limits.seconds:g} s",
                f"Make a plain copy of it, or raise the limit: {SECONDS_VARIABLE}.",
                limited=True,
            )
        if status == -signal.SIGKILL:  # ours, or that of a system without memory
            return ImageError(f"decoding it did not end within {limits.seconds:g} s", transient=True)
        if status < 0:
            return _Crashed(f"the decoder crashed on it ({signal.Signals(-status).name})")
        return ImageError("the decoder gave up on it")


def _error(answer: dict[str, Any]) -> RetrievalError:
    message, hint = answer["error"], answer.get("hint", "")
    if answer.get("usage"):
        return UsageError(message, hint)
    return ImageError(message, hint, transient=answer["transient"], limited=answer["limited"])

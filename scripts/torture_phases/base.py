"""What a phase is, and damages that any file can take."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """``result``: "read" (accepted, and as it should be), "refused" (a clear error), "failed", or a word of the phase's own.
    ``kind``: what was attacked, for the report; ``detail``: what went wrong."""

    result: str
    kind: str
    detail: str = ""


@dataclass(frozen=True)
class Phase:
    """``trial(rng, folder)`` damages something and sees what becomes of it; whatever it raises is a failure. All chance comes
    from ``rng``; ``folder`` is empty at a batch's start and may be used as one likes. A ``numbered`` one gets its number too,
    to try everything in turn. ``environment()``: variables that its process takes from its start; ``prepare()``: what a batch
    does before its first trial, on no trial's time."""

    name: str
    what: str
    trials: int  # of a short run
    trial: Callable[..., Outcome]
    most_seconds: float = 20.0
    numbered: bool = False
    environment: Callable[[], dict[str, str]] = dict
    prepare: Callable[[], object] = dict


def generator(seed: int, phase: str, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(phase.encode()), number])


def damaged(data: bytes, rng: np.random.Generator, other: bytes = b"") -> tuple[bytes, str]:
    """The data with one to four damages, and their names. ``other``: a file of which parts may get in."""
    names = []
    for _ in range(int(rng.integers(1, 5))):
        name = str(rng.choice(list(_DAMAGES)))
        data = _DAMAGES[name](data, rng, other) if data else data
        names.append(name)
    return data, "+".join(names)


def _place(data: bytes, rng: np.random.Generator) -> int:
    """Anywhere, but as often in the first 200 bytes, where headers are."""
    return int(rng.integers(0, len(data) if rng.random() < 0.5 else min(len(data), 200)))


def _span(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    begin = _place(data, rng)
    return begin, begin + int(rng.integers(1, 1 + min(len(data) - begin, 4 ** int(rng.integers(1, 7)))))


def _byte(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    place = _place(data, rng)
    return data[:place] + bytes([int(rng.integers(0, 256))]) + data[place + 1 :]


def _bit(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    place = _place(data, rng)
    return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(0, 8))]) + data[place + 1 :]


def _extreme(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    """A number becomes 0, the largest, or just beside."""
    width = int(rng.choice([1, 2, 4, 8]))
    value = int(rng.choice(np.array([0, 1, -1, -2, 127, 128], np.int64))) % (1 << 8 * width)
    order = "little" if rng.random() < 0.5 else "big"
    place = _place(data, rng)
    return data[:place] + value.to_bytes(width, order) + data[place + width :]  # type: ignore[arg-type]


def _cut(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    return data[: int(rng.integers(0, len(data)))]


def _drop(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    begin, end = _span(data, rng)
    return data[:begin] + data[end:]


def _repeat(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    begin, end = _span(data, rng)
    return data[:end] + data[begin:end] * int(rng.integers(1, 30)) + data[end:]


def _zeros(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    begin, end = _span(data, rng)
    return data[:begin] + (b"\0" if rng.random() < 0.5 else b"\xff") * (end - begin) + data[end:]


def _noise(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    begin, end = _span(data, rng)
    return data[:begin] + rng.bytes(end - begin) + data[end:]


def _swap(data: bytes, rng: np.random.Generator, _: bytes) -> bytes:
    (a, b), (c, d) = sorted((_span(data, rng), _span(data, rng)))
    return data if b > c else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _graft(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """A part of another file gets in."""
    if not other:
        return data
    begin, end = _span(other, rng)
    place = _place(data, rng)
    return data[:place] + other[begin:end] + data[place + int(rng.integers(0, 2)) * (end - begin) :]


def _tail(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """As when a write was torn: the first part of one file, the rest of another."""
    place = _place(data, rng)
    return data[:place] + (other or data)[place:]


_DAMAGES: dict[str, Callable[[bytes, np.random.Generator, bytes], bytes]] = {
    name.strip("_"): function
    for name, function in list(globals().items())
    if name in ("_byte", "_bit", "_extreme", "_cut", "_drop", "_repeat", "_zeros", "_noise", "_swap", "_graft", "_tail")
}

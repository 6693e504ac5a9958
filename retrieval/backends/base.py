"""What a served engine does for a gallery: keeps entries by key, and finds candidates. Scores and ties are not its business.

A name is what a match is called: a path or a URI. Its key is a 128-bit hash of it. What :meth:`Backend.upsert` and
:meth:`Backend.delete` have done when they return is on the server's disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Entry:
    """A picture: ``vector`` float32 (D,). ``size`` in bytes and ``mtime_ns``: -1 where unknown."""

    name: str
    hash: str
    size: int
    mtime_ns: int
    width: int | None
    height: int | None
    vector: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Seen:
    """An entry without its vector."""

    hash: str
    size: int
    mtime_ns: int
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Candidates:
    """``names`` and their ``vectors`` float32 (N, D), in no order that counts. ``all``: there are no others."""

    names: list[str]
    vectors: npt.NDArray[np.float32]
    all: bool


class Backend(Protocol):
    """A gallery in a served engine. ``description``: what was kept with it when it was made, see :mod:`.served`."""

    address: str
    """With what is secret in it: see :func:`retrieval.gallery.address.shown`."""

    description: dict[str, Any]
    longest_name: int | None
    """In bytes of UTF-8; None without a limit."""

    def upsert(self, entries: Sequence[Entry]) -> None:
        """Add or replace by name. Raises GalleryError."""

    def delete(self, names: Sequence[str]) -> None:
        """Take out by name."""

    def seen(self, names: Sequence[str]) -> dict[str, Seen]:
        """What is known of these names."""

    def entries(self, names: Sequence[str]) -> list[Entry]:
        """Those that there are of these names, with their vectors, in no order that counts."""

    def has(self, hashes: Sequence[str]) -> set[str]:
        """Which of these content hashes have a vector."""

    def names(self, under: str | None = None) -> Iterator[str]:
        """Names of all, or of what lies in a folder or is that very name; ascending as bytes."""

    def page(self, after: bytes, limit: int, under: str | None = None) -> list[str]:
        """At most so many names by ascending key, from the first key (16 bytes) after ``after`` on."""

    def count(self, under: str | None = None) -> int:
        """How many entries there are, in all or under a folder."""

    def nearest(self, vector: npt.NDArray[np.float32], k: int, effort: int) -> Candidates:
        """About the ``k`` nearest by the engine's index, which looks the harder the more ``effort``."""

    def exact(self, vectors: npt.NDArray[np.float32], k: int, under: str | None = None) -> list[Candidates]:
        """For each of ``vectors`` (Q, D) the ``k`` nearest for sure, of all or of what lies under a folder."""

    def sample(self, count: int) -> Candidates:
        """At most so many entries, chosen by their keys, which are random."""

    def settle(self) -> None:
        """After a run: make the index where it is worth it."""

    def describe(self, changes: dict[str, Any]) -> None:
        """Keep these in the description."""

    def bytes_on_disk(self) -> int | None:
        """None where the engine does not tell."""

    def close(self) -> None:
        """Let the connection go."""


def key_of(name: str) -> bytes:
    """16 bytes."""
    return hashlib.blake2b(name.encode("utf-8"), digest_size=16).digest()


def id_of(name: str) -> int:
    """What a match is called in a number: the first 53 bits of its key, which any reader of JSON keeps. Ids ascend as keys do."""
    return int.from_bytes(key_of(name)[:8], "big") >> 11


def before_id(number: int) -> bytes:
    """The greatest key (16 bytes) before those of this id; for 0, a key that no name is likely to have."""
    return max(min(number << 75, 1 << 128) - 1, 0).to_bytes(16, "big")


def in_parts(values: Sequence[str], most: int = 500) -> Iterator[Sequence[str]]:
    """Values in parts of so many at most, as one statement names them."""
    for begin in range(0, len(values), most):
        yield values[begin : begin + most]


def folder_range(under: str) -> tuple[str, str, str]:
    """The name itself, and the half-open range of names below it, where names are compared byte by byte."""
    bare = under.rstrip("/") if under.strip("/") else ""
    return bare, f"{bare}/", f"{bare}0"  # "0" follows "/"

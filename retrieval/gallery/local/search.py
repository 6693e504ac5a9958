"""One query in the local index: every content's similarity, and for single ones the geometry of what they share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from retrieval.files.digest import HASH_BYTES
from retrieval.gallery.local.block import Block
from retrieval.ranking.asmk import LocalCodes
from retrieval.ranking.pose import Agreement


class LocalSearch:
    """What a query's codes share with the contents of all blocks, which are numbered through. ``similarities`` float64 (C,): of
    every content."""

    def __init__(self, blocks: list[Block], query: LocalCodes) -> None:
        self.blocks, self.query = blocks, query
        self._hits = [block.inverted.hits(query) for block in blocks]
        each = [b.inverted.similarities(query, h) for b, h in zip(blocks, self._hits, strict=True)]
        self.similarities: npt.NDArray[np.float64] = np.concatenate([np.zeros(0), *each])
        self._ends = np.cumsum([len(block) for block in blocks])
        self._order: npt.NDArray[np.int64] | None = None

    def best(self, first: int, count: int) -> list[str]:
        """The contents from place ``first`` on, best first, by hash in hexadecimal; only such as share anything."""
        if self._order is None:
            some = np.flatnonzero(self.similarities > 0)
            self._order = some[np.argsort(-self.similarities[some], kind="stable")]
        found = []
        for number in self._order[first : first + count].tolist():
            block, inside = self._place(number)
            found.append(self.blocks[block].hashes[inside].tobytes().hex())
        return found

    def numbers_of(self, digests: Sequence[str | None]) -> npt.NDArray[np.int64]:
        """The numbers of contents by their hashes in hexadecimal, int64 (N,), -1 where one has no codes."""
        known = [i for i, digest in enumerate(digests) if digest is not None]
        found = np.full(len(digests), -1, np.int64)
        found[known] = self.numbers_of_hashes(as_hashes([digest for digest in digests if digest is not None]))
        return found

    def numbers_of_hashes(self, digests: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
        """The same for content hashes, void28 (N,)."""
        found = np.full(len(digests), -1, np.int64)
        left, first = np.arange(len(digests)), 0
        for block in self.blocks:
            numbers = block.find_all(digests)
            here = numbers >= 0
            found[left[here]] = first + numbers[here]
            left, digests, first = left[~here], digests[~here], first + len(block)
        return found

    def similarities_of(self, numbers: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Of contents by number, float64 (N,); NaN for -1."""
        found = np.full(len(numbers), np.nan)
        found[numbers >= 0] = self.similarities[numbers[numbers >= 0]]
        return found

    def geometry(self, number: int) -> Agreement:
        """How many points of the query and of a content agree, and where."""
        block, inside = self._place(number)
        return self.blocks[block].inverted.geometry(self.query, self._hits[block], inside)

    def _place(self, number: int) -> tuple[int, int]:
        """A content's block, and its number there."""
        block = int(np.searchsorted(self._ends, number, side="right"))
        return block, number - (int(self._ends[block - 1]) if block else 0)


def as_hashes(digests: Sequence[str]) -> npt.NDArray[np.void]:
    """Hashes in hexadecimal as void28 (N,)."""
    return np.frombuffer(bytes.fromhex("".join(digests)), f"V{HASH_BYTES}")

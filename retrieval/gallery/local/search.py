"""One query in the local index: every content's similarity, and for single ones the geometry of what they share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from retrieval.files.digest import HASH_BYTES
from retrieval.gallery.local.block import Block
from retrieval.ranking.asmk import LocalCodes
from retrieval.ranking.pose import Pose, estimate


class LocalSearch:
    """What a query's codes share with the contents of all blocks. ``similarities`` float64 (C,): of every content."""

    def __init__(self, blocks: list[Block], query: LocalCodes) -> None:
        self.blocks, self.query = blocks, query
        self._hits = [block.inverted.hits(query) for block in blocks]
        self._each = [b.inverted.similarities(query, h) for b, h in zip(blocks, self._hits, strict=True)]
        self.similarities: npt.NDArray[np.float64] = np.concatenate([np.zeros(0), *self._each])
        self._ends = np.cumsum([len(block) for block in blocks])
        self._order: npt.NDArray[np.int64] | None = None

    def best(self, first: int, count: int) -> list[str]:
        """The contents from place ``first`` on, best first, by hash in hexadecimal; only such as share anything."""
        if self._order is None:
            some = np.flatnonzero(self.similarities > 0)
            self._order = some[np.argsort(-self.similarities[some], kind="stable")]
        found = []
        for i in self._order[first : first + count]:
            block = int(np.searchsorted(self._ends, i, side="right"))
            inside = int(i) - (int(self._ends[block - 1]) if block else 0)
            found.append(self.blocks[block].hashes[inside].tobytes().hex())
        return found

    def similarities_of(self, digests: Sequence[str | None]) -> npt.NDArray[np.float64]:
        """Of these contents, by hash in hexadecimal, float64 (N,); NaN where one has no codes."""
        known = np.array([i for i, digest in enumerate(digests) if digest is not None], np.int64)
        found = np.full(len(digests), np.nan)
        found[known] = self.similarities_of_hashes(as_hashes([digest for digest in digests if digest is not None]))
        return found

    def similarities_of_hashes(self, digests: npt.NDArray[np.void]) -> npt.NDArray[np.float64]:
        """The same for content hashes, void28 (N,)."""
        found = np.full(len(digests), np.nan)
        left = np.arange(len(digests))
        for block, each in zip(self.blocks, self._each, strict=True):
            numbers = block.find_all(digests)
            here = numbers >= 0
            found[left[here]] = each[numbers[here]]
            left, digests = left[~here], digests[~here]
        return found

    def pose(self, digest: str | None) -> Pose | None:
        """How the query lies in this content; None where it has no codes."""
        if digest is not None:
            for block, hits in zip(self.blocks, self._hits, strict=True):
                number = block.find(bytes.fromhex(digest))
                if number is not None:
                    return block.inverted.pose(self.query, hits, number)
        return None

    def agreeing(self, digest: str | None) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]] | None:
        """Places of the pairs of points that agree in one pose, in the query and in this content, uint8 (M, 4) each, see
        :func:`retrieval.ranking.asmk.places`; None where it has no codes."""
        if digest is not None:
            for block, hits in zip(self.blocks, self._hits, strict=True):
                number = block.find(bytes.fromhex(digest))
                if number is not None:
                    ours, theirs = block.inverted.pairs(self.query, hits, number)
                    inside = estimate(ours, theirs).agreeing
                    return ours[inside], theirs[inside]
        return None


def as_hashes(digests: Sequence[str]) -> npt.NDArray[np.void]:
    """Hashes in hexadecimal as void28 (N,)."""
    return np.frombuffer(bytes.fromhex("".join(digests)), f"V{HASH_BYTES}")

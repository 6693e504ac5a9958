"""An inverted file of binary local codes: for each word of a codebook, the pictures that have it and their codes.

A query touches the lists of its own words alone. Arrays may be memory-mapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.ranking.asmk import CODE_BYTES, SHORTEST, WEIGHTS, LocalCodes, count_ones, normalised
from retrieval.ranking.pose import Agreement, estimate

MOST_PICTURES = 1 << 14  # in one inverted file: their numbers fit two bytes, and writing one takes 100 MB of memory
_FARTHEST = 64 - SHORTEST
_SHORT = 512  # entries in a list, on average, up to which all are gathered at once


@dataclass(frozen=True)
class Hits:
    """Shared words of a query and pictures, those that count: the word's position in the query's list, the picture's number,
    the entry in the inverted file, all int64 (H,), and the Hamming distance of both codes, uint8 (H,)."""

    query_words: npt.NDArray[np.int64]
    pictures: npt.NDArray[np.int64]
    entries: npt.NDArray[np.int64]
    distances: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class InvertedCodes:
    """P pictures with E words in all: ``counts`` uint16 (P,) how many words each has; the entries of word w are those from
    ``offsets[w]`` to ``offsets[w + 1]``, int64 (K + 1,); ``postings`` uint16 (E,) the picture of each entry, ascending within
    a word; ``planes`` uint64 (2, E) the first and the second half of each code, and ``places`` uint8 (E, 4), as in
    :class:`LocalCodes`. (Two planes, since NumPy's loops are fast along long rows alone.)"""

    counts: npt.NDArray[np.uint16]
    offsets: npt.NDArray[np.int64]
    postings: npt.NDArray[np.uint16]
    planes: npt.NDArray[np.uint64]
    places: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.counts)

    def hits(self, query: LocalCodes) -> Hits:
        """What the query shares with the pictures, by ascending word, then picture."""
        begins = self.offsets[query.words.astype(np.int64)]
        ends = self.offsets[query.words.astype(np.int64) + 1]
        lengths = ends - begins
        total = int(lengths.sum())
        starts = np.cumsum(lengths) - lengths
        if total < _SHORT * len(query):
            entries = np.repeat(begins - starts, lengths)
            entries += np.arange(total)
            distances = self._gathered(query, entries, lengths)
            near = np.flatnonzero(distances <= _FARTHEST)
            entries, words = entries[near], np.repeat(np.arange(len(query)), lengths)[near]
        else:
            distances = self._streamed(query, begins.tolist(), ends.tolist(), total)
            near = np.flatnonzero(distances <= _FARTHEST)
            words = np.searchsorted(starts, near, side="right") - 1
            # Several words may start where an empty list does: the last of them is the one that is not empty.
            entries = near - starts[words] + begins[words]
        return Hits(words, self.postings[entries].astype(np.int64), entries, distances[near])

    def _gathered(
        self, query: LocalCodes, entries: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.uint8]:
        """Hamming distances of each query word's code to all codes of its list, one list after the other, uint8 (total,): all at
        once, for lists so short that a step for each would cost more."""
        counts = np.empty((2, len(entries)), np.uint8)
        for plane, asked, out in zip(self.planes, to_planes(query.codes), counts, strict=True):
            count_ones(np.bitwise_xor(plane[entries], np.repeat(asked, lengths)), out)
        return np.add(counts[0], counts[1], out=counts[0])

    def _streamed(self, query: LocalCodes, begins: list[int], ends: list[int], total: int) -> npt.NDArray[np.uint8]:
        """The same, list by list."""
        longest = max((end - begin for begin, end in zip(begins, ends, strict=True)), default=0)
        differing = np.empty(longest, np.uint64)  # stays in the processor's cache
        counts = np.empty((2, total), np.uint8)
        for plane, asked, out in zip(self.planes, to_planes(query.codes), counts, strict=True):
            done = 0
            for half, begin, end in zip(asked, begins, ends, strict=True):
                length = end - begin
                np.bitwise_xor(plane[begin:end], half, out=differing[:length])
                count_ones(differing[:length], out[done : done + length])
                done += length
        return np.add(counts[0], counts[1], out=counts[0])

    def similarities(self, query: LocalCodes, hits: Hits) -> npt.NDArray[np.float64]:
        """The kernel's value of each picture (P,), as :func:`retrieval.ranking.asmk.similarity` has it, to the bit."""
        totals = np.bincount(hits.pictures, WEIGHTS[hits.distances], minlength=len(self))
        return normalised(totals, len(query), self.counts.astype(np.int64))

    def geometry(self, query: LocalCodes, hits: Hits, picture: int) -> Agreement:
        """How many points of a query and of the picture of this number agree, and where."""
        ours, theirs = self.pairs(query, hits, picture)
        found = estimate(ours, theirs)
        return Agreement(found.inliers, query.places, ours[found.agreeing], theirs[found.agreeing])

    def pairs(self, query: LocalCodes, hits: Hits, picture: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """Places of what a query shares with the picture of this number, in both, uint8 (M, 4) each, most alike first."""
        shared = np.flatnonzero(hits.pictures == picture)
        shared = shared[np.argsort(hits.distances[shared], kind="stable")]
        return query.places[hits.query_words[shared]], np.asarray(self.places[hits.entries[shared]])

    def pictures(self) -> list[LocalCodes]:
        """What was inverted."""
        order = np.argsort(self.postings, kind="stable")
        words = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets)).astype(np.uint16)[order]
        codes, where = to_codes(self.planes[:, order]), np.asarray(self.places)[order]
        ends = np.cumsum(self.counts.astype(np.int64)).tolist()
        return [
            LocalCodes(words[begin:end], codes[begin:end], where[begin:end])
            for begin, end in zip([0, *ends[:-1]], ends, strict=True)
        ]


def invert(pictures: Sequence[LocalCodes], words: int) -> InvertedCodes:
    """The inverted file of at most 16,384 pictures, for a codebook of so many ``words``."""
    assert len(pictures) <= MOST_PICTURES
    counts = np.array([len(picture) for picture in pictures], np.uint16)
    flat = np.concatenate([np.zeros(0, np.uint16), *(picture.words for picture in pictures)])
    order = np.argsort(flat, kind="stable")
    offsets = np.zeros(words + 1, np.int64)
    np.cumsum(np.bincount(flat, minlength=words), out=offsets[1:])
    postings = np.repeat(np.arange(len(pictures), dtype=np.uint16), counts)[order]
    codes = np.concatenate([np.zeros((0, CODE_BYTES), np.uint8), *(picture.codes for picture in pictures)])[order]
    where = np.concatenate([np.zeros((0, 4), np.uint8), *(picture.places for picture in pictures)])[order]
    return InvertedCodes(counts, offsets, postings, to_planes(codes), where)


def to_planes(codes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Codes (E, 16) as uint64 (2, E)."""
    return np.ascontiguousarray(np.ascontiguousarray(codes).view(np.uint64).T)


def to_codes(planes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint8]:
    """The inverse of :func:`to_planes`."""
    return np.ascontiguousarray(planes.T).view(np.uint8).reshape(-1, CODE_BYTES)

"""An inverted file of binary local codes: for each word of a codebook, the pictures that have it and their codes.

A query touches the lists of its own words alone. Arrays may be memory-mapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.ranking.asmk import CODE_BYTES, SHORTEST, WEIGHTS, LocalCodes, normalised, ones

MOST_PICTURES = 1 << 14  # in one inverted file: their numbers fit two bytes, and writing one takes 100 MB of memory
_FARTHEST = 64 - SHORTEST


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
    a word, ``codes`` uint8 (E, 16) and ``places`` uint8 (E, 4) as in :class:`LocalCodes`."""

    counts: npt.NDArray[np.uint16]
    offsets: npt.NDArray[np.int64]
    postings: npt.NDArray[np.uint16]
    codes: npt.NDArray[np.uint8]
    places: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.counts)

    def hits(self, query: LocalCodes) -> Hits:
        """What the query shares with the pictures, by ascending word, then picture."""
        begins = self.offsets[query.words.astype(np.int64)]
        ends = self.offsets[query.words.astype(np.int64) + 1]
        lengths = ends - begins
        distances = np.empty(int(lengths.sum()), np.uint8)
        differing = np.empty((int(lengths.max(initial=0)), CODE_BYTES), np.uint8)
        done = 0
        for code, begin, end in zip(query.codes, begins.tolist(), ends.tolist(), strict=True):
            found = np.bitwise_xor(self.codes[begin:end], code, out=differing[: end - begin])
            distances[done : done + end - begin] = ones(found)
            done += end - begin
        near = np.flatnonzero(distances <= _FARTHEST)
        starts = np.cumsum(lengths) - lengths
        words = np.searchsorted(starts, near, side="right") - 1
        # Several words may start where an empty list does: the last of them is the one that is not empty.
        entries = near - starts[words] + begins[words]
        return Hits(words, self.postings[entries].astype(np.int64), entries, distances[near])

    def similarities(self, query: LocalCodes, hits: Hits) -> npt.NDArray[np.float64]:
        """The kernel's value of each picture (P,), as :func:`retrieval.ranking.asmk.similarity` has it, to the bit."""
        totals = np.bincount(hits.pictures, WEIGHTS[hits.distances], minlength=len(self))
        return normalised(totals, len(query), self.counts.astype(np.int64))

    def pictures(self) -> list[LocalCodes]:
        """What was inverted."""
        order = np.argsort(self.postings, kind="stable")
        words = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets)).astype(np.uint16)[order]
        codes, where = np.asarray(self.codes)[order], np.asarray(self.places)[order]
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
    return InvertedCodes(counts, offsets, postings, codes, where)

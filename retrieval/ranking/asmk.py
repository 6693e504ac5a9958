"""Local evidence that two pictures show one thing: the binary aggregated selective match kernel (ASMK) over root-SIFT points.

Points are assigned to the words of a codebook; the residuals of a word's points are added and reduced to their signs, 16
bytes a word (Tolias, Avrithis and Jegou, "To aggregate or not to aggregate", ICCV 2013). Two pictures are alike by the words
that they share: c = 1 - hamming / 64 of the two codes counts as c^3 where c > 0.1, and the sum is divided by the root of both
numbers of words (equation 9 there, with sigma(c) = c^3; alpha = 3 as in Tolias et al., "Learning and aggregating deep local
descriptors", ECCV 2020). A picture has similarity 1 with itself.

All of it is whole numbers until the last division, so results are equal to the bit on every machine and in any order.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrieval.errors import UsageError
from retrieval.ranking.geometry import OrientedFeatures
from retrieval.ranking.sift import DIM as DIM
from retrieval.ranking.sift.room import room

BITS = 128
CODE_BYTES = BITS // 8
WORD_BYTES = 2 + CODE_BYTES + 4  # of a picture: its number, its code, its place
SHORTEST = 64 - 57  # c > 0.1 is hamming <= 57: a shared word counts (64 - hamming)^3 from here on
UNIT = 64**3  # what a shared word with equal codes counts
QUERY_WORDS = 3
MOST_WORDS = 270  # of a gallery image: 22 bytes each, so an image takes at most 6 KB
_CODEBOOK = Path(__file__).parent / "data" / "rootsift2048.bin"
_POINTS_AT_ONCE = 512

# What a word with this Hamming distance counts, 0 beyond 57.
WEIGHTS: npt.NDArray[np.int64] = np.array([max(64 - h, 0) ** 3 if 64 - h >= SHORTEST else 0 for h in range(BITS + 1)])
_ONES = np.array([bin(i).count("1") for i in range(256)], np.uint8)


@dataclass(frozen=True)
class LocalCodes:
    """An image's words, uint16 (W,) ascending and each once, their codes, uint8 (W, 16), and where the strongest point of each
    lies, ``places`` uint8 (W, 4): see :func:`places`."""

    words: npt.NDArray[np.uint16]
    codes: npt.NDArray[np.uint8]
    places: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.words)

    def to_bytes(self) -> bytes:
        """22 bytes a word: all words (little-endian), then all codes, then all places."""
        return self.words.astype("<u2").tobytes() + self.codes.tobytes() + self.places.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> LocalCodes:
        """Inverse of :meth:`to_bytes`. Raises ValueError for what has no such length."""
        count, rest = divmod(len(data), WORD_BYTES)
        if rest:
            raise ValueError(f"{len(data)} bytes are no local codes")
        words = np.frombuffer(data, "<u2", count).astype(np.uint16)
        codes = np.frombuffer(data, np.uint8, CODE_BYTES * count, 2 * count).reshape(count, CODE_BYTES)
        places = np.frombuffer(data, np.uint8, 4 * count, (2 + CODE_BYTES) * count).reshape(count, 4)
        return cls(words, codes, places)


NOTHING = LocalCodes(np.zeros(0, np.uint16), np.zeros((0, CODE_BYTES), np.uint8), np.zeros((0, 4), np.uint8))


class Codebook:
    """``words`` uint8 (K, 128): root-SIFT vectors times 512, as :func:`retrieval.ranking.geometry.local_features` gives them.
    ``name`` identifies them: codes of different codebooks cannot be compared."""

    def __init__(self, words: npt.NDArray[np.uint8]) -> None:
        if words.ndim != 2 or words.shape[1] != DIM or words.dtype != np.uint8 or not 0 < len(words) <= 1 << 16:
            raise UsageError(f"a codebook is uint8 (K, {DIM}), not {words.dtype} {words.shape}")
        self.words = words
        self.name = f"rootsift{len(words)}-{hashlib.sha256(words.tobytes()).hexdigest()[:12]}"
        halves = 0.5 * np.square(words.astype(np.float32)).sum(axis=1)
        self._columns = np.vstack([words.astype(np.float32).T, -halves])  # a.b - b.b / 2 in one product

    def __len__(self) -> int:
        return len(self.words)

    def assign(self, descriptors: npt.NDArray[np.uint8], count: int = 1) -> npt.NDArray[np.int64]:
        """The ``count`` nearest words of each descriptor (N, 128), int64 (N, count), nearest first; the lower of equal ones."""
        out = np.empty((len(descriptors), count), np.int64)
        for begin in range(0, len(descriptors), _POINTS_AT_ONCE):
            part = descriptors[begin : begin + _POINTS_AT_ONCE]
            # Halves of whole numbers below 2^24: exact in float32, whatever the order of additions.
            points = np.ones((len(part), DIM + 1), np.float32)
            points[:, :DIM] = part
            closeness = np.matmul(points, self._columns, out=room("closeness", (len(part), len(self))))
            rows = np.arange(len(part))
            for place in range(count):
                nearest = closeness.argmax(axis=1)
                out[begin : begin + len(part), place] = nearest
                closeness[rows, nearest] = np.finfo(np.float32).min
        return out

    def aggregate(self, features: OrientedFeatures, *, query: bool = False, most: int = MOST_WORDS) -> LocalCodes:
        """Words and codes of an image's features, strongest first: three words a point for a query, one for a gallery image
        and at most ``most`` words, those of its strongest points."""
        if not len(features.points):
            return NOTHING
        each = QUERY_WORDS if query else 1
        near = self.assign(features.descriptors, each).ravel().astype(np.uint16)
        order = np.argsort(near, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(near[order]) != 0])
        first = order[starts]
        words = near[first]
        # Most words have one point: its signs can be had by comparing bytes.
        above = features.descriptors[first // each] > self.words[words]
        counts = np.diff(np.r_[starts, len(near)])
        if len(several := np.flatnonzero(counts > 1)):
            points = order[np.repeat(counts > 1, counts)]
            residuals = features.descriptors[points // each].astype(np.int32) - self.words[near[points]]
            above[several] = np.add.reduceat(residuals, np.cumsum(counts[several]) - counts[several], axis=0) > 0
        codes = np.packbits(above, axis=1)
        where = places(features)[first // each]
        if not query and len(words) > most:
            kept = np.sort(np.argsort(first, kind="stable")[:most])
            words, codes, where = words[kept], codes[kept], where[kept]
        return LocalCodes(words, codes, where)


def places(features: OrientedFeatures) -> npt.NDArray[np.uint8]:
    """Where points lie, uint8 (N, 4): x and y in 256ths of the longest side, diameter in 16ths of a doubling from a 512th of the
    longest side on, orientation in 256ths of a turn."""
    side = float(max(features.size))
    position = np.floor((features.points + 0.5) * (256 / side))
    size = np.rint(16 * np.log2(np.maximum(features.shapes[:, 0] * (512 / side), 1.0)))
    angle = np.rint(features.shapes[:, 1] * (256 / 360)) % 256
    table = np.stack([position[:, 0], position[:, 1], size, angle], axis=1)
    result: npt.NDArray[np.uint8] = np.clip(table, 0, 255).astype(np.uint8)
    return result


@functools.cache
def standard_codebook() -> Codebook:
    """2,048 words, learned by ``scripts/train_codebook.py`` on openly licensed photos."""
    return Codebook(np.frombuffer(_CODEBOOK.read_bytes(), np.uint8).reshape(-1, DIM))


def similarity(query: LocalCodes, other: LocalCodes) -> float:
    """The kernel's value for two images; 0 where either has no words."""
    _, a, b = np.intersect1d(query.words, other.words, assume_unique=True, return_indices=True)
    total = int(WEIGHTS[hamming(query.codes[a], other.codes[b])].sum())
    return float(normalised(np.array([total]), len(query), np.array([len(other)]))[0])


def normalised(totals: npt.NDArray[np.int64], query: int, others: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Sums of weights (N,) as similarities, for a query of ``query`` words and images of ``others`` (N,) words."""
    result: npt.NDArray[np.float64] = totals / (UNIT * np.sqrt(float(max(query, 1)) * np.maximum(others, 1)))
    return result


def hamming(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """In how many bits codes (..., 16) differ, uint8 (...)."""
    differing = np.bitwise_xor(a, b).view(np.uint64)
    counts = np.empty(differing.shape, np.uint8)
    count_ones(differing, counts)
    return counts.sum(axis=-1, dtype=np.uint8)


def count_ones(numbers: npt.NDArray[np.uint64], out: npt.NDArray[np.uint8]) -> None:
    """How many bits are set in each number, into ``out`` of the same shape."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        np.bitwise_count(numbers, out=out)
    else:
        _ONES[numbers[..., None].view(np.uint8)].sum(axis=-1, out=out)

"""Local features measured on a set: points, picture sizes and codebooks against time, bytes and mAP; and time against size."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.describe.model import Model
from retrieval.errors import UsageError
from retrieval.evaluation.evaluator import KS, labels_of, protocols_of
from retrieval.evaluation.protocol import evaluate_rankings
from retrieval.gallery.local.block import Block
from retrieval.gallery.local.pictures import LEAST_SIDE
from retrieval.gallery.local.search import LocalSearch
from retrieval.messages import Bars, no_bars
from retrieval.ranking import evidence
from retrieval.ranking.asmk import CODE_BYTES, DIM, WORD_BYTES, Codebook, LocalCodes, standard_codebook
from retrieval.ranking.geometry import OrientedFeatures, local_features
from retrieval.ranking.inverted import MOST_PICTURES, InvertedCodes, invert

_DISTINCT_BLOCKS = 4  # of drawn codes; a larger gallery has each of them several times
_TIMED = 20


@dataclass(frozen=True)
class LocalRow:
    """One setting. ``milliseconds`` of one core a picture, without decoding; ``bytes`` a picture, mean; mAP (medium, or the set's
    one protocol) of the cosine, the local similarity and both, in fractions of 1."""

    codebook: str
    words: int
    side: int
    points: int
    milliseconds: float
    bytes: float
    cosine: float
    local: float
    fused: float


@dataclass(frozen=True)
class SizeRow:
    """A gallery of ``pictures`` drawn codes: ``milliseconds`` (median) and ``p95`` of one query's local search, one core."""

    pictures: int
    milliseconds: float
    p95: float
    bytes: float


def read_codebook(path: str) -> Codebook:
    """A file of uint8 (K, 128), as ``scripts/train_codebook.py`` writes it. Raises UsageError."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from error
    if not data or len(data) % DIM:
        raise UsageError(f"{path} is no codebook: its length is not a multiple of {DIM}")
    return Codebook(np.frombuffer(data, np.uint8).reshape(-1, DIM))


def benchmark_local(
    truth: GroundTruth,
    model: Model,
    *,
    sides: Sequence[int] = (400, 512, 640),
    points: Sequence[int] = (300, 400, 500),
    codebooks: Sequence[Codebook] | None = None,
    bars: Bars = no_bars,
) -> Iterator[LocalRow]:
    """Every pair of ``sides`` and ``points`` at the same place in both lists, with every codebook. One picture after the other on
    one core, so that times can be compared. Raises ImageError."""
    if len(sides) != len(points):
        raise UsageError("as many sides as numbers of points are needed: they go in pairs")
    gallery = [str(truth.root / path) for path in truth.gallery]
    asked = [(str(truth.root / query.image), query.bbox) for query in truth.queries]
    vectors = model.describe(gallery)
    queries = np.stack([model.describe(path, box) for path, box in asked])
    size = model.spec.image.size
    shown = Model(model.spec.with_image(size=size and max(size, LEAST_SIDE)))  # as galleries see them
    for side, count in zip(sides, points, strict=True):
        found, spent = [], 0.0
        with threadpool_limits(1, user_api="blas"), bars(f"{side} px, {count} points") as update:
            for done, path in enumerate(gallery, 1):
                image = shown.load(path)
                started = time.thread_time()
                found.append(local_features(image, count, side))
                spent += time.thread_time() - started
                update(done, len(gallery))
            wanted = [local_features(shown.load(path, box), count, side) for path, box in asked]
            for codebook in codebooks or [standard_codebook()]:
                yield _row(truth, codebook, side, count, spent / len(gallery), found, wanted, vectors, queries)


def _row(
    truth: GroundTruth,
    codebook: Codebook,
    side: int,
    points: int,
    seconds: float,
    found: list[OrientedFeatures],
    wanted: list[OrientedFeatures],
    vectors: npt.NDArray[np.float32],
    queries: npt.NDArray[np.float32],
) -> LocalRow:
    started = time.thread_time()
    pictures = [codebook.aggregate(features) for features in found]
    seconds += (time.thread_time() - started) / len(found)
    inverted = invert(pictures, len(codebook))
    rankings: dict[str, list[npt.NDArray[np.int64]]] = {"cosine": [], "local": [], "fused": []}
    for vector, features in zip(queries, wanted, strict=True):
        cosine = vectors @ vector
        local, fused = _scores(inverted, codebook.aggregate(features, query=True), cosine)
        for name, scores in (("cosine", cosine), ("local", local), ("fused", fused)):
            rankings[name].append(np.argsort(-scores, kind="stable"))
    figures = {name: _map(truth, ranking) for name, ranking in rankings.items()}
    size = WORD_BYTES * float(np.mean([len(codes) for codes in pictures]))
    return LocalRow(codebook.name, len(codebook), side, points, 1000 * seconds, size, **figures)


def _scores(
    inverted: InvertedCodes, query: LocalCodes, cosine: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Local similarities and log-odds of all pictures."""
    hits = inverted.hits(query)
    local = inverted.similarities(query, hits)
    z_cosine = evidence.background(cosine, evidence.PRIOR_COSINE).z(cosine)
    z_local = evidence.background(local, evidence.PRIOR_LOCAL).z(local)
    odds, _ = evidence.weigh(z_cosine, z_local, lambda i: inverted.geometry(query, hits, i))
    return local, odds


def _map(truth: GroundTruth, rankings: list[npt.NDArray[np.int64]]) -> float:
    results = evaluate_rankings(
        rankings, labels_of(truth), len(truth.gallery), truncated=False, protocols=protocols_of(truth), ks=KS
    )
    result = results.get("medium") or next(iter(results.values()))
    return float(result.mean_average_precision)


def benchmark_sizes(sizes: Sequence[int], *, words_a_picture: int = 255, seed: int = 0) -> Iterator[SizeRow]:
    """Local search among codes that are drawn: words as frequent as each other, random bits; a query of 750 words."""
    rng = np.random.default_rng(seed)
    words = len(standard_codebook())
    drawn: list[Block] = []
    for size in sizes:
        whole, rest = divmod(size, MOST_PICTURES)
        while len(drawn) < min(whole, _DISTINCT_BLOCKS):
            drawn.append(_drawn(rng, MOST_PICTURES, words, words_a_picture))
        blocks = [drawn[i % len(drawn)] for i in range(whole)]
        if rest:
            blocks.append(_drawn(rng, rest, words, words_a_picture))
        spent = []
        for _ in range(_TIMED):
            query = _codes(rng, words, 750)
            started = time.perf_counter()
            LocalSearch(blocks, query).best(0, 100)
            spent.append(1000 * (time.perf_counter() - started))
        yield SizeRow(size, float(np.median(spent)), float(np.quantile(spent, 0.95)), WORD_BYTES * words_a_picture)


def _drawn(rng: np.random.Generator, pictures: int, words: int, each: int) -> Block:
    """A block in memory."""
    entries = pictures * each
    flat = rng.integers(0, words, entries)
    order = np.argsort(flat, kind="stable")
    offsets = np.zeros(words + 1, np.int64)
    np.cumsum(np.bincount(flat, minlength=words), out=offsets[1:])
    inverted = InvertedCodes(
        np.full(pictures, each, np.uint16),
        offsets,
        np.repeat(np.arange(pictures, dtype=np.uint16), each)[order],
        rng.integers(0, 1 << 64, (2, entries), dtype=np.uint64),
        rng.integers(0, 256, (entries, 4), dtype=np.uint8),
    )
    hashes = np.sort(rng.integers(0, 256, (pictures, 28), dtype=np.uint8).view("S28").reshape(-1))
    return Block(inverted, np.frombuffer(hashes.tobytes(), "V28"))


def _codes(rng: np.random.Generator, words: int, count: int) -> LocalCodes:
    chosen = np.sort(rng.choice(words, count, replace=False)).astype(np.uint16)
    return LocalCodes(
        chosen,
        rng.integers(0, 256, (count, CODE_BYTES), dtype=np.uint8),
        rng.integers(0, 256, (count, 4), dtype=np.uint8),
    )

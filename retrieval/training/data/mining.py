"""Tuples of an epoch: which queries and positives, which pool, and the hardest negatives from it.

What is drawn depends on the set, the seed and the epoch alone. Mining takes descriptors and returns positions; it knows no
network. The rules are those of Radenović, Tolias and Chum ("Fine-tuning CNN Image Retrieval with No Human Annotation",
TPAMI 2018, section 3): negatives by descriptor similarity, never of the query's cluster, at most one of each cluster.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from retrieval.errors import DatasetError, UsageError
from retrieval.messages import count_of
from retrieval.ranking.neighbours import exact_similarities, rounding_bound
from retrieval.training.data.training_set import TrainingSet

_SCORES_AT_ONCE = 1 << 24  # float32 products in memory: 64 MiB
_QUERIES, _POSITIVES, _POOL = 1, 2, 3  # random streams


@dataclass(frozen=True, eq=False)
class EpochDraw:
    """``pairs``: int64 (Q, 2), query and positive; ``pool``: int64 (P,), ascending, where negatives come from. Positions in
    the training set. ``notes``: where less was drawn than asked for."""

    pairs: np.ndarray
    pool: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MinedTuple:
    """Positions in the training set; negatives hardest first."""

    query: int
    positive: int
    negatives: tuple[int, ...]


@dataclass(frozen=True)
class Mined:
    """``negative_distance``, ``positive_distance``: mean Euclidean distance between the queries' descriptors and those of
    their negatives and positives (NaN where the positives' are not known). ``notes``: what the user should know."""

    tuples: list[MinedTuple]
    negative_distance: float
    positive_distance: float = float("nan")
    notes: list[str] = field(default_factory=list)


def draw_epoch(data: TrainingSet, *, queries: int, pool: int, seed: int, epoch: int) -> EpochDraw:
    """Up to ``queries`` pairs and ``pool`` pictures for an epoch (counted from 0), drawn without repetition.

    Pairs are the set's own, or else any picture that has a match with a match of it, or with itself where a picture's views
    are its matches. The same arguments give the same draw. Raises UsageError for counts below 1, DatasetError where nothing
    matches.
    """
    if min(queries, pool) < 1 or seed < 0 or epoch < 0:
        raise UsageError(f"cannot draw {queries} queries and a pool of {pool} with seed {seed} and epoch {epoch}")

    def stream(number: int) -> np.random.Generator:
        return np.random.default_rng([seed, epoch, number])

    notes = []
    if data.two_views:
        asked = stream(_QUERIES).permutation(len(data))[:queries]
        pairs = np.stack([asked, asked], axis=1)
    elif len(data.pairs):
        pairs = data.pairs[stream(_QUERIES).permutation(len(data.pairs))[:queries]]
    else:
        pairs = _pairs_in_clusters(data.clusters, queries, stream(_QUERIES), stream(_POSITIVES))
    if not len(pairs):
        raise DatasetError(f"{data.name}: no two pictures match", "Training needs two pictures of a class at least.")
    if len(pairs) < queries:
        notes.append(f"{count_of(len(pairs), 'query', 'queries')} an epoch, not {queries:,}: the set has no more")
    drawn = np.sort(stream(_POOL).choice(len(data), min(pool, len(data)), replace=False))
    return EpochDraw(pairs.astype(np.int64), drawn.astype(np.int64), tuple(notes))


def mine(
    data: TrainingSet,
    draw: EpochDraw,
    query_descriptors: np.ndarray,
    pool_descriptors: np.ndarray,
    *,
    negatives: int,
    positive_descriptors: np.ndarray | None = None,
    repick_positives: bool = False,
) -> Mined:
    """The tuples of a draw: for each query its positive and the ``negatives`` hardest pictures of the pool.

    ``query_descriptors`` (Q, D) and ``positive_descriptors`` (Q, D) belong to ``draw.pairs``, ``pool_descriptors`` (P, D) to
    ``draw.pool``; float16 to float64, used as float32; a row that is not finite stands for a picture that cannot be
    described. Hardest is the greatest inner product, equal ones by ascending position. Negatives are never of the query's
    or the positive's cluster, and of each cluster only one is taken; a picture of no cluster is one of its own.

    ``repick_positives`` replaces a drawn positive where another match in the pool is nearer to the query by its descriptor
    (the choice m1 of Radenović et al., ECCV 2016: the nearest, since others of the cluster may not show the same part).
    Matches are those that the set's pairs name, or without pairs the others of the cluster.

    Takes 64 MiB for products beside the descriptors. Raises UsageError where the shapes do not fit or the pool has too few
    clusters for so many negatives; DatasetError where no query can be described.
    """
    _check(data, draw, query_descriptors, pool_descriptors, positive_descriptors, negatives)
    if data.two_views:
        repick_positives = False  # the other view is the only match
    miner = _Miner(data, draw.pool, pool_descriptors, negatives)
    partners = _Partners(data, draw.pool) if repick_positives else None
    tuples, apart, matched = [], [], []
    dropped = repicked = 0
    step = max(1, _SCORES_AT_ONCE // max(1, len(draw.pool)))
    for start in range(0, len(draw.pairs), step):
        queries = np.asarray(query_descriptors[start : start + step], np.float32)
        fine = finite_rows(queries)
        scores = miner.scores(np.where(fine[:, None], queries, 0))
        for i, query in enumerate(queries):
            asked, positive = (int(n) for n in draw.pairs[start + i])
            near = None if positive_descriptors is None else np.asarray(positive_descriptors[start + i], np.float32)
            if not fine[i] or (near is not None and not finite_rows(near[None])[0]):
                dropped += 1
                continue
            if partners is not None:
                chosen, near = partners.nearest(query, asked, positive, near, miner)
                repicked += chosen != positive
                positive = chosen
            found = miner.hardest(query, scores[i], asked, positive)
            tuples.append(MinedTuple(asked, positive, tuple(int(draw.pool[row]) for row in found)))
            apart.append(_distances(query, miner.descriptors[found]))
            if near is not None:
                matched.append(_distances(query, near[None]))
    if not tuples:
        raise DatasetError(f"{data.name}: none of {len(draw.pairs):,} queries can be described")
    notes = list(draw.notes)
    if dropped:
        notes.append(f"{dropped:,} of {len(draw.pairs):,} tuples are left out: a picture cannot be described")
    if miner.lost:
        notes.append(f"{miner.lost:,} of {len(draw.pool):,} pictures of the pool cannot be described")
    if repick_positives:
        notes.append(f"{repicked:,} of {len(tuples):,} positives were replaced by a nearer match")
    return Mined(
        tuples,
        float(np.concatenate(apart).mean()),
        float(np.concatenate(matched).mean()) if matched else float("nan"),
        notes,
    )


class _Miner:
    """The pool, grouped by cluster."""

    def __init__(self, data: TrainingSet, pool: np.ndarray, descriptors: np.ndarray, negatives: int) -> None:
        self.data, self.pool, self.negatives = data, pool, negatives
        self.descriptors = np.ascontiguousarray(descriptors, np.float32)
        self.fine = finite_rows(self.descriptors)
        self.lost = int((~self.fine).sum())
        if self.lost:
            self.descriptors = np.where(self.fine[:, None], self.descriptors, 0)
        self._bound = rounding_bound(self.descriptors.shape[1]) * max(longest(self.descriptors), 1e-18)
        clusters = data.clusters[pool]
        # A picture of no cluster is one of its own, with a number that no other has.
        self.clusters = np.where(clusters < 0, -1 - np.arange(len(pool)), clusters)
        self._order = np.argsort(self.clusters, kind="stable")
        in_order = self.clusters[self._order]
        self._starts = np.flatnonzero(np.r_[True, in_order[1:] != in_order[:-1]])

    def scores(self, queries: np.ndarray) -> np.ndarray:
        """Inner products with the pool, float32 (B, P), right to within rounding."""
        scores: np.ndarray = queries @ self.descriptors.T
        if self.lost:
            scores[:, ~self.fine] = -np.inf
        return scores

    def hardest(self, query: np.ndarray, scores: np.ndarray, asked: int, positive: int) -> list[int]:
        """Rows of the pool: the negatives of one query, hardest first. Overwrites ``scores``."""
        own = self.data.clusters[[asked, positive]]
        scores[np.isin(self.clusters, own[own >= 0])] = -np.inf
        scores[np.isin(self.pool, (asked, positive))] = -np.inf
        best = np.maximum.reduceat(scores[self._order], self._starts)  # of each cluster
        others = int(np.isfinite(best).sum())
        if others < self.negatives:
            one, several = self.data.cluster_word
            raise UsageError(
                f"the pool of {count_of(len(self.pool), 'picture')} holds {count_of(others, one, several)} beside the "
                f"query's, too few for {count_of(self.negatives, 'negative')}, one of each",
                f"Take a larger --pool, fewer --negatives, or data with more {several}.",
            )
        # What truly belongs to the hardest lies within two rounding errors of the last one found; there float64 decides.
        floor = np.partition(best, -self.negatives)[-self.negatives] - 2 * self._bound * float(np.linalg.norm(query))
        candidates = np.flatnonzero(scores >= floor)
        exact = exact_similarities(query, self.descriptors, candidates)
        taken: dict[int, int] = {}
        for row in candidates[np.lexsort((self.pool[candidates], -exact))]:
            taken.setdefault(int(self.clusters[row]), int(row))
            if len(taken) == self.negatives:
                break
        return list(taken.values())


class _Partners:
    """Which pictures of the pool match a query."""

    def __init__(self, data: TrainingSet, pool: np.ndarray) -> None:
        self._data, self._pool = data, pool
        self._row = np.full(len(data), -1, np.int64)
        self._row[pool] = np.arange(len(pool))
        self._listed: dict[int, list[int]] = {}
        for query, positive in data.pairs:
            self._listed.setdefault(int(query), []).append(int(positive))

    def nearest(
        self, query: np.ndarray, asked: int, positive: int, near: np.ndarray | None, miner: _Miner
    ) -> tuple[int, np.ndarray | None]:
        """The match to take, and its descriptor where it is known."""
        if len(self._data.pairs):
            rows = self._row[self._listed.get(asked, [])]
            rows = rows[rows >= 0]
        else:
            rows = np.flatnonzero(miner.clusters == self._data.clusters[asked])
            rows = rows[self._pool[rows] != asked]
        rows = rows[miner.fine[rows]]
        if not len(rows):
            return positive, near
        exact = exact_similarities(query, miner.descriptors, rows)
        best = np.lexsort((self._pool[rows], -exact))[0]
        if near is not None and exact_similarities(query, near[None], np.zeros(1, np.int64))[0] >= exact[best]:
            return positive, near
        return int(self._pool[rows[best]]), miner.descriptors[rows[best]]


def _pairs_in_clusters(
    clusters: np.ndarray, count: int, first: np.random.Generator, second: np.random.Generator
) -> np.ndarray:
    """Pictures that have a match, and for each one of its matches at random."""
    _, group, size = np.unique(clusters, return_inverse=True, return_counts=True)
    order = np.argsort(group, kind="stable")  # the pictures of a cluster stand side by side
    start = np.cumsum(size) - size
    place = np.empty(len(clusters), np.int64)
    place[order] = np.arange(len(clusters))
    asked = first.permutation(np.flatnonzero((clusters >= 0) & (size[group] > 1)))[:count]
    begin, members = start[group[asked]], size[group[asked]]
    away = second.integers(1, members) if len(asked) else members
    return np.stack([asked, order[begin + (place[asked] - begin + away) % members]], axis=1)


def finite_rows(vectors: np.ndarray) -> np.ndarray:
    """Which rows of (N, D) hold a descriptor: bool (N,), false where values are NaN, infinite or too large to multiply."""
    return np.asarray(np.isfinite(np.einsum("nd,nd->n", vectors, vectors)))


def longest(vectors: np.ndarray) -> float:
    """The greatest length among finite rows (N, D)."""
    return math.sqrt(float(np.einsum("nd,nd->n", vectors, vectors).max(initial=0.0)))


def _distances(query: np.ndarray, others: np.ndarray) -> np.ndarray:
    difference = query.astype(np.float64) - others
    return np.sqrt(np.einsum("nd,nd->n", difference, difference))


def _check(
    data: TrainingSet,
    draw: EpochDraw,
    queries: np.ndarray,
    pool: np.ndarray,
    positives: np.ndarray | None,
    negatives: int,
) -> None:
    if negatives < 1:
        raise UsageError(f"a tuple needs at least 1 negative, not {negatives}")
    given = [("queries", queries, len(draw.pairs)), ("the pool", pool, len(draw.pool))]
    if positives is not None:
        given.append(("positives", positives, len(draw.pairs)))
    for what, array, count in given:
        if array.ndim != 2 or len(array) != count or array.shape[1] != pool.shape[1]:
            raise UsageError(
                f"descriptors of {what} of shape {array.shape} do not fit: expected one row each for {count} pictures"
            )
    if len(draw.pairs) and max(draw.pairs.max(), draw.pool.max()) >= len(data):
        raise UsageError(f"the draw is of another set than {data.name}, which has {len(data):,} pictures")

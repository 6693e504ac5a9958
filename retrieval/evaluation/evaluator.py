"""Measuring rankings of a set: by descriptors as they are, by re-rankers on top of them, or as another program made them.

Nothing here knows models or pictures: see :mod:`retrieval.evaluation.described_set` for where descriptors come from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.evaluation.counting import Ids, positive_ranks_from_scores
from retrieval.evaluation.protocol import (
    ORIGINAL,
    REVISITED,
    Labels,
    Protocol,
    ProtocolResult,
    evaluate_positions,
    evaluate_rankings,
)
from retrieval.ranking.method import Context, Moved, Reordered
from retrieval.ranking.neighbours import top_k
from retrieval.ranking.rerank import Reranker

KS = (1, 5, 10)
RAW = "raw"
_FIRST = 10  # answers of each query that a report shows


@dataclass(frozen=True)
class Measured:
    """One way of ranking a set: its figures by protocol, and its cost.

    ``first``: the gallery positions of each query's first answers. ``prepare_seconds``: for what needs the gallery alone,
    once; ``query_seconds``: for one query, ranking the whole gallery (without describing it), None where unknown.
    """

    name: str
    results: dict[str, ProtocolResult]
    first: list[npt.NDArray[np.int64]]
    prepare_seconds: float = 0.0
    query_seconds: float | None = None


def labels_of(truth: GroundTruth) -> list[Labels]:
    """The labelled pictures of each query by their positions in the gallery."""
    return [
        Labels(truth.positions(q, "easy"), truth.positions(q, "hard"), truth.positions(q, "junk"))
        for q in truth.queries
    ]


def protocols_of(truth: GroundTruth) -> tuple[Protocol, ...]:
    """Easy, medium and hard, or the one protocol of the original Oxford and Paris sets."""
    return ORIGINAL if truth.original else REVISITED


def measure_rankings(rankings: Sequence[Ids], truth: GroundTruth, *, truncated: bool = False) -> Measured:
    """Figures of given rankings, from :func:`retrieval.evaluation.rankings.read_rankings`. Errors are those of
    :func:`retrieval.evaluation.protocol.evaluate_rankings`."""
    results = evaluate_rankings(
        rankings, labels_of(truth), len(truth.gallery), truncated=truncated, protocols=protocols_of(truth), ks=KS
    )
    return Measured("given", results, [np.asarray(ranking[:_FIRST], np.int64) for ranking in rankings])


class Evaluator:
    """A set's descriptors, measured as they are and with re-rankers.

    ``queries`` (Q, D) and ``gallery`` (N, D) are descriptors of unit length, float16 or float32; the gallery may be
    memory-mapped and is never loaded as a whole by :meth:`raw`. Pictures of the gallery beyond those of the ground truth
    are distractors: wrong for every query.
    """

    def __init__(self, truth: GroundTruth, queries: Any, gallery: Any) -> None:
        self.labels = labels_of(truth)
        self.protocols = protocols_of(truth)
        self.queries = queries
        self.gallery = gallery
        started = time.monotonic()
        self._positions = self._count(queries, gallery)
        self._count_seconds = time.monotonic() - started

    def raw(self) -> Measured:
        """By inner product; ties by ascending position in the gallery. Nothing is sorted."""
        first, _ = top_k(self.queries, self.gallery, _FIRST)
        return Measured(
            RAW, self._figures(self._positions), list(first), query_seconds=self._count_seconds / len(self.queries)
        )

    def reranked(
        self, reranker: Reranker, context: Context | None = None, waited: Callable[[], float] = lambda: 0.0
    ) -> Measured:
        """The same after a re-ranker. ``waited()``: seconds that the context spent so far on what is done once for each gallery
        picture; they count as preparation."""
        started, before = time.monotonic(), waited()
        online = reranker.prepare(self.gallery, context)
        prepared = time.monotonic()
        outcome = online(self.queries)
        if isinstance(outcome, Moved):
            positions = self._count(outcome.queries, outcome.gallery)
            spent = time.monotonic() - prepared
            first, _ = top_k(outcome.queries, outcome.gallery, _FIRST)
        else:
            spent = time.monotonic() - prepared
            positions = self._reordered(outcome)
            first = outcome.ids[:, :_FIRST]
        once = waited() - before
        return Measured(
            reranker.name,
            self._figures(positions),
            list(first),
            prepared - started + once,
            (spent - once) / len(self.queries),
        )

    def _count(self, queries: Any, gallery: Any) -> list[Labels]:
        """Where all labelled pictures stand in the full rankings."""
        right = [np.concatenate([q.easy, q.hard]) for q in self.labels]
        right_at, junk_at = positive_ranks_from_scores(queries, gallery, right, [q.junk for q in self.labels])
        return [
            Labels(at[: len(q.easy)], at[len(q.easy) :], junk)
            for q, at, junk in zip(self.labels, right_at, junk_at, strict=True)
        ]

    def _reordered(self, outcome: Reordered) -> list[Labels]:
        """Positions after the first answers changed places; all others stay where they are."""
        positions = []
        place = np.full(len(self.gallery), -1, np.int64)
        for ids, labels, raw in zip(outcome.ids, self.labels, self._positions, strict=True):
            place[:] = -1
            place[ids] = np.arange(len(ids))
            moved = [
                np.where(place[listed] >= 0, place[listed], at) if len(listed) else np.zeros(0, np.int64)
                for listed, at in zip(labels, raw, strict=True)
            ]
            positions.append(Labels(*moved))
        return positions

    def _figures(self, positions: Sequence[Labels]) -> dict[str, ProtocolResult]:
        return evaluate_positions(positions, protocols=self.protocols, ks=KS)


def unmoved(measured: Sequence[Measured], rerankers: Sequence[Reranker]) -> list[Reranker]:
    """Of the re-rankers that follow only what is closer than chance, those that left each query's figures as the first ranking
    has them."""
    first, others = measured[0].results, {system.name: system.results for system in measured[1:]}
    return [
        r
        for r in rerankers
        if r.adapts and r.name in others and all(_equal(first[name], found) for name, found in others[r.name].items())
    ]


def _equal(one: ProtocolResult, other: ProtocolResult) -> bool:
    pairs = [(one.precisions[k], other.precisions[k]) for k in one.precisions]
    pairs.append((one.average_precisions, other.average_precisions))
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

"""Evaluation by the protocols of Revisited Oxford and Paris (Radenovic et al., CVPR 2018) and of the original sets.

Every query has three lists of gallery images: *easy* and *hard* right answers, and *junk* (unclear, or the query's own
picture). A protocol says which of them are right and which are passed over; everything else is wrong. Two routes lead to
the same figures: from rankings (:func:`evaluate_rankings`) and from descriptors, without sorting
(:func:`evaluate_vectors`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from retrieval.errors import DatasetError, UsageError
from retrieval.evaluation.counting import Floats, Ids, id_array, positive_ranks_from_scores
from retrieval.evaluation.metrics import (
    average_precision,
    mean_over_queries,
    precision_at,
    ranks_without_junk,
    recall_at,
)


class Labels(NamedTuple):
    """The labelled images of one query: gallery ids, or (same order) their positions in a ranking, -1 if not in it."""

    easy: Ids
    hard: Ids
    junk: Ids


class Protocol(NamedTuple):
    """Which labels count as right answers, and which are taken out of the ranking."""

    name: str
    positive: tuple[str, ...]
    junk: tuple[str, ...]


REVISITED = (
    Protocol("easy", positive=("easy",), junk=("junk", "hard")),
    Protocol("medium", positive=("easy", "hard"), junk=("junk",)),
    Protocol("hard", positive=("hard",), junk=("junk", "easy")),
)
ORIGINAL = (Protocol("original", positive=("easy", "hard"), junk=("junk",)),)
"""Oxford5k and Paris6k of 2007 and 2008: their good and ok images are all right answers."""


@dataclass(frozen=True)
class ProtocolResult:
    """The figures of one protocol, all as fractions.

    ``average_precisions`` (Q,), and in ``precisions`` and ``recalls`` one (Q,) array for each k, hold a value for each
    query, NaN where it has no right answer under this protocol; the means leave these queries out.
    """

    protocol: str
    average_precisions: npt.NDArray[np.float64]
    precisions: dict[int, npt.NDArray[np.float64]]
    recalls: dict[int, npt.NDArray[np.float64]]

    @property
    def mean_average_precision(self) -> float:
        """mAP, with the trapezoidal average precision of the benchmarks."""
        return mean_over_queries(self.average_precisions)

    @property
    def queries(self) -> int:
        """The number of queries that have right answers: those the means are taken over."""
        return int(np.sum(~np.isnan(self.average_precisions)))

    def mean_precision_at(self, k: int) -> float:
        """mP@k, cut at the last right answer as in :func:`retrieval.evaluation.metrics.precision_at`."""
        return mean_over_queries(self.precisions[k])

    def mean_recall_at(self, k: int) -> float:
        """The mean of the fractions of right answers found among the first k."""
        return mean_over_queries(self.recalls[k])

    def to_dict(self) -> dict[str, Any]:
        """For JSON: ``mAP``, ``mP@k``, ``recall@k``, ``queries``, and ``AP`` for each query; None stands for NaN."""
        means = {"mAP": self.mean_average_precision}
        means |= {f"mP@{k}": self.mean_precision_at(k) for k in self.precisions}
        means |= {f"recall@{k}": self.mean_recall_at(k) for k in self.recalls}
        per_query = [_or_none(value) for value in self.average_precisions.tolist()]
        return {
            **{name: _or_none(value) for name, value in means.items()},
            "queries": self.queries,
            "AP": per_query,
        }


def evaluate_rankings(
    rankings: Sequence[Ids],
    labels: Sequence[Labels],
    gallery_size: int,
    *,
    truncated: bool = False,
    protocols: Sequence[Protocol] = REVISITED,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, ProtocolResult]:
    """Figures from rankings: for each query its gallery ids, best first (the original evaluator's matrix transposed).

    Each ranking holds all ``gallery_size`` ids, or with ``truncated=True`` the first of them; then right answers that
    are not in it count as missed, and the average precision is still over all of the ground truth's. It is a lower
    bound of the full ranking's. Junk takes up places in a truncated ranking: take clearly more than the junk.

    Returns the results by protocol name. Raises DatasetError for rankings with ids out of range or repeated, for
    shortened ones that are not declared, and for contradicting labels.
    """
    if len(rankings) != len(labels):
        raise UsageError(f"{len(rankings)} rankings for {len(labels)} queries", "Give one ranking for each query")
    _check_labels(labels, gallery_size)
    positions = []
    place = np.full(gallery_size, -1, np.int64)
    for i, (ranking, query) in enumerate(zip(rankings, labels, strict=True)):
        ids = _checked_ranking(ranking, i, gallery_size, truncated)
        place[:] = -1
        place[ids] = np.arange(len(ids))
        positions.append(Labels(*(place[id_array(listed, i)] for listed in query)))
    return evaluate_positions(positions, protocols=protocols, ks=ks)


def evaluate_vectors(
    query_vectors: Floats,
    gallery_vectors: Floats,
    labels: Sequence[Labels],
    *,
    protocols: Sequence[Protocol] = REVISITED,
    ks: Sequence[int] = (1, 5, 10),
    block: int | None = None,
) -> dict[str, ProtocolResult]:
    """Figures from descriptors (Q, D) and (N, D) ranked by inner product, ties by ascending id.

    Equal to :func:`evaluate_rankings` on the full rankings, but nothing is sorted and the gallery may be a memory map of
    millions: see :func:`retrieval.evaluation.counting.positive_ranks_from_scores` for ``block``, cost and errors.
    """
    _check_labels(labels, len(gallery_vectors))
    right = [np.concatenate([id_array(q.easy, i), id_array(q.hard, i)]) for i, q in enumerate(labels)]
    junk = [q.junk for q in labels]
    right_at, junk_at = positive_ranks_from_scores(query_vectors, gallery_vectors, right, junk, block)
    positions = [
        Labels(at[: len(query.easy)], at[len(query.easy) :], passed)
        for query, at, passed in zip(labels, right_at, junk_at, strict=True)
    ]
    return evaluate_positions(positions, protocols=protocols, ks=ks)


def evaluate_positions(
    positions: Sequence[Labels],
    *,
    protocols: Sequence[Protocol] = REVISITED,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, ProtocolResult]:
    """Figures from the places, counted from 0 with junk included, that all labelled images take in their ranking.

    -1 marks an image that a shortened ranking does not hold. Returns the results by protocol name.
    """
    results = {}
    for protocol in protocols:
        scores, precisions, recalls = [], [], []
        for query in positions:
            right = np.concatenate([np.asarray(getattr(query, label), np.int64) for label in protocol.positive])
            junk = np.concatenate([np.asarray(getattr(query, label), np.int64) for label in protocol.junk])
            ranks = ranks_without_junk(right[right >= 0], junk[junk >= 0])
            scores.append(average_precision(ranks, len(right)))
            precisions.append([precision_at(ranks, k, len(right)) for k in ks])
            recalls.append([recall_at(ranks, k, len(right)) for k in ks])
        table = np.array([precisions, recalls]).reshape(2, len(positions), len(ks))
        results[protocol.name] = ProtocolResult(
            protocol.name,
            np.array(scores),
            {k: table[0, :, j] for j, k in enumerate(ks)},
            {k: table[1, :, j] for j, k in enumerate(ks)},
        )
    return results


def _check_labels(labels: Sequence[Labels], gallery_size: int) -> None:
    for i, query in enumerate(labels):
        ids = np.concatenate([id_array(listed, i) for listed in query])
        outside = ids[(ids < 0) | (ids >= gallery_size)]
        if outside.size:
            raise DatasetError(
                f"query {i}: labelled image {outside[0]} is not in a gallery of {gallery_size}",
                "Ids count from 0",
            )
        values, counts = np.unique(ids, return_counts=True)
        if np.any(counts > 1):
            raise DatasetError(f"query {i}: image {values[counts > 1][0]} is labelled more than once")


def _checked_ranking(ranking: Ids, query: int, gallery_size: int, truncated: bool) -> npt.NDArray[np.int64]:
    ids = id_array(ranking, query)
    outside = ids[(ids < 0) | (ids >= gallery_size)]
    if outside.size:
        raise DatasetError(
            f"ranking of query {query}: id {outside[0]} is not in a gallery of {gallery_size}", "Ids count from 0"
        )
    values, counts = np.unique(ids, return_counts=True)
    if np.any(counts > 1):
        raise DatasetError(f"ranking of query {query}: id {values[counts > 1][0]} is there more than once")
    if len(ids) < gallery_size and not truncated:
        raise DatasetError(
            f"ranking of query {query} has {len(ids)} of {gallery_size} gallery images",
            "Give full rankings, or declare them truncated",
        )
    return ids


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value

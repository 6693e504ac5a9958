"""Average precision of many systems on one set, quickly: scores of all pairs, ranks by sorting each query's scores once.

The figures are those of :func:`retrieval.evaluation.protocol.evaluate_vectors`, except that scores are compared as
float32: two different images whose scores agree in seven digits may change places. In return dozens of systems can be
measured on thousands of leave-one-out queries while the network would describe their pictures once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.evaluation.protocol import ORIGINAL, REVISITED, Labels, Protocol

Vectors = npt.NDArray[np.float32]
_BLOCK = 1 << 24  # scores held at once: 64 MiB


def labels_of(truth: GroundTruth) -> list[Labels]:
    """The labelled gallery ids of every query."""
    return [Labels(*(truth.positions(q, names) for names in ("easy", "hard", "junk"))) for q in truth.queries]


def protocols_of(truth: GroundTruth) -> tuple[Protocol, ...]:
    """The protocols that make a difference on this set.

    Those of the first Oxford and Paris sets: "original". With easy and hard right answers: easy, medium and hard, as in
    the revisited sets. With one kind only, the protocol of that name; medium would be the same.
    """
    if truth.original:
        return ORIGINAL
    easy = any(query.easy for query in truth.queries)
    hard = any(query.hard for query in truth.queries)
    if easy and hard:
        return REVISITED
    return tuple(p for p in REVISITED if p.name == ("easy" if easy else "hard"))


def headline(protocols: Sequence[Protocol]) -> Protocol:
    """The protocol that systems are ranked by: medium where there are three, else the only one."""
    return protocols[len(protocols) // 2]


def score_blocks(queries: Vectors, gallery: Vectors, block: int = _BLOCK) -> Iterator[tuple[int, Vectors]]:
    """Inner products, some queries at a time: the first query's number, and float32 (queries, N).

    Gallery vectors that are identical get identical scores (a matrix product rounds differently from place to place).
    """
    first, copies = _duplicates(gallery)
    rows = max(1, block // len(gallery))
    for start in range(0, len(queries), rows):
        scores = queries[start : start + rows] @ gallery.T
        scores[:, copies] = scores[:, first]
        yield start, scores


def _duplicates(vectors: Vectors) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows that repeat an earlier row: (the earlier row, the copy)."""
    seen: dict[bytes, int] = {}
    pairs = [(seen.setdefault(row.tobytes(), i), i) for i, row in enumerate(vectors)]
    repeated = np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)
    return repeated[:, 0], repeated[:, 1]


def ranks_in(scores: Vectors, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where the images ``ids`` stand in the ranking by one query's ``scores`` (N,), from 0; ties by ascending id."""
    ordered = np.sort(scores)
    wanted = scores[ids]
    above = len(scores) - np.searchsorted(ordered, wanted, "right")
    equal = len(scores) - above - np.searchsorted(ordered, wanted, "left")
    for j in np.flatnonzero(equal > 1):
        above[j] += np.count_nonzero(np.flatnonzero(scores == wanted[j]) < ids[j])
    return above


def average_precisions(
    queries: Vectors, gallery: Vectors, labels: Sequence[Labels], protocols: Sequence[Protocol]
) -> dict[str, npt.NDArray[np.float64]]:
    """Average precision of every query under every protocol, NaN without right answers: name -> float64 (Q,).

    ``queries`` (Q, D) and ``gallery`` (N, D) are float32 of unit length; ``labels`` go with the queries.
    """
    listed = [np.concatenate([np.asarray(ids, np.int64) for ids in query]) for query in labels]
    kind = np.concatenate([np.repeat(np.arange(3), [len(ids) for ids in query]) for query in labels])
    query = np.repeat(np.arange(len(labels)), [len(ids) for ids in listed])
    found = []
    for start, scores in score_blocks(queries, gallery):
        found += [ranks_in(row, listed[start + i]) for i, row in enumerate(scores)]
    place = query * len(gallery) + np.concatenate(found)  # one ascending order: by query, then by rank
    results = {}
    for protocol in protocols:
        right, junk = (
            np.sort(place[np.isin(kind, [Labels._fields.index(name) for name in names])])
            for names in (protocol.positive, protocol.junk)
        )
        results[protocol.name] = _trapezoidal(right, junk, len(labels), len(gallery))
    return results


def _trapezoidal(
    right: npt.NDArray[np.int64], junk: npt.NDArray[np.int64], queries: int, size: int
) -> npt.NDArray[np.float64]:
    """:func:`retrieval.evaluation.metrics.average_precision` of all queries at once, from the places (query * size + rank,
    ascending) of the right answers and of the junk."""
    query = right // size
    above = np.searchsorted(junk, right) - np.searchsorted(junk, query * size)
    rank = right - query * size - above
    number = np.bincount(query, minlength=queries)
    j = np.arange(len(right)) - (np.cumsum(number) - number)[query]
    before = np.where(rank == 0, 1.0, j / np.maximum(rank, 1))
    after = (j + 1) / (rank + 1)
    sums = np.bincount(query, weights=before + after, minlength=queries)
    return np.where(number > 0, sums / np.maximum(2 * number, 1), np.nan)

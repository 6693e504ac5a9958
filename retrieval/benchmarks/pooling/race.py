"""The same descriptors judged by three jobs: retrieval, similarity and classification. No pooling wins them all.

Retrieval is the mean average precision. Similarity asks whether one threshold separates pictures of the same thing
from others, over all queries at once; a ranking may be perfect for each query while scores of different queries cannot
be compared. Classification asks whether a class is a cluster: the nearest centroid, each picture left out of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from retrieval.benchmarks.pooling.scoring import Vectors, score_blocks
from retrieval.datasets.groundtruth import GroundTruth
from retrieval.evaluation.protocol import Labels, Protocol

TASKS = ("retrieval", "similarity", "classification")
_PAIRS = 1 << 21  # enough for four digits of the area under the curve


def similarity_auc(queries: Vectors, gallery: Vectors, labels: Sequence[Labels], protocol: Protocol) -> float:
    """The area under the ROC curve of "same or different" by the score alone: the probability that a pair of a query and
    one of its right answers scores higher than a pair of a query and a wrong answer, ties counting half.

    Pairs are query and gallery image, without those the protocol passes over. Exact (Mann and Whitney 1947), over all
    queries, or over evenly chosen ones where there would be more than 2^21 pairs. NaN without pairs of both kinds.
    """
    count = min(len(queries), max(1, _PAIRS // len(gallery)))
    chosen = np.linspace(0, len(queries) - 1, count).astype(np.int64)
    same, different = [], []
    for start, scores in score_blocks(queries[chosen], gallery):
        keep = np.ones(scores.shape, bool)
        for i, row in enumerate(scores):
            query = labels[chosen[start + i]]
            right = np.concatenate([getattr(query, label) for label in protocol.positive]).astype(np.int64)
            junk = np.concatenate([getattr(query, label) for label in protocol.junk]).astype(np.int64)
            same.append(row[right])
            keep[i, right] = keep[i, junk] = False
            # A query without right answers here says nothing about "same"; its pairs are left out altogether.
            keep[i] &= len(right) > 0
        different.append(scores[keep])
    return _auc(np.concatenate(same), np.concatenate(different))


def _auc(positive: npt.NDArray[np.floating], negative: npt.NDArray[np.floating]) -> float:
    if not len(positive) or not len(negative):
        return float("nan")
    ordered, wanted = np.sort(negative), np.sort(positive)
    below = np.searchsorted(ordered, wanted, "left").astype(np.float64)
    up_to = np.searchsorted(ordered, wanted, "right")
    return float((below + up_to).sum() / (2 * len(positive) * len(negative)))


def class_labels(truth: GroundTruth) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A class for every gallery picture (N,) and every query (Q,), counted from 0; -1 for none.

    Pictures that are right answers to the same query are of one class, and so are chains of such pictures. A query that
    is itself in the gallery is not a picture of its own: it has -1. Classes of one picture do not count.
    """
    place = {path: i for i, path in enumerate(truth.gallery)}
    size = len(truth.gallery)
    parent = list(range(size + len(truth.queries)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for number, query in enumerate(truth.queries):
        itself = root(place.get(query.image, size + number))
        for path in (*query.easy, *query.hard):
            other = root(place[path])
            parent[other] = itself
    roots = np.array([root(i) for i in range(len(parent))])
    counted = np.array([i < size or truth.queries[i - size].image not in place for i in range(len(parent))])
    _, classes, sizes = np.unique(roots[counted], return_inverse=True, return_counts=True)
    large = sizes >= 2
    number_of = np.where(large, np.cumsum(large) - 1, -1)
    labels = np.full(len(parent), -1, np.int64)
    labels[counted] = number_of[classes]
    return labels[:size], labels[size:]


def centroid_accuracy(vectors: Vectors, labels: npt.NDArray[np.int64]) -> float:
    """Nearest-centroid classification, leave-one-out: the share of pictures whose own class has the nearest centroid.

    ``vectors`` (N, D) of unit length; ``labels`` (N,), -1 for pictures without a class, which are left out. A centroid is
    the normalised mean of its class, for a picture's own class without that picture; nearest by cosine. An exact tie is
    a miss. NaN with fewer than two classes.
    """
    members = labels >= 0
    vectors, labels = vectors[members], labels[members]
    classes = int(labels.max(initial=-1)) + 1
    if classes < 2:
        return float("nan")
    sums = (np.arange(classes)[:, None] == labels).astype(np.float32) @ vectors
    scores = vectors @ sums.T
    own = scores[np.arange(len(labels)), labels].astype(np.float64)
    squares = np.einsum("kd,kd->k", sums, sums).astype(np.float64)
    lengths = np.einsum("nd,nd->n", vectors, vectors).astype(np.float64)
    scores /= np.maximum(np.sqrt(squares), 1e-12).astype(np.float32)
    # sum without x: its product with x, and its squared length, follow from those of the sum.
    rest = np.sqrt(np.maximum(squares[labels] - 2 * own + lengths, 1e-12))
    own_mean = (own - lengths) / rest
    scores[np.arange(len(labels)), labels] = -np.inf
    return float(np.mean(own_mean > scores.max(axis=1)))

"""One set, its features and the poolings to be compared: first everything is pooled, then it is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from retrieval.benchmarks.pooling.methods import (
    Method,
)
from retrieval.benchmarks.pooling.results import Row
from retrieval.benchmarks.pooling.scoring import Vectors, average_precisions, headline, labels_of, protocols_of
from retrieval.benchmarks.pooling.whitened import Whitener
from retrieval.datasets.groundtruth import GroundTruth

if TYPE_CHECKING:
    from retrieval.benchmarks.pooling.feature_cache import FeatureCache


@dataclass
class _Cost:
    parameters: int
    flops: int | None
    microseconds: float


class Bench:
    """One set, its features and the methods: first everything is pooled, then it is measured."""

    def __init__(
        self,
        truth: GroundTruth,
        cache: FeatureCache,
        methods: Sequence[Method],
        gallery: list[int],
        queries: list[int],
        bootstrap: int,
        seed: int,
    ) -> None:
        from retrieval.benchmarks.pooling.race import class_labels
        from retrieval.benchmarks.pooling.robustness import MOST_QUERIES

        self.cache = cache
        self.methods = methods
        self.gallery = gallery
        self.queries = queries
        self.bootstrap = bootstrap
        self.seed = seed
        self.labels = labels_of(truth)
        self.protocols = protocols_of(truth)
        of_gallery, of_queries = class_labels(truth)
        classes = np.concatenate([of_gallery, of_queries])
        self.classes = classes[classes >= 0]
        self.members = np.array([*gallery, *queries])[classes >= 0]
        right = headline(self.protocols).positive
        able = [i for i, query in enumerate(self.labels) if any(len(getattr(query, name)) for name in right)]
        self.noisy = [able[i] for i in _evenly(len(able), MOST_QUERIES)]
        self.vectors: dict[str, Vectors] = {}
        self.deviation = math.nan

    def pool(self, noise: list[float], prefix: int) -> None:
        """Descriptors of every picture by every method, clean and (queries) with noise; what survives; what it costs."""
        import torch

        from retrieval.benchmarks.pooling.cost import flops, microseconds, parameters
        from retrieval.benchmarks.pooling.retention import MOST_PICTURES, coarse_map, retained_share
        from retrieval.benchmarks.pooling.robustness import noisy_descriptors
        from retrieval.benchmarks.pooling.shared_pooling import descriptors

        in_gallery = set(self.gallery)
        batches = self.cache.batches()
        for method, found in zip(self.methods, descriptors(self.methods, self.cache.load(batches[0][:1])), strict=True):
            self.vectors[method.label] = np.zeros((self.cache.expected, found.shape[1]), np.float32)

        def pool_batch(batch: list[int]) -> npt.NDArray[np.float64]:
            x = self.cache.load(batch)
            for method, found in zip(self.methods, descriptors(self.methods, x), strict=True):
                self.vectors[method.label][batch] = found.numpy()
            inside = x[[j for j, i in enumerate(batch) if i in in_gallery]]
            return np.array([inside.numel(), float(inside.sum()), float(torch.linalg.vector_norm(inside)) ** 2])

        with torch.inference_mode():
            moments = np.sum([pool_batch(batch) for batch in batches], axis=0)
        mean, mean_square = moments[1:] / moments[0]
        self.deviation = math.sqrt(max(0.0, mean_square - mean**2))
        self.strengths = sorted({s for s in noise if s > 0})
        asked = [self.queries[i] for i in self.noisy]
        scales = [s * self.deviation for s in self.strengths]
        self.clouds = noisy_descriptors(self.cache, self.methods, asked, scales, seed=self.seed) if scales else {}
        self.kept = [self.gallery[i] for i in _evenly(len(self.gallery), MOST_PICTURES)]
        self.share = retained_share(np.stack([coarse_map(self.cache.features(i), prefix) for i in self.kept]))
        shape = self.cache.typical_shape()
        typical = self.cache.load([next(i for i, found in self.cache.shapes.items() if found == shape)])
        self.costs = {
            m.label: _Cost(
                parameters(m.module), flops(m.module, tuple(typical.shape[1:])), microseconds(m.module, typical)
            )
            for m in self.methods
        }

    def rows(self, baseline: str, whiteners: dict[str, Whitener], whitened: str | None = None) -> list[Row]:
        """The measurements of the plain methods, or of those that have a whitener."""
        if whitened is None:
            self.reference = self._precisions(self.vectors[baseline])
        rows: list[Row] = []
        for method in self.methods:
            vectors, noisy = self.vectors[method.label], self.clouds.get(method.label)
            if whitened is None:
                rows += self._measure(method, vectors, noisy, baseline)
            elif method.label in whiteners:
                whiten = whiteners[method.label]
                if noisy is not None:
                    noisy = whiten(noisy.reshape(-1, noisy.shape[-1])).reshape(*noisy.shape[:-1], -1)
                found = self._measure(method, whiten(vectors), noisy, baseline)
                rows += [replace(row, whitened=whitened) for row in found]
        return rows

    def _precisions(self, vectors: Vectors) -> dict[str, npt.NDArray[np.float64]]:
        return average_precisions(vectors[self.queries], vectors[self.gallery], self.labels, self.protocols)

    def _measure(self, method: Method, vectors: Vectors, noisy: Vectors | None, baseline: str) -> list[Row]:
        from retrieval.benchmarks.pooling.race import centroid_accuracy, similarity_auc
        from retrieval.evaluation.metrics import mean_over_queries
        from retrieval.evaluation.statistics import bootstrap_interval, compare

        queries, gallery = vectors[self.queries], vectors[self.gallery]
        precisions = self._precisions(vectors)
        if noisy is not None:
            flat = noisy.reshape(-1, noisy.shape[-1])
            labels = [self.labels[i] for i in self.noisy] * (len(flat) // len(self.noisy))
            under_noise = average_precisions(flat, gallery, labels, self.protocols)
        auc = similarity_auc(queries, gallery, self.labels, headline(self.protocols))
        accuracy = centroid_accuracy(vectors[self.members], self.classes)
        retained = self.share(vectors[self.kept])
        cost = self.costs[method.label]
        rows = []
        for protocol in self.protocols:
            found = precisions[protocol.name]
            interval = bootstrap_interval(found, resamples=self.bootstrap, seed=self.seed)
            against = compare(self.reference[protocol.name], found, resamples=self.bootstrap, seed=self.seed)
            noise = {"0": mean_over_queries(found[self.noisy])}
            if noisy is not None:
                each = under_noise[protocol.name].reshape(len(self.strengths), -1)
                noise |= {f"{s:g}": mean_over_queries(values) for s, values in zip(self.strengths, each, strict=True)}
            rows.append(
                Row(
                    method=method.label,
                    pooling=method.name,
                    p=method.p,
                    whitened=None,
                    protocol=protocol.name,
                    dim=vectors.shape[1],
                    queries=interval.queries,
                    mAP=interval.mean,
                    low=interval.low,
                    high=interval.high,
                    baseline=baseline,
                    difference=against.difference.mean,
                    difference_low=against.difference.low,
                    difference_high=against.difference.high,
                    wins=against.wins,
                    losses=against.losses,
                    ties=against.ties,
                    p_value=against.p_value,
                    similarity_auc=auc,
                    centroid_accuracy=accuracy,
                    retained=retained,
                    noise=noise,
                    parameters=cost.parameters,
                    flops=cost.flops,
                    microseconds=cost.microseconds,
                )
            )
        return rows


def _evenly(count: int, most: int) -> list[int]:
    """All of 0 ... count - 1, or ``most`` of them at equal steps."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64)).tolist()

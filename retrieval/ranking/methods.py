"""The re-rankers, one after the other: what each prepares of a gallery, and what it does with queries."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import UsageError
from retrieval.ranking.method import SIFT, XFEAT, Arrays, Context, Method, Moved, Online, Outcome, Parameters, Reordered
from retrieval.ranking.neighbours import Floats, top_k

_QUERIES_AT_ONCE = 64


LEAST = "least"  # the similarity below which a link is taken for chance


def _average(gallery: Floats, p: Parameters, context: Context) -> Online:
    from retrieval.ranking.expansion import average_query_expansion

    n = min(int(p["n"]), len(gallery))

    def apply(queries: Floats) -> Outcome:
        ids, similarities = top_k(queries, gallery, n)
        ids = np.where(similarities >= p[LEAST], ids, -1)
        return Moved(average_query_expansion(queries, gallery, ids, n), gallery)

    return apply


def _alpha(gallery: Floats, p: Parameters, context: Context) -> Online:
    from retrieval.ranking.expansion import alpha_query_expansion

    n = min(int(p["n"]), len(gallery))

    def apply(queries: Floats) -> Outcome:
        ids, similarities = top_k(queries, gallery, n)
        ids = np.where(similarities >= p[LEAST], ids, -1)
        return Moved(alpha_query_expansion(queries, gallery, ids, similarities, n, p["alpha"]), gallery)

    return apply


def _augmented(gallery: Floats, p: Parameters, context: Context) -> Online:
    from retrieval.ranking.expansion import augment_database

    def compute() -> Arrays:
        n = min(int(p["n"]), len(gallery))
        ids, similarities = top_k(np.asarray(gallery), gallery, n + 1)
        return {"gallery": augment_database(gallery, ids, similarities, n, p["alpha"])}

    augmented = context.keep("dba", p, compute)["gallery"]
    return lambda queries: Moved(queries, augmented)


def _reciprocal(gallery: Floats, p: Parameters, context: Context) -> Online:
    from retrieval.ranking.reciprocal import reciprocal_distances

    n = min(int(p["n"]), len(gallery))

    def apply(queries: Floats) -> Outcome:
        ids, _ = top_k(queries, gallery, n)
        scores = np.empty(ids.shape)
        for i, answers in enumerate(ids):  # each query by itself: a result must not depend on what else is asked
            near = np.asarray(gallery[answers], np.float32)
            distances = reciprocal_distances(queries[i : i + 1], near, int(p["k1"]), int(p["k2"]), p["lambda"])
            scores[i] = 1 - distances[0]
        return _sorted(ids, scores)

    return apply


def _graph(gallery: Floats, p: Parameters, context: Context) -> Any:
    from scipy.sparse import csr_array

    from retrieval.ranking.diffusion import neighbour_graph

    def compute() -> Arrays:
        graph = neighbour_graph(np.asarray(gallery), int(p["k"]), p["gamma"], p[LEAST])
        return {"data": graph.data, "indices": graph.indices, "indptr": graph.indptr}

    parts = context.keep("graph", {key: p[key] for key in ("k", "gamma", LEAST)}, compute)
    return csr_array((parts["data"], parts["indices"], parts["indptr"]), (len(gallery), len(gallery)))


def _diffusion(gallery: Floats, p: Parameters, context: Context) -> Online:
    from retrieval.ranking.diffusion import diffuse

    graph = _graph(gallery, p, context)
    return _spread(gallery, p, graph, lambda seeds: diffuse(graph, seeds, p["alpha"]))


def _spectral(gallery: Floats, p: Parameters, context: Context) -> Online:
    from retrieval.ranking.diffusion import SpectralDiffusion

    graph = _graph(gallery, p, context)

    def compute() -> Arrays:
        decomposed = SpectralDiffusion.of(graph, min(int(p["rank"]), len(gallery)))
        return {"values": decomposed.values, "vectors": decomposed.vectors}

    parts = context.keep("spectral", {key: p[key] for key in ("k", "gamma", "rank", LEAST)}, compute)
    decomposed = SpectralDiffusion(parts["values"], parts["vectors"])
    return _spread(gallery, p, graph, lambda seeds: decomposed.diffuse(seeds, p["alpha"]))


def _spread(gallery: Floats, p: Parameters, graph: Any, diffused: Callable[[np.ndarray], np.ndarray]) -> Online:
    from retrieval.ranking.diffusion import query_seeds

    linked = np.diff(graph.indptr) > 0

    def apply(queries: Floats) -> Outcome:
        parts = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            part = queries[start : start + _QUERIES_AT_ONCE]
            ids, _ = top_k(part, gallery, len(gallery))
            seeds = query_seeds(part, gallery, min(int(p["seeds"]), len(gallery)), p["gamma"], p[LEAST])
            spread = diffused(seeds)
            scores = np.take_along_axis(spread, ids, axis=1)
            if p[LEAST] > -math.inf:
                # A best answer that stands alone would fall behind whatever has company; and it is founded best.
                scores[~linked[ids[:, 0]]] = 0.0
                scores[:, 0] = scores.max(axis=1)
            # What no path leads to has score 0 but for rounding: it keeps the order it had.
            scores[np.abs(scores) <= 1e-12 * np.abs(scores).max(axis=1, keepdims=True)] = 0.0
            parts.append(_sorted(ids, scores))
        return Reordered(np.concatenate([r.ids for r in parts]), np.concatenate([r.scores for r in parts]))

    return apply


def _verified(kind: str, gallery: Floats, p: Parameters, context: Context) -> Online:
    import cv2  # noqa: F401 (now, so that the first query does not wait for it)

    from retrieval.ranking.geometry import rerank

    matches = context.matches
    if matches is None:
        raise UsageError("verification needs the pictures, not their descriptors alone")

    def apply(queries: Floats) -> Outcome:
        ids, _ = top_k(queries, gallery, min(int(p["n"]), len(gallery)))
        inliers = np.array([matches(kind, i, answers) for i, answers in enumerate(ids)], np.int64)
        order = np.stack([rerank(counts, int(p["minimum"])) for counts in inliers])
        return _taken(ids, inliers, order)

    return apply


def _sorted(ids: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> Reordered:
    """By descending score; equal ones stay in the order they came."""
    return _taken(ids, scores, np.argsort(-scores, axis=1, kind="stable"))


def _taken(ids: npt.NDArray[np.int64], scores: np.ndarray, order: npt.NDArray[np.int64]) -> Reordered:
    taken = np.take_along_axis(scores, order, axis=1)
    return Reordered(np.take_along_axis(ids, order, axis=1), taken.astype(np.float64))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "qe", "the query becomes the average of itself and its n first answers", {"n": 10}, _average, sizes=("n",)
        ),
        Method(
            "alpha-qe",
            "the same, each answer weighted by its similarity to the power alpha",
            {"n": 50, "alpha": 3.0},
            _alpha,
            sizes=("n",),
        ),
        Method(
            "dba",
            "every gallery descriptor is moved towards its n nearest, by the same weights",
            {"n": 10, "alpha": 3.0},
            _augmented,
            offline=True,
        ),
        Method(
            "k-reciprocal",
            "the first n answers by how far their neighbourhoods and the query's agree",
            {"n": 200, "k1": 20, "k2": 6, "lambda": 0.3},
            _reciprocal,
        ),
        Method(
            "diffusion",
            "similarity spreads over the graph of the gallery's k nearest neighbours",
            {"k": 50, "seeds": 10, "alpha": 0.99, "gamma": 3.0},
            _diffusion,
            offline=True,
            sizes=("k", "seeds"),
        ),
        Method(
            "spectral",
            "the same by the graph's leading eigenvectors: less a query, less exact",
            {"k": 50, "seeds": 10, "alpha": 0.99, "gamma": 3.0, "rank": 500},
            _spectral,
            offline=True,
            sizes=("k", "seeds"),
        ),
        Method(
            "verify",
            "the first n answers by how many local features agree in one geometry with the query's",
            {"n": 50, "minimum": 10},
            partial(_verified, SIFT),
            unit="inliers",
        ),
        Method(
            XFEAT,
            "the same by learned local features, meant for places in other light, and not for pictures that are turned",
            {"n": 50, "minimum": 12},
            partial(_verified, XFEAT),
            unit="inliers",
        ),
    )
}

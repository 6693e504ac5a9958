"""Re-rankers by name: ``"qe"``, ``"alpha-qe:n=20,alpha=3"``, ``"diffusion"``, ``"verify:n=50"`` ... over arrays.

Each works without labels on the queries' and the gallery's descriptors; "verify" asks for local features as well. What
can be done before a query comes is done by :meth:`Reranker.prepare`, so the cost of a query is that of the rest.

Methods that follow the neighbours of a query take as many as their papers do, but of these only such as are more similar than
unrelated pictures of this gallery are by chance (:mod:`retrieval.ranking.chance`). Where the number is named, it is obeyed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from retrieval.errors import UsageError
from retrieval.ranking.chance import chance_level, neighbourhood_size
from retrieval.ranking.neighbours import Floats, top_k

Parameters = Mapping[str, int | float]
Arrays = dict[str, np.ndarray]
_QUERIES_AT_ONCE = 64
_LEAST = "least"  # the similarity below which a link is taken for chance


class Moved(NamedTuple):
    """Search again with these descriptors (Q, D), in these (N, D): by inner product, ties by ascending id."""

    queries: Floats
    gallery: Floats


class Reordered(NamedTuple):
    """The first n answers of each query in a new order: ``ids`` (Q, n) int64, and what the re-ranker found of each, ``scores``
    (Q, n), greater is better. All other images follow as before."""

    ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]


Outcome = Moved | Reordered
Online = Callable[[Floats], Outcome]


def _compute(name: str, parameters: Mapping[str, Any], compute: Callable[[], Arrays]) -> Arrays:
    return compute()


@dataclass(frozen=True)
class Context:
    """What a re-ranker may use besides descriptors.

    ``keep(name, parameters, compute)`` returns ``compute()``, arrays by name, or what it gave before for the same gallery.
    ``matches(query, ids)`` compares the local features of the query with this number with those of gallery images: how many
    points of each agree in one geometry (len(ids),). Only "verify" needs it.
    """

    keep: Callable[[str, Mapping[str, Any], Callable[[], Arrays]], Arrays] = _compute
    matches: Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.integer[Any]]] | None = None


@dataclass(frozen=True)
class Method:
    """A re-ranker as data. ``offline``: whether it prepares something from the whole gallery, once. ``sizes``: parameters that
    say how many neighbours are followed; unless one is named, links that may be chance are left out."""

    name: str
    summary: str
    defaults: Parameters
    prepare: Callable[[Floats, Parameters, Context], Online]
    offline: bool = False
    sizes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reranker:
    """A method with its parameters, and which of them were ``named``; made by :func:`parse_reranker`."""

    method: Method
    parameters: Parameters = field(default_factory=dict)
    named: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """As ``--rerank`` takes it: the method, and the parameters that are not the usual ones or make it another."""
        changed = [
            f"{k}={v:g}"
            for k, v in self.parameters.items()
            if v != self.method.defaults[k] or (k in self.named and k in self.method.sizes)
        ]
        return self.method.name + (":" + ",".join(changed) if changed else "")

    def prepare(self, gallery: Floats, context: Context | None = None) -> Online:
        """Do once what needs the gallery (N, D) alone; returns the function from queries (Q, D) to the outcome.

        Descriptors are float rows of unit length; the gallery may be memory-mapped. Raises UsageError, DatasetError.
        """
        parameters = dict(self.parameters)
        if self.method.sizes:
            parameters[_LEAST] = chance_level(gallery) if self.adapts else -math.inf
        return self.method.prepare(gallery, parameters, context or Context())

    @property
    def adapts(self) -> bool:
        """Whether links that may be chance in a gallery are left out: it follows neighbours, and no number is named."""
        return bool(self.method.sizes) and not self.named & set(self.method.sizes)

    def caution(self, gallery: Floats) -> str | None:
        """A line for the user where a named number of neighbours is far more than a gallery (N, D) has; else None."""
        named = [key for key in self.method.sizes if key in self.named]
        if not named:
            return None
        asked = max(named, key=lambda key: self.parameters[key])
        has = neighbourhood_size(gallery, chance_level(gallery))
        if self.parameters[asked] <= 2 * has + 1:
            return None
        return (
            f"{self.name}: a picture of this gallery has about {has:.1f} close neighbours, and {asked} takes "
            f"{self.parameters[asked]:g}: the others are wrong answers, which can ruin a ranking. Leave out {asked}"
        )


def parse_reranker(text: str) -> Reranker:
    """Read ``NAME[:key=value,...]``. Raises UsageError that lists what exists."""
    name, _, rest = text.partition(":")
    method = METHODS.get(name.strip())
    if method is None:
        raise UsageError(f"unknown re-ranker {name.strip()!r}", f"There are: {', '.join(METHODS)}.")
    parameters, named = dict(method.defaults), set[str]()
    for item in filter(None, (part.strip() for part in rest.split(","))):
        key, equals, value = item.partition("=")
        if not equals or key.strip() not in parameters:
            known = ",".join(f"{k}={v:g}" for k, v in method.defaults.items())
            raise UsageError(f"{method.name} has no parameter {item!r}", f"Its parameters: {method.name}:{known}.")
        parameters[key.strip()] = _number(method, key.strip(), value.strip())
        named.add(key.strip())
    return Reranker(method, parameters, frozenset(named))


def _number(method: Method, key: str, value: str) -> int | float:
    kind = type(method.defaults[key])
    try:
        number = kind(value)
    except ValueError:
        number = None
    if number is None or not np.isfinite(number) or number < 0 or (kind is int and number < 1):
        expected = "a whole number from 1" if kind is int else "a number, not negative"
        raise UsageError(f"{method.name}: {key}={value} is not {expected}")
    return number


# ---------------------------------------------------------------- the methods


def _average(gallery: Floats, p: Parameters, context: Context) -> Online:
    from retrieval.ranking.expansion import average_query_expansion

    n = min(int(p["n"]), len(gallery))

    def apply(queries: Floats) -> Outcome:
        ids, similarities = top_k(queries, gallery, n)
        ids = np.where(similarities >= p[_LEAST], ids, -1)
        return Moved(average_query_expansion(queries, gallery, ids, n), gallery)

    return apply


def _alpha(gallery: Floats, p: Parameters, context: Context) -> Online:
    from retrieval.ranking.expansion import alpha_query_expansion

    n = min(int(p["n"]), len(gallery))

    def apply(queries: Floats) -> Outcome:
        ids, similarities = top_k(queries, gallery, n)
        ids = np.where(similarities >= p[_LEAST], ids, -1)
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
        graph = neighbour_graph(np.asarray(gallery), int(p["k"]), p["gamma"], p[_LEAST])
        return {"data": graph.data, "indices": graph.indices, "indptr": graph.indptr}

    parts = context.keep("graph", {key: p[key] for key in ("k", "gamma", _LEAST)}, compute)
    return csr_array((parts["data"], parts["indices"], parts["indptr"]), (len(gallery), len(gallery)))


def _diffusion(gallery: Floats, p: Parameters, context: Context) -> Online:
    from retrieval.ranking.diffusion import diffuse

    graph = _graph(gallery, p, context)
    return _spread(gallery, p, graph, lambda seeds: diffuse(graph, seeds, p["alpha"]))


def _spectral(gallery: Floats, p: Parameters, context: Context) -> Online:
    from retrieval.ranking.diffusion import SpectralDiffusion

    graph = _graph(gallery, p, context)

    def compute() -> Arrays:
        decomposed = SpectralDiffusion(graph, min(int(p["rank"]), len(gallery)))
        return {"values": decomposed.values, "vectors": decomposed.vectors}

    parts = context.keep("spectral", {key: p[key] for key in ("k", "gamma", "rank", _LEAST)}, compute)
    decomposed = SpectralDiffusion.__new__(SpectralDiffusion)
    decomposed.values, decomposed.vectors = parts["values"], parts["vectors"]
    return _spread(gallery, p, graph, lambda seeds: decomposed.diffuse(seeds, p["alpha"]))


def _spread(gallery: Floats, p: Parameters, graph: Any, diffused: Callable[[np.ndarray], np.ndarray]) -> Online:
    from retrieval.ranking.diffusion import query_seeds

    linked = np.diff(graph.indptr) > 0

    def apply(queries: Floats) -> Outcome:
        parts = []
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            part = queries[start : start + _QUERIES_AT_ONCE]
            ids, _ = top_k(part, gallery, len(gallery))
            seeds = query_seeds(part, gallery, min(int(p["seeds"]), len(gallery)), p["gamma"], p[_LEAST])
            spread = diffused(seeds)
            scores = np.take_along_axis(spread, ids, axis=1)
            if p[_LEAST] > -math.inf:
                # A best answer that stands alone would fall behind whatever has company; and it is founded best.
                scores[~linked[ids[:, 0]]] = 0.0
                scores[:, 0] = scores.max(axis=1)
            # What no path leads to has score 0 but for rounding: it keeps the order it had.
            scores[np.abs(scores) <= 1e-12 * np.abs(scores).max(axis=1, keepdims=True)] = 0.0
            parts.append(_sorted(ids, scores))
        return Reordered(np.concatenate([r.ids for r in parts]), np.concatenate([r.scores for r in parts]))

    return apply


def _verified(gallery: Floats, p: Parameters, context: Context) -> Online:
    import cv2  # noqa: F401 (now, so that the first query does not wait for it)

    from retrieval.ranking.geometry import rerank

    matches = context.matches
    if matches is None:
        raise UsageError("verify needs the pictures, not their descriptors alone")

    def apply(queries: Floats) -> Outcome:
        ids, _ = top_k(queries, gallery, min(int(p["n"]), len(gallery)))
        inliers = np.array([matches(i, answers) for i, answers in enumerate(ids)], np.int64)
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
            _verified,
        ),
    )
}

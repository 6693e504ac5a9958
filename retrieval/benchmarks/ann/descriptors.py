"""Vectors that look like descriptors, in any number: things that were photographed several times, among many others.

A thing is a point; its pictures lie around it, moved along differences of other points, so that noise has the directions in
which descriptors really vary and none other. Some things were photographed often, most once or twice. The things are stored
descriptors of a gallery, or are drawn: around themes, with variances that fall as 1/i, turned at random. Uniform vectors
would say nothing: they have no neighbours worth finding, and an index looks useless on them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retrieval.errors import UsageError

_MOST_THINGS = 200_000
_PER_THING = 10  # pictures of a thing on average, where the things are drawn


@dataclass(frozen=True)
class Things:
    """``points`` (M, D) float32, unit length; ``origin`` says where they are from."""

    points: np.ndarray
    origin: str

    def pictures_of(self, things: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """One new picture each of these things: unit vectors (N, D) float32, mostly at cosines of 0.97 to 0.7 to them."""
        points = self.points
        one = rng.integers(0, len(points), len(things))
        other = (one + rng.integers(1, len(points), len(things))) % len(points)  # never the same
        step = points[one] - points[other]
        step /= np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-12)
        moved = points[things] + step * rng.uniform(0.25, 1.0, (len(things), 1)).astype(np.float32)
        return (moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)).astype(np.float32)

    def choose(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Things for ``count`` pictures, int64: a few of them often (Pareto), most seldom."""
        weights = rng.pareto(1.2, len(self.points)) + 0.2
        return rng.choice(len(self.points), count, p=weights / weights.sum())


def drawn_things(pictures: int, dim: int, rng: np.random.Generator) -> Things:
    """Things for so many pictures, drawn."""
    count = min(_MOST_THINGS, max(64, pictures // _PER_THING))
    scales = (1 + np.arange(dim, dtype=np.float64)) ** -0.5
    scales = (scales / np.linalg.norm(scales)).astype(np.float32)
    themes = rng.standard_normal((max(8, count // 200), dim), np.float32) * scales
    points = 0.7 * themes[rng.integers(0, len(themes), count)]
    points += 0.7 * rng.standard_normal((count, dim), np.float32) * scales
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    return Things(points @ turn, "drawn")


def things_of(vectors: np.ndarray, origin: str, rng: np.random.Generator) -> Things:
    """Stored descriptors (M, D) as things; of very many, some. Raises UsageError for too few to vary them."""
    if len(vectors) < 64:
        raise UsageError(f"{origin} holds {len(vectors)} different pictures", "At least 64 are needed.")
    if len(vectors) > _MOST_THINGS:
        vectors = vectors[np.sort(rng.choice(len(vectors), _MOST_THINGS, replace=False))]
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return Things((vectors / np.maximum(lengths, 1e-12)).astype(np.float32), origin)

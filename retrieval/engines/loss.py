"""What descriptors lose in fewer bits than float32 has: measured on pictures, said, and kept within bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from retrieval.errors import ImageError, UsageError

T = TypeVar("T")

LEAST_COSINE = 0.98  # of the mean over the sample; below it the model is refused
LEAST_OVERLAP = 0.75  # of the ten nearest neighbours, on average
HARMLESS_COSINE = 0.999  # `auto` takes what loses no more
HARMLESS_OVERLAP = 0.95
FEWEST = 16  # pictures from which anything is concluded
_NEIGHBOURS = 10


@dataclass(frozen=True)
class PrecisionLoss:
    """Of ``precision`` against float32, over ``pictures``: cosines of the descriptors, and which part of each one's ten
    nearest neighbours among the others stays the same."""

    precision: str
    pictures: int
    mean_cosine: float
    least_cosine: float
    overlap: float

    def __str__(self) -> str:
        return (
            f"{self.precision} against fp32 on {self.pictures} pictures: cosine {self.mean_cosine:.4f} on average, "
            f"{self.least_cosine:.4f} at least; {100 * self.overlap:.0f} % of the {_NEIGHBOURS} nearest neighbours the same"
        )

    @property
    def bearable(self) -> bool:
        """Whether a gallery may be described so when it is asked for."""
        return self.mean_cosine >= LEAST_COSINE and self.overlap >= LEAST_OVERLAP

    @property
    def harmless(self) -> bool:
        """Whether a gallery may be described so without being asked."""
        return self.mean_cosine >= HARMLESS_COSINE and self.overlap >= HARMLESS_OVERLAP

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(exact: np.ndarray, rough: np.ndarray, precision: str = "int8") -> PrecisionLoss:
    """Two descriptors (N, D) each of the same pictures, unit length -> how far the second are from the first."""
    exact, rough = exact.astype(np.float64), rough.astype(np.float64)
    cosines = (exact * rough).sum(1)
    k = min(_NEIGHBOURS, len(exact) - 1)
    kept = [len(_nearest(exact, i, k) & _nearest(rough, i, k)) / k for i in range(len(exact))]
    return PrecisionLoss(precision, len(exact), float(cosines.mean()), float(cosines.min()), float(np.mean(kept)))


def sample(pictures: Sequence[T], load: Callable[[T], np.ndarray], wanted: int, why: str) -> list[np.ndarray]:
    """``wanted`` pictures, evenly spread over all, decoded by ``load``; those that raise ImageError are passed over.

    Raises UsageError where fewer than 16 can be read; ``why`` begins its line.
    """
    step = max(1.0, len(pictures) / wanted)
    decoded = []
    for i in range(min(len(pictures), wanted)):
        try:
            decoded.append(load(pictures[int(i * step)]))
        except ImageError:
            continue
    if len(decoded) < FEWEST:
        raise UsageError(
            f"{why} at least {FEWEST} pictures, and {len(decoded)} can be read",
            "Name more of their kind (--calibrate-on DIR), or use --precision fp32.",
        )
    return decoded


def _nearest(vectors: np.ndarray, i: int, k: int) -> set[int]:
    scores = vectors @ vectors[i]
    scores[i] = -np.inf
    return {int(j) for j in np.argsort(-scores, kind="stable")[:k]}

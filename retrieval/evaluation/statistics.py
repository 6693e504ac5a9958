"""How far figures over a few dozen queries can be trusted: intervals, and comparisons of two systems query by query.

Queries are the sample: with the 70 of a benchmark, a point of mAP is usually within chance. Everything is seeded, so the
same values give the same figures. Queries without a score (NaN) are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.errors import UsageError

Values = Sequence[float] | npt.NDArray[np.floating]
_DRAWS_AT_ONCE = 1 << 22  # numbers drawn in one step: 32 MiB
_EXACT_UP_TO = 16  # differing queries; all 2^16 sign patterns are then tried


@dataclass(frozen=True)
class Interval:
    """A mean over ``queries`` queries and its bootstrap interval."""

    mean: float
    low: float
    high: float
    queries: int
    level: float


@dataclass(frozen=True)
class Comparison:
    """System B against system A on the same queries.

    ``difference`` is the interval of mean(B) - mean(A); ``wins``, ``losses`` and ``ties`` count the queries on which B is
    better, worse or equal; ``p_value`` is that of a two-sided paired permutation test of "no difference".
    """

    mean_a: float
    mean_b: float
    difference: Interval
    wins: int
    losses: int
    ties: int
    p_value: float


def bootstrap_interval(values: Values, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Percentile bootstrap interval of the mean of per-query values (Efron and Tibshirani 1993, chapter 13).

    Draws ``resamples`` samples of the queries with replacement; the interval lies between the quantiles of their means
    that leave (1 - level) / 2 on either side. NaN limits without any score. Raises UsageError for a level outside (0, 1).
    """
    if not 0 < level < 1 or resamples < 1:
        raise UsageError(f"level must lie between 0 and 1 and resamples be positive, not {level} and {resamples}")
    scores = _vector(values)
    scores = scores[~np.isnan(scores)]
    if scores.size == 0:
        return Interval(float("nan"), float("nan"), float("nan"), 0, level)
    rng = np.random.default_rng(seed)
    means = [
        scores[rng.integers(0, scores.size, (count, scores.size))].mean(axis=1)
        for count in _steps(resamples, scores.size)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(scores.mean()), float(low), float(high), scores.size, level)


def compare(
    a: Values,
    b: Values,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    tie_tolerance: float = 1e-12,
) -> Comparison:
    """Compare per-query values of two systems on the same queries, in the same order, by their differences b - a.

    The interval is a bootstrap of the differences (paired: it knows that hard queries are hard for both). The p-value is
    the share of sign patterns whose mean difference is at least as far from 0 as the observed one: all patterns up to 16
    differing queries, else ``resamples`` random ones with the observed one counted in. Differences up to
    ``tie_tolerance`` are ties. Raises UsageError where the values do not belong to the same queries.
    """
    first, second = _vector(a), _vector(b)
    if first.shape != second.shape or np.any(np.isnan(first) != np.isnan(second)):
        raise UsageError(
            "the two systems were not measured on the same queries",
            "Compare values of one ground truth and one protocol",
        )
    known = ~np.isnan(first)
    first, second = first[known], second[known]
    differences = second - first
    differences[np.abs(differences) <= tie_tolerance] = 0.0
    return Comparison(
        mean_a=float(first.mean()) if first.size else float("nan"),
        mean_b=float(second.mean()) if second.size else float("nan"),
        difference=bootstrap_interval(differences, level=level, resamples=resamples, seed=seed),
        wins=int(np.sum(differences > 0)),
        losses=int(np.sum(differences < 0)),
        ties=int(np.sum(differences == 0)),
        p_value=_sign_flip_test(differences[differences != 0], resamples, seed),
    )


def _sign_flip_test(differences: npt.NDArray[np.float64], resamples: int, seed: int) -> float:
    """Under "no difference" each query's difference could as well have the other sign."""
    n = differences.size
    if n == 0:
        return 1.0
    observed = abs(differences.sum()) * (1 - 1e-12)  # patterns that equal the observed sum up to rounding count
    if n <= _EXACT_UP_TO:
        signs = 1.0 - 2.0 * ((np.arange(1 << n)[:, None] >> np.arange(n)) & 1)
        return float(np.mean(np.abs(signs @ differences) >= observed))
    rng = np.random.default_rng(seed)
    extreme = 0
    for count in _steps(resamples, n):
        signs = 1.0 - 2.0 * rng.integers(0, 2, (count, n))
        extreme += int(np.sum(np.abs(signs @ differences) >= observed))
    return (extreme + 1) / (resamples + 1)


def _steps(resamples: int, size: int) -> list[int]:
    """``resamples`` split so that each step draws a bounded number of values."""
    step = max(1, _DRAWS_AT_ONCE // size)
    return [min(step, resamples - start) for start in range(0, resamples, step)]


def _vector(values: Values) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise UsageError(f"values are a list with one number for each query, not of shape {array.shape}")
    return array

"""From scores to evidence that a picture shows the same thing: log-odds, against the background that the gallery itself shows.

Nearly all pictures of a gallery have nothing to do with a query; their scores are the background. A score counts by how many
spreads z it lies above the background's median. Backgrounds fall off about exponentially and right answers are spread widely,
so the log-likelihood ratio of right to background is about linear in z; far out, where no background was seen, it says hardly
more. The evidence of cosine, local similarity and geometry is added (as if independent), and a logistic curve turns the sum
into a probability.

What each piece of evidence counts was fitted by hand on six sets; the last step, from the sum to log-odds, by
``scripts/verdicts.py --fit`` on ten, half of their queries without an answer, and each set left out in turn to check it: see
docs/same_thing.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

# (median, spread) of scores of pictures that do not belong together, for galleries too small to show their own: the prior
# counts as much as so many pictures.
PRIOR_COSINE = (0.5, 0.1)
PRIOR_LOCAL = (0.0007, 0.0006)
_PRIOR_WEIGHT = 30

_COSINE_MOST, _COSINE_BEYOND = 4.0, 0.3
_LOCAL_LEAST, _LOCAL_MOST, _LOCAL_BEYOND, _LOCAL_WEIGHT = 2.0, 8.0, 0.05, 0.6
_INLIERS_LEAST, _INLIERS_MOST, _INLIERS_WEIGHT = 5, 25, 0.6
_OVERLAY_COSINE = 3.0  # spreads above the background
_OVERLAY_MOST, _OVERLAY_BEYOND = -0.5, 0.005  # log-odds: 0.38 and hardly more, in the order of the evidence
VERIFIED = 20  # first answers whose geometry is looked at
_SLOPE, _OFFSET = 0.881, -6.735

CERTAIN = 50.0  # log-odds of the very same file: no other evidence comes near


class Geometry(Protocol):
    """How many points of two pictures agree, and whether these are but what was laid over both: a caption, a logo."""

    @property
    def inliers(self) -> int: ...

    def laid_over(self) -> bool: ...


@dataclass(frozen=True)
class Background:
    """Median and spread (a standard deviation, were they normal) of the scores of pictures that do not belong to a query."""

    median: float
    spread: float

    def z(self, scores: Floats) -> npt.NDArray[np.float64]:
        """How many spreads above the median, float64 of the same shape."""
        result: npt.NDArray[np.float64] = (np.asarray(scores, np.float64) - self.median) / self.spread
        return result


def background(scores: Floats, prior: tuple[float, float]) -> Background:
    """The background that these scores (N,) of a query with pictures of the gallery show: from their median and their 5 to 95 %
    range, which right answers hardly move; mixed with the prior (median, spread), which matters where N is not large."""
    count = len(scores)
    if not count:
        return Background(*prior)
    low, median, high = _quantiles(scores, (0.05, 0.5, 0.95))
    share = count / (count + _PRIOR_WEIGHT)
    variance = share * ((high - low) / 3.29) ** 2 + (1 - share) * prior[1] ** 2
    return Background(float(share * median + (1 - share) * prior[0]), float(max(variance, 1e-12) ** 0.5))


def _quantiles(scores: Floats, shares: tuple[float, ...]) -> npt.NDArray[np.float64]:
    """What :func:`numpy.quantile` gives (linear), which imports all of numpy.ma for it."""
    return np.interp(np.array(shares) * (len(scores) - 1), np.arange(len(scores)), np.sort(scores))


def log_odds(
    cosine: Floats, local: Floats, inliers: npt.NDArray[np.integer], seen: float = math.inf
) -> npt.NDArray[np.float64]:
    """Log-odds (natural) that pictures show the same thing as a query: ``cosine`` and ``local`` (N,) in spreads above their
    backgrounds, NaN for a picture without local codes; ``inliers`` (N,), 0 where nothing was compared. ``seen``: how many
    pictures' local scores are the background: of so many, no score can be told to be rarer than one among them and the prior."""
    z = np.asarray(cosine, np.float64)
    total = np.clip(z, -1, _COSINE_MOST) + _COSINE_BEYOND * np.log1p(np.maximum(z - _COSINE_MOST, 0))
    above = np.maximum(np.nan_to_num(np.asarray(local, np.float64), nan=0.0) - _LOCAL_LEAST, 0)
    most = min(_LOCAL_MOST, math.log(seen + _PRIOR_WEIGHT) / _LOCAL_WEIGHT)
    beyond = _LOCAL_BEYOND / (1 + _PRIOR_WEIGHT / seen) if seen else 0.0
    total += _LOCAL_WEIGHT * np.minimum(above, most) + beyond * np.maximum(above - most, 0)
    total += _INLIERS_WEIGHT * np.maximum(np.minimum(inliers, _INLIERS_MOST) - _INLIERS_LEAST, 0)
    return _SLOPE * total + _OFFSET


def weigh(
    cosine: Floats, local: Floats, look: Callable[[int], Geometry | None], seen: float = math.inf
) -> tuple[npt.NDArray[np.float64], list[int | None]]:
    """Log-odds (N,) as :func:`log_odds`, once the geometry of the first 20 is looked at: ``look`` tells that of a position, None
    where nothing can be compared. Also the inliers of each, None where they were not looked at.

    What was laid over both pictures (a caption, a logo, a window) is little evidence: where it is all that agrees, and they are
    not very much alike besides, no match is made of it, though it stays before what has less."""
    counts = np.zeros(len(cosine), np.int64)
    over = np.zeros(len(cosine), bool)
    inliers: list[int | None] = [None] * len(cosine)
    for i in np.argsort(-log_odds(cosine, local, counts, seen), kind="stable")[:VERIFIED].tolist():
        if (found := look(i)) is None:
            continue
        inliers[i] = counts[i] = found.inliers
        over[i] = cosine[i] < _OVERLAY_COSINE and found.laid_over()
    odds = log_odds(cosine, local, counts, seen)
    held = over & (odds > _OVERLAY_MOST)
    odds[held] = _OVERLAY_MOST + _OVERLAY_BEYOND * (odds[held] - _OVERLAY_MOST)
    return odds, inliers


def probability(odds: Floats) -> npt.NDArray[np.float64]:
    """Of log-odds, in [0, 1]."""
    result: npt.NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(odds, -CERTAIN, CERTAIN)))
    return result

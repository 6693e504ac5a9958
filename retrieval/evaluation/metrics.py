"""Retrieval metrics of one query, from the positions of its right answers in the ranking.

A *rank* here counts from 0 and is junk-free: the images that a protocol ignores are taken out of the ranking first
(:func:`ranks_without_junk`). Right answers that a shortened ranking does not hold have no rank; they are counted by
``n_positive``, which is always the number in the ground truth. A query without right answers has no score: every
metric is NaN, and :func:`mean_over_queries` leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from retrieval.errors import UsageError, whole_number

Ranks = Sequence[int] | npt.NDArray[np.integer]


def ranks_without_junk(positive_ranks: Ranks, junk_ranks: Ranks) -> npt.NDArray[np.int64]:
    """Ranks of the right answers once junk is removed: each is lowered by the junk images above it.

    Both inputs are 0-based positions in the same ranking, in any order, all different; the result is ascending int64.
    Junk is neither right nor wrong: it is as if it were not in the gallery.
    """
    positive, junk = _ascending(positive_ranks), _ascending(junk_ranks)
    above = np.searchsorted(junk, positive)
    inside = above < len(junk)
    if np.any(junk[above[inside]] == positive[inside]):
        raise UsageError("an image is at the same rank as a right answer and as junk")
    return positive - above


def average_precision(ranks: Ranks, n_positive: int) -> float:
    """Average precision as the Oxford and Paris benchmarks define it: the area under the precision-recall curve by the
    trapezoidal rule (Philbin et al., CVPR 2007).

    For the j-th right answer found (j from 0) at rank r, precision just before it is j / r (1 at r = 0) and just after
    it (j + 1) / (r + 1); their mean is added with weight 1 / ``n_positive``. This is lower than the usual finite sum,
    which takes the second value alone. NaN without right answers.
    """
    found = _checked(ranks, n_positive)
    if n_positive == 0:
        return float("nan")
    j = np.arange(len(found), dtype=np.float64)
    before = np.where(found == 0, 1.0, j / np.maximum(found, 1))
    after = (j + 1) / (found + 1)
    return float(np.sum(before + after) / (2 * n_positive))


def precision_at(ranks: Ranks, k: int, n_positive: int | None = None) -> float:
    """Precision among the first k, as the Revisited Oxford and Paris benchmark defines it.

    The cut is not k but min(k, 1-based rank of the *last* right answer): a query whose right answers all come first has
    precision 1 at every k. Where a right answer is missing from a shortened ranking, the last one lies beyond any k.
    ``n_positive`` defaults to ``len(ranks)``. NaN without right answers.
    """
    _check_k(k)
    found = _checked(ranks, len(ranks) if n_positive is None else n_positive)
    if n_positive == 0 or (n_positive is None and len(found) == 0):
        return float("nan")
    complete = n_positive is None or len(found) == n_positive
    cut = min(k, int(found[-1]) + 1) if complete else k
    return float(np.searchsorted(found, cut) / cut)


def recall_at(ranks: Ranks, k: int, n_positive: int) -> float:
    """The fraction of all right answers that stand among the first k. NaN without right answers."""
    _check_k(k)
    found = _checked(ranks, n_positive)
    return float(np.searchsorted(found, k) / n_positive) if n_positive else float("nan")


def mean_over_queries(values: Sequence[float] | npt.NDArray[np.floating]) -> float:
    """The mean over the queries that have a score; NaN where none has."""
    scores = np.asarray(values, dtype=np.float64)
    scores = scores[~np.isnan(scores)]
    return float(scores.mean()) if scores.size else float("nan")


def _ascending(ranks: Ranks) -> npt.NDArray[np.int64]:
    array = np.asarray(ranks)
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise UsageError(f"ranks are a list of whole numbers, not {array.dtype} of shape {array.shape}")
    array = np.sort(array.astype(np.int64))
    if array[0] < 0 or np.any(array[1:] == array[:-1]):
        raise UsageError("ranks count from 0 and are all different")
    return array


def _checked(ranks: Ranks, n_positive: int) -> npt.NDArray[np.int64]:
    found = _ascending(ranks)
    if len(found) > n_positive:
        raise UsageError(f"{len(found)} right answers found, but the ground truth has only {n_positive}")
    return found


def _check_k(k: int) -> None:
    whole_number("k, the number of first answers,", k)

"""Which similarities mean something in a gallery: those that unrelated pictures do not reach by chance.

Re-ranking follows the links between a query, its answers and their neighbours. Published numbers of neighbours (10, 50) fit
sets in which everything was photographed that often; where a thing has one picture or two, most of them are wrong answers.
How far chance goes can be seen without labels: most pairs of a gallery are unrelated.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from retrieval.ranking.neighbours import Floats

_SAMPLE = 512  # pictures whose similarities to others are looked at
_OTHERS = 4096  # at most so many others
_FALSE_LINKS = 0.02  # unrelated pictures above the level that a picture may have, in expectation
_MOST = 50  # neighbours that are counted


def chance_level(gallery: Floats, links: float = _FALSE_LINKS) -> float:
    """The similarity that hardly any unrelated picture of the gallery (N, D) has with a given one; 1 for fewer than 3.

    From the median m and the 84 % quantile q of all similarities in a sample: a normal distribution with these, of which
    ``links`` pictures in N, a fiftieth of one, lie above the level. Related pairs do not disturb it while they are fewer than
    one in six.
    """
    if len(gallery) < 3:
        return 1.0
    similarities = _sampled(gallery)
    middle, upper = np.quantile(similarities, [0.5, 0.8413])
    level = middle + (upper - middle) * NormalDist().inv_cdf(1 - links / len(gallery))
    return float(min(level, 1.0))


def neighbourhood_size(gallery: Floats, level: float) -> float:
    """How many other pictures of the gallery a picture is linked with, on average over a sample; counted up to 50."""
    if len(gallery) < 3:
        return 0.0
    chosen = _chosen(len(gallery), _SAMPLE)
    vectors = np.asarray(gallery[chosen], np.float32)
    counts = np.zeros(len(chosen))
    for begin in range(0, len(gallery), _OTHERS):
        part = np.asarray(gallery[begin : begin + _OTHERS], np.float32)
        counts += (vectors @ part.T >= level).sum(axis=1)
    return float(np.minimum(counts - 1, _MOST).clip(min=0).mean())


def _sampled(gallery: Floats) -> np.ndarray:
    """Similarities of different pictures, of a sample spread evenly."""
    first, other = _chosen(len(gallery), _SAMPLE), _chosen(len(gallery), _OTHERS)
    products = np.asarray(gallery[first], np.float32) @ np.asarray(gallery[other], np.float32).T
    result: np.ndarray = products[first[:, None] != other[None]]
    return result


def _chosen(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))

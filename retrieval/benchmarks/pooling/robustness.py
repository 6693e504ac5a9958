"""What noise on the features does to a descriptor.

Gaussian noise is added to the features of the queries, before pooling; the gallery stays clean, as a poor photograph
meets a gallery of good ones. Every pooling and every strength meets the same draws, scaled, so that differences between
them are not chance. Nothing is rectified afterwards: a pooling gets the negative values and does with them what it does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from retrieval.benchmarks.pooling.feature_cache import FeatureCache
from retrieval.benchmarks.pooling.methods import Method

DRAWS = 2
MOST_QUERIES = 100
_BANK = 1 << 22  # normal numbers that are drawn once; each draw is a stretch of them from a random place


def noisy_descriptors(
    cache: FeatureCache,
    methods: Sequence[Method],
    pictures: Sequence[int],
    strengths: Sequence[float],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, npt.NDArray[np.float32]]:
    """Descriptors of ``pictures`` (numbers in ``cache``, Q of them) with noise of the given standard deviations (S of
    them, in the units of the features): label -> float32 (S, draws, Q, D), unit length.
    """
    import torch

    from retrieval.benchmarks.pooling.shared_pooling import descriptors

    rng = np.random.default_rng(seed)
    largest = max(int(np.prod(cache.shapes[i])) for i in pictures)
    bank = rng.standard_normal(max(_BANK, 2 * largest), np.float32)
    starts = rng.random((len(pictures), draws))
    scale = np.asarray(strengths, np.float32)
    out: dict[str, npt.NDArray[np.float32]] = {}

    def pool(q: int, draw: int) -> list[npt.NDArray[np.float32]]:
        features = cache.features(pictures[q])
        start = int(starts[q, draw] * (len(bank) - features.size + 1))
        noise = bank[start : start + features.size].reshape(features.shape)
        noisy = features + scale.reshape(-1, *([1] * features.ndim)) * noise
        return [found.numpy() for found in descriptors(methods, cache.tensor(noisy))]

    tasks = [(q, draw) for q in range(len(pictures)) for draw in range(draws)]
    with torch.inference_mode():
        for q, draw in tasks:
            for method, found in zip(methods, pool(q, draw), strict=True):
                if method.label not in out:
                    shape = (len(strengths), draws, len(pictures), found.shape[1])
                    out[method.label] = np.empty(shape, np.float32)
                out[method.label][:, draw, q] = found
    return out

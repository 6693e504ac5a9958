"""How much of a feature map is left in its descriptor: the share of the features' variance that it explains.

The map of a picture, brought to a 4 x 4 grid by averaging (tokens: 16 equal runs of them), is predicted from the
descriptor by the best linear map; the share is 1 - (squared error) / (squared error of predicting the mean of the
other pictures), summed over cells and channels: the coefficient of determination, R^2. It counts pictures that the
prediction has not seen, since with more dimensions than pictures anything explains anything: each picture is predicted
from all others (Allen 1974, PRESS). The linear map is ridge regression, whose leave-one-out errors are known in
closed form, e_i = r_i / (1 - h_ii) with the hat matrix H, and whose penalty is the one with the least error
(Golub, Heath and Wahba 1979); no fitting, no chance.

1 means that the whole coarse map can be had back from the descriptor, 0 that the descriptor says nothing about it. The
figure grows with the number of pictures, so it compares poolings on one set, not sets. It asks for the means of
regions, which favours averages over maxima and poolings that keep the layout over those that do not: that is what
"how much survives" means here, and it is not the same as "good for retrieval".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from retrieval.pooling.regions import adaptive_windows

GRID = 4
MOST_PICTURES = 400
FEWEST_PICTURES = 8
_PENALTIES = 10.0 ** np.arange(-5, 4)


def coarse_map(features: npt.NDArray[np.float32], prefix: int = 0) -> npt.NDArray[np.float32]:
    """Features ``(H, W, C)`` as the means of a 4 x 4 grid, or ``(T, D)`` (after ``prefix``) as those of 16 runs: ``(16 C,)``."""
    if features.ndim == 2:
        tokens = features[prefix:]
        return np.concatenate([tokens[a:b].mean(0) for a, b in adaptive_windows(len(tokens), GRID * GRID)])
    down, across = (adaptive_windows(side, GRID) for side in features.shape[:2])
    rows = [features[a:b].mean(0) for a, b in down]
    return np.concatenate([row[a:b].mean(0) for row in rows for a, b in across])


def retained_share(maps: npt.NDArray[np.float32]) -> Callable[[npt.NDArray[np.float32]], float]:
    """For coarse maps ``(N, F)`` of N pictures, a function from their descriptors ``(N, D)`` to the share they explain.

    NaN for fewer than 8 pictures, or where all maps are equal. Cost: N^2 (F + D) + N^3.
    """
    count = len(maps)
    target = _centred_products(maps)
    # Predicting a picture by the mean of the others errs by N / (N - 1) times its distance from the mean of all.
    total = float(np.trace(target)) * (count / max(1, count - 1)) ** 2

    def share(descriptors: npt.NDArray[np.float32]) -> float:
        if count < FEWEST_PICTURES or total <= 0:
            return float("nan")
        # In a basis of the differences between pictures the intercept takes no part, and nothing cancels below.
        basis = _differences(count)
        values, vectors = np.linalg.eigh(basis.T @ _centred_products(descriptors) @ basis)
        values, vectors = np.maximum(values, 0), basis @ vectors
        rotated = vectors.T @ target @ vectors
        errors = []
        for penalty in _PENALTIES * max(float(values.mean()), 1e-30):
            left = vectors * (penalty / (values + penalty))  # I - H = left @ vectors.T
            squares = np.maximum(np.einsum("ij,ij->i", left @ rotated, left), 0)
            errors.append(float(np.sum(squares / np.einsum("ij,ij->i", left, vectors) ** 2)))
        return max(0.0, 1 - min(errors) / total)

    return share


def _centred_products(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Inner products of the rows, less their mean: ``(N, N)``."""
    wide = rows.astype(np.float64)
    wide -= wide.mean(0)
    return wide @ wide.T


def _differences(count: int) -> npt.NDArray[np.float64]:
    """An orthonormal basis ``(N, N - 1)`` of the vectors that sum to 0: columns of the reflection that takes the first axis to
    the constant vector (Householder)."""
    v = np.full(count, 1 / np.sqrt(count))
    v[0] += 1
    return (np.eye(count) - 2 * np.outer(v, v) / (v @ v))[:, 1:]

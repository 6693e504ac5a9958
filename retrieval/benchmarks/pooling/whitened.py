"""PCA-whitening for a benchmark: fitted on other pictures than those it is judged on, or not at all."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from retrieval.benchmarks.pooling.scoring import Vectors
from retrieval.datasets.groundtruth import GroundTruth
from retrieval.errors import UsageError
from retrieval.files.digest import file_sha256
from retrieval.models.whitening import Whitening
from retrieval.pictures.scan import walk

Whitener = Callable[[Vectors], Vectors]

LARGEST_DIM = 8192  # beyond, the projection alone would take longer than the network
_FEWEST_PICTURES = 10


def fitting_pictures(folder: str | os.PathLike[str], truth: GroundTruth) -> list[str]:
    """The pictures in ``folder`` and below it, sorted by path, for a whitening that is judged on ``truth``.

    Raises UsageError where there are fewer than 10, and where one of them is in the gallery or among the queries, be it
    by its path or as a copy: a whitening that has seen the set it is judged on is a leak.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"{folder} is not a folder of pictures to fit a whitening on")
    found = [(os.path.join(folder, picture.path), picture.size) for picture in walk(os.fspath(folder)).files]
    if len(found) < _FEWEST_PICTURES:
        raise UsageError(f"{folder} holds {len(found)} pictures", "A whitening wants a thousand, and 10 at least.")
    sizes = {size for _, size in found}
    judged = (os.path.join(truth.root, path) for path in (*truth.gallery, *(q.image for q in truth.queries)))
    content = {file_sha256(Path(path)): path for path in judged if os.path.getsize(path) in sizes}
    for path, _ in found if content else ():
        if (same := content.get(file_sha256(Path(path)))) is not None:
            raise UsageError(
                f"{path} is in the set itself (as {same}): a whitening fitted on it would be a leak",
                "Give other pictures, or --whiten-on gallery, which marks the results.",
            )
    return [path for path, _ in found]


def fit_whitener(vectors: Vectors) -> Whitener | None:
    """PCA-whitening learned from descriptors ``(N, D)``: a function from ``(M, D)`` to ``(M, d)``, float32, unit length.

    That of :func:`retrieval.models.whitening.learn_pca`, by singular values, which takes no longer for long descriptors. d is
    half the number of pictures or D, whichever is less: the smallest components of a few hundred pictures are chance, and
    whitening would raise them to the size of the others. None where D is above 8,192.
    """
    if vectors.shape[1] > LARGEST_DIM:
        return None
    mean = vectors.mean(0, dtype=np.float64)
    # The singular values of the centred vectors are the roots of N times the eigenvalues of their covariance.
    _, singular, basis = np.linalg.svd(vectors - mean.astype(np.float32), full_matrices=False)
    kept = min(len(vectors) // 2, int(np.sum(singular > 1e-6 * singular[0])))
    projection = basis[:kept].astype(np.float64) * (math.sqrt(len(vectors)) / singular[:kept, None])
    return Whitening(mean, projection, "pca", {"images": len(vectors)}).apply

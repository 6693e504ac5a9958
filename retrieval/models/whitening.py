"""Whitening of descriptors: learned from matching pairs (Lw), or from the spread of any descriptors (PCA). Numpy only.

Both are x -> L2(P (x - m)), with L2 dividing by the length plus 1e-6 as the field does. As a linear layer that is
weight = P and bias = -P m, followed by L2. Descriptors are rows (N, D). Never learn from the queries or the gallery that
are evaluated: it raises the figures and means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import DatasetError, UsageError

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Whitening:
    """``mean`` m (D,) and ``projection`` P (d, D), both float64; ``kind`` "lw" or "pca"; ``info`` on what it was learned from."""

    mean: npt.NDArray[np.float64]
    projection: npt.NDArray[np.float64]
    kind: str
    info: Mapping[str, int | float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.projection.ndim != 2 or self.projection.shape[1] != len(self.mean):
            raise UsageError(
                f"a mean of shape {self.mean.shape} and a projection of shape {self.projection.shape} do not fit"
            )

    @property
    def bias(self) -> npt.NDArray[np.float64]:
        """-P m (d,): with ``projection`` as the weight, this makes a linear layer of the whitening."""
        return -self.projection @ self.mean

    def reduced(self, dim: int) -> Whitening:
        """The same whitening with only the first ``dim`` of its output dimensions, which carry the most."""
        if not 1 <= dim <= len(self.projection):
            raise UsageError(f"cannot reduce to {dim} dimensions: this whitening gives {len(self.projection)}")
        return Whitening(self.mean, self.projection[:dim], self.kind, self.info)

    def apply(self, x: Floats, dim: int | None = None) -> Floats:
        """Whiten descriptors (N, D), keep the first ``dim`` dimensions (default: all), L2-normalise: (N, dim).

        The result has the precision of ``x``, at least float32.
        """
        projection = self.projection if dim is None else self.reduced(dim).projection
        if x.ndim != 2 or x.shape[1] != len(self.mean):
            raise UsageError(f"descriptors of shape {x.shape} for a whitening of {len(self.mean)} dimensions")
        kind = np.result_type(x.dtype, np.float32)
        projected = (x.astype(kind) - self.mean.astype(kind)) @ projection.T.astype(kind)
        return projected / (np.linalg.norm(projected, axis=1, keepdims=True) + kind.type(1e-6))


def learn_lw(
    x: Floats, qidx: npt.NDArray[np.integer[Any]], pidx: npt.NDArray[np.integer[Any]], dim: int | None = None
) -> Whitening:
    """Whitening from matching pairs (Mikolajczyk and Matas, ICCV 2007; Radenovic et al., TPAMI 2019, section 3.3).

    ``x`` (N, D); the pairs are the rows ``qidx`` (M,) (queries) and ``pidx`` (M,) (their positives). With m the mean of
    the query rows and S the mean outer product of differences within pairs, S = L L^T, vectors are first whitened by L^-1
    (so that pairs differ equally in all directions), then *rotated* to the eigenvectors U of the scatter of all of ``x``,
    most spread first: P = U^T L^-1. Keeps ``dim`` dimensions (default: all D).

    Where S is singular (fewer pairs than dimensions), 1e-10, then ten times as much and so on is put on its diagonal
    until it is not; with many more pairs than dimensions the result is better founded. Cost: N D^2 + D^3.
    """
    x = _descriptors(x)
    wide = x.astype(np.float64)
    qidx, pidx = np.asarray(qidx), np.asarray(pidx)
    if qidx.ndim != 1 or qidx.shape != pidx.shape or not len(qidx):
        raise UsageError(f"queries of shape {qidx.shape} and positives of shape {pidx.shape} are no list of pairs")
    if min(qidx.min(), pidx.min()) < 0 or max(qidx.max(), pidx.max()) >= len(x):
        raise UsageError(f"a pair has an index outside of the {len(x)} descriptors")
    # Mean and scatter keep the precision of x, as in published whitenings: weak directions are sensitive to it.
    mean = x[qidx].mean(axis=0)
    differences = x[qidx] - x[pidx]
    scatter = differences.T @ differences / x.dtype.type(len(qidx))
    mean, inverse = mean.astype(np.float64), np.linalg.inv(_cholesky(scatter.astype(np.float64)))
    whitened = (wide - mean) @ inverse.T
    _, vectors = np.linalg.eigh(whitened.T @ whitened)
    projection = vectors[:, ::-1].T @ inverse
    whitening = Whitening(mean, projection, "lw", {"images": len(x), "pairs": len(qidx)})
    return whitening if dim is None else whitening.reduced(dim)


def learn_pca(x: Floats, dim: int | None = None, shrinkage: float = 0.0) -> Whitening:
    """PCA whitening of any descriptors (N, D), without labels (Jegou and Chum, ECCV 2012).

    m is their mean; row i of P is the i-th eigenvector of their covariance divided by the root of its eigenvalue l_i,
    greatest first, so projections have variance 1 in each of the ``dim`` directions kept (default: D) and no correlation.
    ``shrinkage`` s in [0, 1] replaces l_i by (1 - s) l_i + s mean(l): directions of little spread, which are poorly known
    from few images, are blown up less; 1 only centres and rotates. Cost: N D^2 + D^3, or N^2 D where N < D.

    N images span N - 1 directions at most: raises UsageError for fewer than dim + 1, and DatasetError where the
    descriptors do not spread in ``dim`` directions (copies, dead dimensions) and nothing is shrunk.
    """
    x = _descriptors(x)
    dim = x.shape[1] if dim is None else dim
    if not 1 <= dim <= x.shape[1]:
        raise UsageError(f"cannot whiten descriptors of {x.shape[1]} dimensions to {dim}")
    if not 0 <= shrinkage <= 1:
        raise UsageError(f"shrinkage lies between 0 and 1, not {shrinkage}")
    if len(x) <= dim:
        raise UsageError(
            f"whitening to {dim} dimensions needs at least {dim + 1} images, and there are {len(x)}",
            f"Add images, or keep fewer than {len(x)} dimensions",
        )
    wide = x.astype(np.float64)
    mean = wide.mean(axis=0)
    centred = wide - mean
    values, vectors = _principal(centred)
    explained = float(values[:dim].sum() / max(values.sum(), np.finfo(np.float64).tiny))
    # Less than what rounding to float32 leaves is no spread.
    known = int(np.sum(values > np.finfo(np.float32).eps ** 2 * max(len(values) * values[0], mean @ mean)))
    shrunk = (1 - shrinkage) * values + shrinkage * values.mean()
    if known == 0 or (shrinkage == 0 and known < dim):
        raise DatasetError(
            f"the descriptors spread in {known} directions only, not in {dim}",
            "Keep fewer dimensions, shrink, or take more varied images",
        )
    projection = (vectors[:, :dim] * shrunk[:dim] ** -0.5).T
    return Whitening(mean, projection, "pca", {"images": len(x), "shrinkage": shrinkage, "explained": explained})


def _principal(centred: Floats) -> tuple[Floats, Floats]:
    """All D eigenvalues of the covariance of ``centred`` (N, D), greatest first, and eigenvectors (D, min(N, D))."""
    images, width = centred.shape
    if images < width:
        _, spread, rows = np.linalg.svd(centred, full_matrices=False)
        return np.pad(spread**2 / images, (0, width - images)), rows.T
    values, vectors = np.linalg.eigh(centred.T @ centred / images)
    return np.maximum(values[::-1], 0.0), vectors[:, ::-1]


def _descriptors(x: Floats) -> Floats:
    """``x``, checked, in its own precision but at least float32."""
    if x.ndim != 2 or not x.size:
        raise UsageError(f"descriptors are one row for each image, not an array of shape {x.shape}")
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        raise DatasetError(f"descriptor {bad[0]} (counting from 0) holds NaN or infinite values")
    return x.astype(np.result_type(x.dtype, np.float32))


def _cholesky(scatter: npt.NDArray[np.float64]) -> Floats:
    added = 0.0
    while True:
        try:
            return np.linalg.cholesky(scatter + added * np.eye(len(scatter)))
        except np.linalg.LinAlgError:
            added = 10 * added or 1e-10


def fit_pca(vectors: np.ndarray, dim: int | None = None, shrinkage: float = 0.0) -> Whitening:
    """:func:`retrieval.models.whitening.learn_pca` of descriptors (N, D), refused with advice where they are too few."""
    wanted = vectors.shape[1] if dim is None else dim
    if len(vectors) <= wanted <= vectors.shape[1]:
        advice = (
            f"Say --dim {len(vectors) // 2} or less, or take more pictures."
            if len(vectors) > 3
            else "Take more pictures."
        )
        raise UsageError(
            f"{len(vectors)} different pictures are too few for a whitening to {wanted} dimensions", advice
        )
    return learn_pca(vectors, dim, shrinkage)


def fit_pairs(vectors: np.ndarray, pairs: Sequence[tuple[int, int]], dim: int | None = None) -> Whitening:
    """:func:`retrieval.models.whitening.learn_lw` of descriptors (N, D) and pairs of rows (query, positive).

    Raises UsageError where the pairs' differences cannot span all dimensions: a whitening learned from them would be
    noise in the others.
    """
    if dim is not None and dim > vectors.shape[1]:
        raise UsageError(f"descriptors of {vectors.shape[1]} dimensions cannot be whitened to {dim}")
    span = _independent(pairs)
    if span < vectors.shape[1]:
        raise UsageError(
            f"{len(pairs)} matching pairs with {span} independent differences are too few "
            f"to learn a whitening of {vectors.shape[1]} dimensions",
            "Take more pairs, or --kind pca with a small --dim, which needs no pairs.",
        )
    table = np.array(pairs, np.int64)
    return learn_lw(vectors, table[:, 0], table[:, 1], dim)


def _independent(pairs: Sequence[tuple[int, int]]) -> int:
    """Rank that the differences of pairs can have: one for each edge that joins two groups of pictures."""
    leader: dict[int, int] = {}

    def find(i: int) -> int:
        while leader.setdefault(i, i) != i:
            leader[i] = i = leader[leader[i]]
        return i

    joined = 0
    for a, b in pairs:
        first, second = find(a), find(b)
        if first != second:
            leader[first] = second
            joined += 1
    return joined

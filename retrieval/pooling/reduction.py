"""Token Pooling: fewer tokens that stand for all of them, so that what follows has less to compute.

After Marin et al., "Token Pooling in Vision Transformers for Image Classification", 2021/2023. N tokens f_i are to be
replaced by K tokens c_j so that the reconstruction error ``sum_i min_j ||f_i - c_j||^2`` is small. That is what
clustering minimises: K-means, or K-medoids whose centres are tokens, so that distances are computed only once. Both
also come weighted by a significance w_i of each token (``sum_i w_i min_j ...``), the attention it receives. The simple
alternatives are here for comparison: the K most significant tokens, K random ones, and 2 x 2 averages on the grid.

These are functions of tensors, batched throughout. Cluster membership is discrete and gets no gradient; the returned
tokens are averages (or copies) of the input tokens and pass theirs on, equally or by weight within each cluster.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval.errors import UsageError
from retrieval.pooling.base import check_tokens, one_of, positive_int, tracing

CLUSTERINGS = ("kmeans", "kmedoids", "weighted-kmeans", "weighted-kmedoids")
METHODS = (*CLUSTERINGS, "topk", "random", "grid")
OUTPUTS = ("mean", "centre")
TINY = torch.finfo(torch.float32).tiny


class Reduced(NamedTuple):
    """What :func:`reduce_tokens` returns.

    Attributes:
        tokens: ``(B, K, D)`` in the dtype of the input.
        assignment: ``(B, N)`` int64, for each input token the index of the token that stands for it.
        error: ``(B,)``, the reconstruction error: the sum of squared distances between each input token and the one
            that stands for it, unweighted whatever the method.
    """

    tokens: Tensor
    assignment: Tensor
    error: Tensor


def reduce_tokens(
    tokens: Tensor,
    k: int,
    method: str = "weighted-kmedoids",
    significance: Tensor | None = None,
    *,
    iterations: int = 5,
    output: str = "mean",
    prefix: int = 0,
    grid: tuple[int, int] | None = None,
    generator: torch.Generator | None = None,
) -> Reduced:
    """Replace N tokens by K.

    Args:
        tokens: ``(B, N, D)``.
        k: number of tokens to return, the prefix included. k = N returns the tokens as they are.
        method: ``kmeans``, ``kmedoids``, ``weighted-kmeans``, ``weighted-kmedoids``: clustering, started from the
            most significant tokens (from evenly spaced ones if ``significance`` is None). ``topk``: the most
            significant tokens. ``random``: a random choice. ``grid``: the average of 2 x 2 neighbours. For the last
            three, ``assignment`` is the nearest kept token, or for ``grid`` the average that a token is part of.
        significance: ``(B, N)``, not negative; needed by the weighted methods and by ``topk``.
        iterations: rounds of assignment and update; fewer if nothing changes any more.
        output: ``mean`` returns the average of each cluster (weighted, for the weighted methods), as the authors do
            for both algorithms; ``centre`` the medoid itself, or for K-means its last centre, which is that average.
        prefix: so many tokens at the front (the class token, registers) pass unchanged and stand for themselves.
        grid: rows and columns of the tokens after the prefix, for ``grid``; a square if None.
        generator: source of randomness for ``random``.

    Order is kept: the prefix first, then clusters in the order of the tokens that they started from. A cluster that
    loses all its tokens keeps its centre, so there are always K tokens.

    Raises:
        UsageError: k > N, k that leaves nothing beside the prefix, k that the grid does not give, a missing or
            mismatched significance, an unknown method, wrong shapes.
    """
    one_of(method, METHODS, "method")
    one_of(output, OUTPUTS, "output")
    positive_int(iterations, "iterations")
    x = check_tokens(tokens)
    _check_count(k, x.shape[1], prefix)
    weights = _check_significance(significance, x, method)
    if not tracing() and k == x.shape[1]:
        return _identity(tokens, x)
    body, weights = x[:, prefix:], None if weights is None else weights[:, prefix:]
    if method == "grid":
        pooled, assignment = _average_grid(body, k - prefix, prefix, grid)
    elif method in CLUSTERINGS:
        start = _spaced(body, k - prefix) if weights is None else _most_significant(weights, k - prefix)
        importance = torch.ones_like(body[..., 0])
        if weights is not None and method.startswith("weighted"):
            # Scaled to a maximum of 1 and kept above 0, so that a cluster of insignificant tokens has a mean too.
            importance = (weights / weights.amax(1, keepdim=True).clamp(min=TINY)).clamp(min=1e-6)
        if method.endswith("kmeans"):
            pooled, assignment = _kmeans(body, start, importance, iterations)
        else:
            pooled, assignment = _kmedoids(body, start, importance, iterations, output)
    else:
        if weights is not None and method == "topk":
            kept = _most_significant(weights, k - prefix)
        else:
            noise = torch.rand(body.shape[:2], generator=generator, device=generator.device if generator else None)
            kept = _most_significant(noise.to(body.device), k - prefix)
        pooled = _take(body, kept)
        assignment = _squared_distances(body, pooled).argmin(2)
    error = (body - _take(pooled, assignment)).square().sum((1, 2))
    own = torch.arange(prefix, device=x.device).expand(x.shape[0], -1)
    return Reduced(
        torch.cat((tokens[:, :prefix], pooled.to(tokens.dtype)), 1), torch.cat((own, assignment + prefix), 1), error
    )


def _check_count(k: int, n: int, prefix: int) -> None:
    if tracing():  # counts are tensors then
        return
    positive_int(k, "k")
    if isinstance(prefix, bool) or not isinstance(prefix, int) or prefix < 0:
        raise UsageError(f"prefix must be a whole number of at least 0, not {prefix!r}")
    if k > n:
        raise UsageError(f"cannot reduce {n} tokens to {k}", "k must not exceed the number of tokens.")
    if k < n and k <= prefix:
        raise UsageError(f"k = {k} leaves no token beside the {prefix} of the prefix")


def _check_significance(significance: Tensor | None, x: Tensor, method: str) -> Tensor | None:
    """The significance in the precision of ``x``, without gradient."""
    if significance is None:
        if method == "topk" or method.startswith("weighted"):
            raise UsageError(f"method {method} needs the significance of the tokens")
        return None
    if significance.shape != x.shape[:2]:
        raise UsageError(f"significance has shape {tuple(significance.shape)}, the tokens need {tuple(x.shape[:2])}")
    w = significance.detach().to(x.dtype)
    if not tracing() and not bool(((w >= 0) & w.isfinite()).all()):
        raise UsageError("significance must be finite and not negative")
    return w


def _identity(tokens: Tensor, x: Tensor) -> Reduced:
    assignment = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
    return Reduced(tokens, assignment, x.new_zeros(x.shape[0]))


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows ``index`` ``(B, M)`` of ``x`` ``(B, N, D)``: ``(B, M, D)``."""
    return x.gather(1, index[..., None].expand(-1, -1, x.shape[2]))


def _most_significant(weights: Tensor, k: int) -> Tensor:
    """Indices ``(B, k)`` of the greatest weights, in the order of the tokens; of equals, the first ones."""
    return weights.argsort(dim=1, descending=True, stable=True)[:, :k].sort(1).values


def _spaced(x: Tensor, k: int) -> Tensor:
    index = torch.arange(k, device=x.device) * x.shape[1] // k
    return index.expand(x.shape[0], -1)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """``(B, N, D)`` and ``(B, M, D)`` -> ``(B, N, M)``. Tokens share a large mean; without it less is rounded off."""
    mean = a.mean(1, keepdim=True)
    a, b = a - mean, b - mean
    products = a @ b.transpose(1, 2)
    return (a.square().sum(2)[:, :, None] + b.square().sum(2)[:, None] - 2 * products).clamp(min=0)


def _cluster_means(x: Tensor, assignment: Tensor, weights: Tensor, otherwise: Tensor) -> Tensor:
    """Weighted mean of the tokens of each cluster, ``(B, K, D)``; where a cluster is empty, ``otherwise``."""
    mass = torch.zeros_like(otherwise[..., 0]).scatter_add(1, assignment, weights)[..., None]
    index = assignment[..., None].expand_as(x)
    sums = torch.zeros_like(otherwise).scatter_add(1, index, x * weights[..., None])
    return torch.where(mass > 0, sums / mass.clamp(min=TINY), otherwise)


def _kmeans(x: Tensor, start: Tensor, weights: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Lloyd's algorithm: the means of the clusters and the assignment."""
    with torch.no_grad():
        centres = _take(x, start)
        assignment = _squared_distances(x, centres).argmin(2)
        for _ in range(iterations - 1):
            centres = _cluster_means(x, assignment, weights, centres)
            moved = _squared_distances(x, centres).argmin(2)
            if not tracing() and torch.equal(moved, assignment):
                break
            assignment = moved
    # The last update, with gradients.
    return _cluster_means(x, assignment, weights, centres), assignment


def _kmedoids(x: Tensor, start: Tensor, weights: Tensor, iterations: int, output: str) -> tuple[Tensor, Tensor]:
    """The same with centres that are tokens: distances are computed once and looked up from then on."""
    with torch.no_grad():
        distances = _squared_distances(x, x)
        own = torch.arange(x.shape[1], device=x.device)
        distances = distances.masked_fill(own[:, None] == own, 0.0)
        medoids = start
        assignment = _nearest_medoid(distances, medoids)
        for _ in range(iterations - 1):
            medoids = _best_medoids(distances, assignment, weights, medoids)
            moved = _nearest_medoid(distances, medoids)
            if not tracing() and torch.equal(moved, assignment):
                break
            assignment = moved
        medoids = _best_medoids(distances, assignment, weights, medoids)
    centres = _take(x, medoids)
    if output == "centre":
        return centres, assignment
    return _cluster_means(x, assignment, weights, centres), assignment


def _nearest_medoid(distances: Tensor, medoids: Tensor) -> Tensor:
    """``(B, N)``: which of the medoids ``(B, K)`` is nearest to each token, by the matrix ``(B, N, N)``."""
    return distances.gather(2, medoids[:, None].expand(-1, distances.shape[1], -1)).argmin(2)


def _best_medoids(distances: Tensor, assignment: Tensor, weights: Tensor, medoids: Tensor) -> Tensor:
    """For each cluster its token with the least (weighted) sum of squared distances to the others.

    An empty cluster keeps its medoid.
    """
    together = assignment[:, :, None] == assignment[:, None]
    cost = (together * weights[:, :, None] * distances).sum(1)
    members = assignment[..., None] == torch.arange(medoids.shape[1], device=assignment.device)
    best = torch.where(members, cost[..., None], torch.inf).argmin(1)
    return torch.where(members.any(1), best, medoids)


def _average_grid(x: Tensor, k: int, prefix: int, grid: tuple[int, int] | None) -> tuple[Tensor, Tensor]:
    """Averages of 2 x 2 neighbours (of what is left of them at an odd border)."""
    n, side = x.shape[1], math.isqrt(x.shape[1])
    rows, columns = grid if grid is not None else (side, side)
    if rows * columns != n:
        if grid is None:
            raise UsageError(f"{n} tokens are no square grid", "Pass grid=(rows, columns).")
        raise UsageError(f"a grid of {rows} x {columns} does not hold {n} tokens")
    down, across = -(-rows // 2), -(-columns // 2)
    if k != down * across:
        raise UsageError(
            f"2 x 2 averages of a {rows} x {columns} grid give {down * across} tokens, not {k}",
            f"k must be {down * across + prefix}.",
        )
    maps = x.transpose(1, 2).unflatten(2, (rows, columns))
    pooled = F.avg_pool2d(maps, 2, ceil_mode=True, count_include_pad=False).flatten(2).transpose(1, 2)
    row, column = torch.arange(rows, device=x.device) // 2, torch.arange(columns, device=x.device) // 2
    assignment = (row[:, None] * across + column).flatten()
    return pooled, assignment.expand(x.shape[0], -1)


def clustering_cost(n: int, k: int, dim: int, method: str, iterations: int = 5) -> int:
    """Multiply-accumulates that :func:`reduce_tokens` spends on one image, at most (it stops early if it converges).

    K-means compares N tokens with K centres and averages, every time: ``T (N K D + N D)``. K-medoids compares all
    tokens once, then sums N^2 distances a round, and averages at the end: ``N^2 D + T N^2 + N D``. ``topk`` and
    ``random`` only look up the nearest kept token, ``N K D``, and ``grid`` averages, ``N D``.
    """
    one_of(method, METHODS, "method")
    if k == n:
        return 0
    if method.endswith("kmeans"):
        return iterations * (n * k * dim + n * dim)
    if method.endswith("kmedoids"):
        return n * n * dim + iterations * n * n + n * dim
    return n * dim if method == "grid" else n * k * dim

"""Diffusion on the neighbour graph of a gallery: similarity spreads along the manifold, without labels.

The graph is built once and serves any number of queries. Descriptors are rows of unit length.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import UsageError, whole_number
from retrieval.ranking.neighbours import Floats, top_k

Scores = npt.NDArray[np.float64]


def neighbour_graph(gallery: Floats, k: int = 50, gamma: float = 3.0, least: float = -math.inf) -> Any:
    """Symmetrically normalised affinities S = D^(-1/2) A D^(-1/2) of a gallery (N, D): a scipy CSR matrix (N, N).

    A_ij = max(s_ij, 0)^gamma where i and j are among each other's k nearest *other* vectors, else 0; D holds the row sums
    of A (Iscen et al., CVPR 2017, section 3). A vector without mutual neighbours has an empty row. Pairs below the
    similarity ``least`` are no neighbours. Defaults are the paper's for global descriptors. Cost: N^2 D for the neighbours, k N
    memory.
    """
    from scipy.sparse import csr_array

    k = whole_number("k", k)
    if not gamma > 0:
        raise UsageError(f"gamma must be positive, not {gamma}")
    n = len(gallery)
    ids, similarities = top_k(gallery, gallery, k + 1)
    own = np.arange(n)[:, None]
    # k others, or k + 1 where more copies come before the vector itself: none of these is mutual.
    others = (ids != own) & (similarities >= least)
    rows = np.repeat(np.arange(n), others.sum(axis=1))
    weights = np.maximum(similarities[others].astype(np.float64), 0) ** gamma
    directed = csr_array((weights, (rows, ids[others])), (n, n))
    affinity = directed.minimum(directed.T).tocoo()  # both directions have one similarity: 0 unless mutual
    degree = np.bincount(affinity.row, affinity.data, n)
    scale = np.zeros(n)
    scale[degree > 0] = degree[degree > 0] ** -0.5
    return csr_array(
        (affinity.data * (scale[affinity.row] * scale[affinity.col]), (affinity.row, affinity.col)), (n, n)
    )


def query_seeds(queries: Floats, gallery: Floats, k: int = 10, gamma: float = 3.0, least: float = -math.inf) -> Scores:
    """Where diffusion starts (Q, N): max(s, 0)^gamma at each query's k nearest gallery vectors, 0 elsewhere and where a
    similarity is below ``least``.

    Queries are not part of the graph (Iscen et al., section 4.2); k = 10 and gamma = 3 are the paper's.
    """
    ids, similarities = top_k(queries, gallery, k)
    seeds = np.zeros((len(queries), len(gallery)))
    values = np.where(similarities >= least, np.maximum(similarities.astype(np.float64), 0) ** gamma, 0.0)
    np.put_along_axis(seeds, ids, values, axis=1)
    return seeds


def diffuse(
    graph: Any, seeds: Scores, alpha: float = 0.99, tolerance: float = 1e-6, max_iterations: int = 1000
) -> Scores:
    """Ranking scores f (Q, N) by conjugate gradients: for each row y of ``seeds``, (I - alpha S) f = (1 - alpha) y.

    ``graph`` is S from :func:`neighbour_graph`. alpha = 0.99 is the paper's; nearer to 1 spreads further. Each query stops
    once its residual is ``tolerance`` times its right side. (The paper stops after 20 iterations; the exact solution does
    not depend on where one stops.) Cost: k N a query and iteration.
    """
    _check_alpha(alpha)
    b = (1 - alpha) * np.asarray(seeds, np.float64).T
    f, residual = np.zeros_like(b), b.copy()
    direction = residual.copy()
    energy = np.sum(residual**2, axis=0)
    goal = tolerance**2 * energy
    for _ in range(max_iterations):
        active = np.flatnonzero(energy > goal)
        if not len(active):
            break
        d = direction[:, active]
        applied = d - alpha * (graph @ d)
        step = energy[active] / np.sum(d * applied, axis=0)
        f[:, active] += step * d
        residual[:, active] -= step * applied
        updated = np.sum(residual[:, active] ** 2, axis=0)
        direction[:, active] = residual[:, active] + updated / energy[active] * d
        energy[active] = updated
    return np.ascontiguousarray(f.T)


@dataclass(frozen=True, eq=False)
class SpectralDiffusion:
    """Diffusion by the leading eigenvectors of the graph (Iscen et al., "Fast spectral ranking", CVPR 2018).

    f = U h(L) U^T y with h(l) = (1 - alpha) / (1 - alpha l), where U (N, rank) and L are the eigenvectors and eigenvalues
    of S that are greatest. With all N of them it equals :func:`diffuse`; fewer smooth the result and lose detail, most of
    all for images in small components of the graph. Cost: once a sparse eigendecomposition; then 2 rank N a query,
    whatever alpha, and N rank memory.

    ``values`` (rank,) and ``vectors`` (N, rank), float64; :meth:`of` a graph.
    """

    values: Scores
    vectors: Scores

    @classmethod
    def of(cls, graph: Any, rank: int) -> SpectralDiffusion:
        """The ``rank`` leading eigenvectors of a graph (N, N). Raises UsageError for a rank outside of 1 to N."""
        from scipy.sparse.linalg import eigsh

        n = graph.shape[0]
        if not 1 <= rank <= n:
            raise UsageError(f"the rank must lie between 1 and the {n} vectors of the graph, not {rank}")
        if rank < n:
            start = np.random.default_rng(0).random(n)  # fixed, so that the same graph gives the same result
            return cls(*eigsh(graph, rank, which="LA", v0=start))
        return cls(*np.linalg.eigh(graph.toarray()))

    def diffuse(self, seeds: Scores, alpha: float = 0.99) -> Scores:
        """Ranking scores (Q, N) for ``seeds`` (Q, N)."""
        _check_alpha(alpha)
        transfer = (1 - alpha) / (1 - alpha * np.minimum(self.values, 1.0))  # no eigenvalue exceeds 1 but by rounding
        return ((np.asarray(seeds, np.float64) @ self.vectors) * transfer) @ self.vectors.T


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha < 1:
        raise UsageError(f"alpha must be at least 0 and below 1, not {alpha}")

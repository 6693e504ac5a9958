"""Losses on batches of pairs: InfoNCE, which tells partners from all others, KoLeo, which spreads descriptors out, and the
distance to what a teacher finds alike."""

from __future__ import annotations

import torch
from torch import Tensor

from retrieval.errors import UsageError

_EPS = 1e-8


def info_nce(first: Tensor, second: Tensor, temperature: float = 0.05, queue: Tensor | None = None) -> Tensor:
    """Mean cross-entropy, a scalar, of finding each descriptor's partner among all others of the batch.

    ``first`` and ``second``: (N, D) of unit length, row i of one being the partner of row i of the other. Each of the 2N
    rows asks; its partner is right, the other 2N - 2 are wrong, and so are the rows of ``queue`` (Q, D), which get no
    gradient. The loss of row i is ``-log(exp(s_ip / t) / sum_{j != i} exp(s_ij / t))`` with cosines s and temperature t
    (van den Oord et al. 2018; in this symmetric form Chen et al., ICML 2020). Raises UsageError for shapes that do not fit
    and for a temperature that is not above 0.
    """
    _check(first, second)
    if not temperature > 0:
        raise UsageError(f"the temperature must be above 0, not {temperature}")
    count = len(first)
    rows = torch.cat([first, second]).float()
    scores = rows @ rows.T / temperature
    scores = scores.masked_fill(torch.eye(2 * count, dtype=torch.bool, device=rows.device), -torch.inf)
    if queue is not None and len(queue):
        scores = torch.cat([scores, rows @ queue.detach().float().T / temperature], dim=1)
    partner = torch.arange(2 * count, device=rows.device).roll(count)
    return torch.nn.functional.cross_entropy(scores, partner)


def koleo(rows: Tensor) -> Tensor:
    """``-mean_i log(min_{j != i} |x_i - x_j| + 1e-8)`` over rows (N, D) of unit length, a scalar: the estimator of entropy by
    Kozachenko and Leonenko, as Sablayrolles et al. (ICLR 2019) spread descriptors with it.

    The nearest row is chosen without a gradient; the distance to it has one. Rows that belong together must not both be
    in ``rows``. Raises UsageError for fewer than two.
    """
    if rows.ndim != 2 or len(rows) < 2:
        raise UsageError(f"KoLeo needs at least two descriptors (N, D), not {tuple(rows.shape)}")
    rows = rows.float()
    with torch.no_grad():
        scores = rows @ rows.T
        nearest = scores.fill_diagonal_(-torch.inf).argmax(dim=1)
    distance = torch.linalg.vector_norm(rows - rows[nearest] + _EPS, dim=1)
    return -(distance + _EPS).log().mean()


def similarity_gap(rows: Tensor, wanted: Tensor) -> Tensor:
    """Mean over i != j of ``(x_i . x_j - y_i . y_j)^2``, a scalar, for rows x (N, D) and a teacher's rows y (N, E) of the same
    pictures, both of unit length: cosines are learned, whatever the dimensions. Distances between pictures in place of
    outputs are what Park et al. (CVPR 2019) and Tung and Mori (ICCV 2019) distil. Raises UsageError for shapes that do not fit.
    """
    if rows.ndim != 2 or wanted.ndim != 2 or len(rows) != len(wanted) or len(rows) < 2:
        raise UsageError(f"a teacher describes the same pictures, not {tuple(rows.shape)} and {tuple(wanted.shape)}")
    rows, wanted = rows.float(), wanted.float()
    gap = (rows @ rows.T - wanted @ wanted.T) ** 2
    count = len(rows)
    return (gap.sum() - gap.diagonal().sum()) / (count * (count - 1))


def partners_found(first: Tensor, second: Tensor) -> float:
    """The share of the 2N rows whose nearest other row is their partner."""
    _check(first, second)
    rows = torch.cat([first, second]).detach()
    scores = (rows @ rows.T).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(rows), device=rows.device).roll(len(first))
    return float((scores.argmax(dim=1) == partner).float().mean())


def _check(first: Tensor, second: Tensor) -> None:
    if first.ndim != 2 or first.shape != second.shape or len(first) < 2:
        raise UsageError(
            f"pairs need two equal tables of at least two descriptors, not {tuple(first.shape)} and {tuple(second.shape)}"
        )

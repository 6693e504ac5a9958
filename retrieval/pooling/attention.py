"""Pooling of token sequences by learned weights: one query, several seeds, or a gate a token.

Masks, prefix and padding as in :mod:`.tokens`. The single query and the gate start at zero, where every token weighs
the same: before training they are the mean.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retrieval.errors import UsageError
from retrieval.pooling.base import MERGES, check_dim, full_precision, one_of, positive_int
from retrieval.pooling.tokens import TokenPooling


def masked_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last axis; positions where ``mask`` is False get exactly 0."""
    if mask is None:
        return scores.softmax(-1)
    # A finite fill keeps a row that is all masked (possible only while tracing) free of NaN.
    filled = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return torch.where(mask, filled.softmax(-1), 0.0)


class _Weighted(TokenPooling):
    """``y = sum_t w_t h_t`` with weights that sum to 1; subclasses give the scores whose softmax they are."""

    def __init__(self, dim: int, prefix: int) -> None:
        super().__init__(prefix)
        self.dim = positive_int(dim, "dim")

    def scores(self, x: Tensor) -> Tensor:
        """``(B, T, D)`` -> ``(B, T)``."""
        raise NotImplementedError

    def _weigh(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        x, mask = self.content(x, mask)
        check_dim(x.shape[2], self.dim, type(self).__name__)
        return x, masked_softmax(self.scores(x), mask)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, T, D)`` -> ``(B, D)``."""
        x, weights = self._weigh(x, mask)
        return (weights[..., None] * x).sum(1)

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The weight of every token, ``(B, T)``; rows sum to 1, prefix and padding have 0."""
        return F.pad(self._weigh(x, mask)[1], (self.prefix, 0))

    def extra_repr(self) -> str:
        return f"dim={self.dim}, prefix={self.prefix}"


class AttentionPool(_Weighted):
    """Attention with one learned query.

    ``y = sum_t softmax_t(q . h_t / sqrt(D)) h_t``

    Args:
        dim: token dimension D.
        prefix: see :class:`TokenPooling`.

    Gradient: weighted by the attention, and more through the scores; the query has its own.
    Use it where some tokens matter more than others and there is data to learn which.
    Source: Yang et al., "Hierarchical Attention Networks for Document Classification", 2016; scaled as in Vaswani et
    al., "Attention Is All You Need", 2017.
    """

    def __init__(self, dim: int, *, prefix: int = 0) -> None:
        super().__init__(dim, prefix)
        self.query = nn.Parameter(torch.zeros(dim))

    def scores(self, x: Tensor) -> Tensor:
        """``q . h_t / sqrt(D)``."""
        return (x * (self.query.to(x.dtype) / math.sqrt(self.dim))).sum(-1)


class GatedPool(_Weighted):
    """A gate for every token, which judges it by its own content alone.

    ``y = sum_t g_t h_t / sum_t g_t, g_t = sigmoid(w . h_t + b)``

    Args:
        dim: token dimension D.
        prefix: see :class:`TokenPooling`.

    Computed as a softmax of log g, which is the same and cannot divide by zero when every gate is shut.
    Gradient: weighted by the gates, and more through them; w and b have their own.
    Use it to suppress noise tokens; unlike attention, gates do not compete until they are normalised.
    Source: the gate of Ilse, Tomczak, Welling, "Attention-based Deep Multiple Instance Learning", 2018, made scalar.
    """

    def __init__(self, dim: int, *, prefix: int = 0) -> None:
        super().__init__(dim, prefix)
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(1))

    def scores(self, x: Tensor) -> Tensor:
        """``log sigmoid(w . h_t + b)``."""
        return F.logsigmoid((x * self.weight.to(x.dtype)).sum(-1) + self.bias.to(x.dtype))


class PMA(TokenPooling):
    """Pooling by multi-head attention: K learned seeds ask, K answers come back.

    ``PMA(Z) = LN(H + rFF(H)), H = LN(S + Multihead(S, rFF(Z), rFF(Z)))`` with seeds S ``(K, D)``,
    ``rFF(v) = ReLU(W v + b)`` (two different ones) and heads ``softmax(Q K^T / sqrt(D)) V`` on D / heads dimensions
    each, joined by a linear layer.

    Args:
        dim: token dimension D.
        seeds: number of queries K.
        heads: number of heads; divides D.
        merge: ``"concat"`` gives ``(B, K D)``, seed after seed; ``"mean"`` averages the seeds, ``(B, D)``.
        feed_forward: whether tokens pass an rFF first, as in the paper; the authors' code goes without.
        norm: whether the two layer normalisations are there.
        prefix: see :class:`TokenPooling`.

    Gradient: weighted by the attention of each seed and head; many parameters (about 6 D^2) learn along.
    Use it where one summary is too few and there is enough data; untrained it is a random projection.
    Source: Lee et al., "Set Transformer", 2019, section 3.2 (PMA) and equations 6 to 7 (MAB).
    """

    def __init__(
        self,
        dim: int,
        seeds: int = 1,
        heads: int = 4,
        *,
        merge: str = "concat",
        feed_forward: bool = True,
        norm: bool = True,
        prefix: int = 0,
    ) -> None:
        super().__init__(prefix)
        self.dim = positive_int(dim, "dim")
        self.heads = positive_int(heads, "heads")
        if dim % heads:
            raise UsageError(f"heads must divide the token dimension: {heads} does not divide {dim}")
        self.merge = one_of(merge, MERGES, "merge")
        self.seeds = nn.Parameter(torch.empty(positive_int(seeds, "seeds"), dim))
        nn.init.xavier_uniform_(self.seeds)
        self.feed_in = nn.Linear(dim, dim) if feed_forward else None
        self.to_query, self.to_key, self.to_value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.join = nn.Linear(dim, dim)
        self.feed_out = nn.Linear(dim, dim)
        self.norm_attention: nn.Module = nn.LayerNorm(dim) if norm else nn.Identity()
        self.norm_out: nn.Module = nn.LayerNorm(dim) if norm else nn.Identity()

    def out_dim(self, in_dim: int) -> int:
        """``K D`` if concatenated, else ``D``."""
        return in_dim * (self.seeds.shape[0] if self.merge == "concat" else 1)

    def _attend(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Seeds in working precision, values ``(B, h, T, D/h)`` and weights ``(B, h, K, T)``."""
        x, mask = self.content(x, mask)
        check_dim(x.shape[2], self.dim, "PMA")
        seeds = self.seeds.to(x.dtype)
        z = x if self.feed_in is None else F.relu(_linear(self.feed_in, x))
        q, k, v = (
            _linear(layer, t).unflatten(-1, (self.heads, -1)).transpose(-3, -2)
            for layer, t in ((self.to_query, seeds), (self.to_key, z), (self.to_value, z))
        )
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.dim)
        return seeds, v, masked_softmax(scores, None if mask is None else mask[:, None, None])

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, T, D)`` -> ``(B, K D)`` or ``(B, D)``."""
        with full_precision(x):
            seeds, values, weights = self._attend(x, mask)
            heads = (weights @ values).transpose(1, 2).flatten(2)
            h = _norm(self.norm_attention, seeds + _linear(self.join, heads))
            out = _norm(self.norm_out, h + F.relu(_linear(self.feed_out, h)))
        return out.flatten(1) if self.merge == "concat" else out.mean(1)

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """The attention of every seed, averaged over the heads: ``(B, K, T)``; rows sum to 1."""
        with full_precision(x):
            return F.pad(self._attend(x, mask)[2].mean(1), (self.prefix, 0))

    def extra_repr(self) -> str:
        seeds = self.seeds.shape[0]
        return f"dim={self.dim}, seeds={seeds}, heads={self.heads}, merge={self.merge!r}, prefix={self.prefix}"


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer in the precision of ``x``, also where its weights are in half precision."""
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))


def _norm(layer: nn.Module, x: Tensor) -> Tensor:
    if not isinstance(layer, nn.LayerNorm):
        return x
    return F.layer_norm(x, layer.normalized_shape, layer.weight.to(x.dtype), layer.bias.to(x.dtype), layer.eps)

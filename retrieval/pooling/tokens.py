"""Pooling of token sequences without weights to learn: class token, mean, maximum, last token, power mean.

All take ``(B, T, D)`` and an optional mask ``(B, T)``, bool, True for real tokens. What stands in padded positions
never matters, not even NaN. ``prefix`` is the number of tokens at the front that are not content (the class token and
registers of a vision transformer): all but the class token's own readout leave them out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from retrieval.errors import UsageError
from retrieval.pooling.base import Pooling, check_tokens, one_of, tracing
from retrieval.pooling.power import EPS, PowerModule, power_mean, scaled_powers

NEGATIVES = ("clamp", "shift", "signed")


def check_mask(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """The mask of ``x``, or None.

    Raises:
        UsageError: not ``(B, T)``, or not bool.
    """
    if mask is None:
        return None
    if mask.shape != x.shape[:2]:
        raise UsageError(f"the mask has shape {tuple(mask.shape)}, but the tokens {tuple(x.shape)} need (B, T)")
    if mask.dtype != torch.bool:
        raise UsageError(f"the mask must be bool, True for real tokens, not {mask.dtype}", "Try mask.bool().")
    return mask


class TokenPooling(Pooling):
    """Base of the token poolings: checks, prefix and mask.

    Args:
        prefix: how many positions at the front are not content. They are counted from the left, so a sequence with a
            prefix is padded on the right.
    """

    kind = "tokens"

    def __init__(self, prefix: int = 0) -> None:
        super().__init__()
        if isinstance(prefix, bool) or not isinstance(prefix, int) or prefix < 0:
            raise UsageError(f"prefix must be a whole number of at least 0, not {prefix!r}")
        self.prefix = prefix

    def content(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The tokens after the prefix, in working precision and with zeros for padding, and their mask.

        Raises:
            UsageError: wrong shapes, or a row without a single content token.
        """
        x = check_tokens(x)
        mask = check_mask(mask, x)
        if x.shape[1] <= self.prefix:
            raise UsageError(f"{x.shape[1]} tokens, of which {self.prefix} are prefix: nothing is left to pool")
        x = x[:, self.prefix :]
        if mask is None:
            return x, None
        mask = mask[:, self.prefix :]
        if not tracing():
            empty = ~mask.any(1)
            if bool(empty.any()):
                raise UsageError(f"row {int(empty.nonzero()[0])} of the batch has no real token: all is masked")
        return torch.where(mask[..., None], x, 0.0), mask

    def extra_repr(self) -> str:
        return f"prefix={self.prefix}"


class ClsPool(TokenPooling):
    """The class token: position 0.

    ``y = h_0``

    Args:
        prefix: taken so that all token poolings are made alike; position 0 it is in any case.

    Gradient: sparse, all of it at position 0 (and through attention to the others).
    Use it with models trained to summarise there (ViT, DeiT, DINO, CLIP); elsewhere position 0 is one token of many.
    Source: Devlin et al., "BERT", 2019; Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, T, D)`` -> ``(B, D)``.

        Raises:
            UsageError: the mask says that position 0 of a row is padding.
        """
        x = check_tokens(x)
        mask = check_mask(mask, x)
        if mask is not None and not tracing() and not bool(mask[:, 0].all()):
            raise UsageError(
                "the class token (position 0) of a row is masked", "Pad on the right, or pool by mean or last."
            )
        return x[:, 0]


class MeanPool(TokenPooling):
    """The mean of the content tokens.

    ``y = sum_t m_t h_t / sum_t m_t``

    Gradient: equal, one over the number of real tokens; none to padding.
    Use it for general embeddings, and for models without a trained class token.
    Source: Reimers and Gurevych, "Sentence-BERT", 2019.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, T, D)`` -> ``(B, D)``."""
        x, mask = self.content(x, mask)
        if mask is None:
            return x.mean(1)
        return x.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


class MaxPool(TokenPooling):
    """The maximum of each dimension over the content tokens.

    ``y_d = max over real t of h_td``

    Gradient: sparse, the winner of each dimension; ties share equally.
    Use it where one token is enough to tell; sensitive to outliers.
    Source: Reimers and Gurevych, "Sentence-BERT", 2019.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, T, D)`` -> ``(B, D)``."""
        x, mask = self.content(x, mask)
        return _extreme(x, mask, "max")


def _extreme(x: Tensor, mask: Tensor | None, which: str) -> Tensor:
    """Maximum or minimum over the real tokens: ``(B, T, D)`` -> ``(B, D)``."""
    if which == "max":
        return (x if mask is None else x.masked_fill(~mask[..., None], -torch.inf)).amax(1)
    return (x if mask is None else x.masked_fill(~mask[..., None], torch.inf)).amin(1)


class LastPool(TokenPooling):
    """The last real token, with padding on either side.

    ``y = h_L, L = the greatest t with m_t = 1``

    Gradient: sparse, all of it at that token (and through attention to the others).
    Use it with causal models, where only the last position has seen all the others.
    Source: Neelakantan et al., "Text and Code Embeddings by Contrastive Pre-Training", 2022.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, T, D)`` -> ``(B, D)``."""
        x, mask = self.content(x, mask)
        if mask is None:
            return x[:, -1]
        positions = torch.arange(x.shape[1], device=x.device)
        last = torch.where(mask, positions, 0).amax(1)
        return x.gather(1, last[:, None, None].expand(-1, 1, x.shape[2])).squeeze(1)


class TokenGeM(PowerModule, TokenPooling):
    """The generalised mean of the content tokens, with a rule for negative values.

    Args:
        p, learn_p, eps: as in :class:`GeM`; p = 3 here too.
        negative: what to do with values below zero, which transformers have and powers do not take.

            ``"clamp"``: ``(mean of max(h, eps)^p)^(1/p)``; they count as eps, and half the signal is lost.

            ``"shift"``: ``a + (mean of max(h - a, eps)^p)^(1/p)``, with a the least value of the same dimension
            over the real tokens of the same row. p = 1 is the mean (up to eps / T), p = inf the maximum.

            ``"signed"``: ``r(mean of s(h))``, with ``s(v) = sign(v) max(|v|, eps)^p`` and
            ``r(v) = sign(v) |v|^(1/p)``. p = 1 is the mean, p = inf the value of greatest magnitude (the positive
            one of a tie). Values of opposite sign cancel; where they do so exactly, both the value and its
            gradient are 0.
        prefix: see :class:`TokenPooling`.

    Gradient: weighted, more to large values (in magnitude, for "signed"); p has its own.
    Use it for retrieval with transformers; the choice of ``negative`` changes what p means, so it is never implied.
    Source: Radenovic et al., 2018; clamp: Caron et al. (DINO), 2021, copy detection with p = 4.
    """

    def __init__(
        self,
        p: float | str = 3.0,
        *,
        learn_p: bool = True,
        eps: float = EPS,
        negative: str = "clamp",
        prefix: int = 0,
    ) -> None:
        TokenPooling.__init__(self, prefix)
        self.init_exponent(p, learn_p, eps)
        self.negative = one_of(negative, NEGATIVES, "negative")

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, T, D)`` -> ``(B, D)``."""
        x, mask = self.content(x, mask)
        if self.negative == "signed":
            return self._signed(x, mask)
        low = _extreme(x, mask, "min") if self.negative == "shift" else None
        above = x if low is None else x - low[:, None]
        if self.is_max:
            pooled = _extreme(above, mask, "max").clamp(min=self.eps)
        else:
            wide = None if mask is None else mask[..., None]
            pooled = power_mean(above, self.exponent(x), 1, self.eps, wide)
        return pooled if low is None else pooled + low

    def _signed(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.is_max:
            high, low = _extreme(x, mask, "max"), _extreme(x, mask, "min")
            return torch.where(high >= -low, high, low)
        p = self.exponent(x)
        size = x.abs().clamp(min=self.eps)
        powers, scale = scaled_powers(size, p, [1])
        powers = x.sign() * powers
        # Padding is zero here, and so is its signed power.
        count = x.shape[1] if mask is None else mask.sum(1, keepdim=True).clamp(min=1)
        mean = powers.sum(1) / count
        # The root has an infinite slope at 0: a mean of 0 gives 0 and no gradient.
        zero = mean.abs() < torch.finfo(mean.dtype).tiny
        root = torch.where(zero, 1.0, mean.abs()).pow(1.0 / p)
        return scale.squeeze(1) * torch.where(zero, 0.0, mean.sign() * root)

    def extra_repr(self) -> str:
        return f"{PowerModule.extra_repr(self)}, negative={self.negative!r}, prefix={self.prefix}"

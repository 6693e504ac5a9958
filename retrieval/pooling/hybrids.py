"""The class token beside a pooling of the content tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from retrieval.errors import UsageError
from retrieval.pooling.base import MERGES, one_of
from retrieval.pooling.power import EPS
from retrieval.pooling.tokens import ClsPool, MeanPool, TokenGeM, TokenPooling


class ClsHybrid(TokenPooling):
    """The class token beside a pooling of the content tokens.

    ``y = [h_0, pool(h_prefix ...)]``, or their average.

    Args:
        other: the pooling of the rest; its prefix must cover the class token.
        merge: ``"concat"`` gives ``(B, 2 D)``, ``"mean"`` the average ``(B, D)``.
    """

    def __init__(self, other: TokenPooling, merge: str = "concat") -> None:
        super().__init__(other.prefix)
        if other.prefix < 1:
            raise UsageError("a hybrid with the class token needs one", "Set prefix to at least 1.")
        self.cls = ClsPool(other.prefix)
        self.other = other
        self.merge = one_of(merge, MERGES, "merge")

    def out_dim(self, in_dim: int) -> int:
        """``2 D`` if concatenated, else ``D``."""
        return 2 * in_dim if self.merge == "concat" else in_dim

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``(B, T, D)`` -> ``(B, 2 D)`` or ``(B, D)``."""
        first, rest = self.cls(x, mask), self.other(x, mask)
        return torch.cat((first, rest), dim=1) if self.merge == "concat" else (first + rest) / 2

    def extra_repr(self) -> str:
        return f"merge={self.merge!r}, prefix={self.prefix}"


class ClsMean(ClsHybrid):
    """The class token and the mean of the content tokens, concatenated or averaged.

    ``y = [h_0, mean of h_t for t >= prefix]``

    Args:
        merge: ``"concat"`` or ``"mean"``, see :class:`ClsHybrid`.
        prefix: at least 1; the class token and any registers.

    Gradient: half by the class token, half spread equally.
    Use it with models whose class token is trained but whose patches carry more (DINOv2's linear evaluation).
    Source: Oquab et al., "DINOv2", 2023; Wang et al., "BEiT-3", 2022.
    """

    def __init__(self, merge: str = "concat", *, prefix: int = 1) -> None:
        super().__init__(MeanPool(prefix), merge)


class ClsGeM(ClsHybrid):
    """The class token and the generalised mean of the content tokens, concatenated or averaged.

    ``y = [h_0, GeM of h_t for t >= prefix]``

    Args:
        p, learn_p, eps, negative: as in :class:`TokenGeM`; p = 4 as in the source.
        merge: ``"concat"`` or ``"mean"``, see :class:`ClsHybrid`.
        prefix: at least 1; the class token and any registers.

    Gradient: that of the two parts.
    Use it for copy detection and instance retrieval with self-supervised transformers, whitening after it.
    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (DINO), 2021, copy detection.
    """

    def __init__(
        self,
        p: float | str = 4.0,
        *,
        learn_p: bool = True,
        eps: float = EPS,
        negative: str = "clamp",
        merge: str = "concat",
        prefix: int = 1,
    ) -> None:
        super().__init__(TokenGeM(p, learn_p=learn_p, eps=eps, negative=negative, prefix=prefix), merge)

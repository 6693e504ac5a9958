"""Global pooling of feature maps: one number a channel, whatever the size of the map.

The three belong to one family. GeM with p = 1 is the average (of non-negative features), p to infinity the
maximum, and a learned p lets the network choose where between them it wants to be.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from retrieval.pooling.base import Pooling, check_dim, check_map, positive_int
from retrieval.pooling.power import EPS, PowerModule, max_shares, power_mean, power_shares

GRID = (2, 3)


class GlobalPooling(Pooling):
    """``(B, C, H, W)`` -> ``(B, C)``, with the contribution of each cell to the result for heat-maps."""

    kind = "map"

    @abstractmethod
    def contribution(self, x: Tensor) -> Tensor:
        """How much of each pooled value comes from each cell: ``(B, C, H, W)``, summing over the cells to
        ``self(x)`` exactly.
        """

    def contribution_map(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Contributions summed over the channels: ``(B, H, W)``.

        Args:
            x: feature map ``(B, C, H, W)``.
            weights: ``(C,)`` or ``(B, C)``, a weight for each channel. With the descriptor of another image as
                the weights the map sums to the (unnormalised) similarity: it shows which cells made the match.
        """
        parts = self.contribution(x)
        if weights is not None:
            parts = parts * weights.to(parts)[..., None, None]
        return parts.sum(1)


class GlobalAvg(GlobalPooling):
    """Global average pooling (GAP; SPoC in retrieval): the mean of each channel over all cells.

    ``y_c = 1/(H W) * sum_ij x_cij``

    Gradient: equal, 1/(H W) for every cell.
    Use it for classification, or where the overall level counts; background dilutes small objects.
    Source: Lin, Chen, Yan, "Network In Network", 2014; Babenko and Lempitsky, "Aggregating Deep Convolutional
    Features for Image Retrieval" (SPoC, without its centre prior), 2015.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C)``."""
        return check_map(x).mean(GRID)

    def contribution(self, x: Tensor) -> Tensor:
        """``x / (H W)``."""
        x = check_map(x)
        return x / (x.shape[2] * x.shape[3])


class GlobalMax(GlobalPooling):
    """Global max pooling (MAC): the strongest activation of each channel.

    ``y_c = max_ij x_cij``

    Gradient: sparse, 1 for the winning cell and 0 elsewhere; cells that tie for the maximum share it equally.
    Use it where presence counts and extent does not; a single outlier decides.
    Source: Tolias, Sicre, Jegou, "Particular object retrieval with integral max-pooling of CNN activations",
    2016 (MAC).
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C)``."""
        return check_map(x).amax(GRID)

    def contribution(self, x: Tensor) -> Tensor:
        """The maximum at the winning cell and zero elsewhere; cells that tie share it, as in the gradient."""
        x = check_map(x)
        return max_shares(x, GRID) * x.amax(GRID, keepdim=True)


class GeM(PowerModule, GlobalPooling):
    """Generalised-mean pooling: between the average (p = 1) and the maximum (p = inf).

    ``y_c = (1/(H W) * sum_ij max(x_cij, eps)^p)^(1/p)``

    Args:
        p: the exponent, at least 0.01; ``inf`` (also as a string) is a true maximum of ``max(x, eps)``.
        learn_p: whether p is learned. p = inf is always fixed.
        eps: smallest activation that counts; below it a cell is raised to eps and gets no gradient.

    Features must be non-negative to mean anything (keep the last ReLU): negative ones are clamped away.
    Computed in float32 (float64 for float64) whatever comes in, and returned so, scaled by each channel's
    maximum, so that neither large p nor half precision overflows or vanishes. If training pushes p below 0.01
    it acts as 0.01.
    The exponent is the attribute and state-dict entry ``p``, of shape ``(1,)``.

    Gradient: weighted, ``(x/y)^(p-1) / (H W)``: strong cells get more, none gets nothing; p has its own.
    Use it for image retrieval; p = 3 is the usual start.
    Source: Radenovic, Tolias, Chum, "Fine-tuning CNN Image Retrieval with No Human Annotation", 2018,
    equation 3.
    """

    def __init__(self, p: float | str = 3.0, *, learn_p: bool = True, eps: float = EPS) -> None:
        super().__init__()
        self.init_exponent(p, learn_p, eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C)``, at least eps."""
        x = check_map(x)
        if self.is_max:
            return x.clamp(min=self.eps).amax(GRID)
        return power_mean(x, self.exponent(x)[:, None, None], GRID, self.eps)

    def contribution(self, x: Tensor) -> Tensor:
        """The pooled value times each cell's share ``x^p / sum x^p``; for p = inf as in :class:`GlobalMax`."""
        x = check_map(x)
        value = self.forward(x)[..., None, None]
        if self.is_max:
            return max_shares(x.clamp(min=self.eps), GRID) * value
        return power_shares(x, self.exponent(x)[:, None, None], GRID, self.eps) * value


class GeMChannel(GeM):
    """GeM with an exponent of its own for every channel.

    ``y_c = (1/(H W) * sum_ij max(x_cij, eps)^p_c)^(1/p_c)``

    Args:
        dim: number of channels C.
        p: the starting value of every exponent.
        learn_p, eps: as in :class:`GeM`.

    Gradient: weighted, as in :class:`GeM`.
    Use it to see whether channels want different exponents; the source reports that one for all does as well.
    Source: Radenovic, Tolias, Chum, 2018 (p_k in equation 3).
    """

    def __init__(self, dim: int, p: float | str = 3.0, *, learn_p: bool = True, eps: float = EPS) -> None:
        GlobalPooling.__init__(self)
        self.dim = positive_int(dim, "dim")
        self.init_exponent(p, learn_p, eps, size=dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C)``, at least eps."""
        x = check_map(x)
        check_dim(x.shape[1], self.dim, "gem-channel")
        return super().forward(x)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, {super().extra_repr()}"

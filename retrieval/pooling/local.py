"""Local pooling: smaller maps out of large ones, by a maximum, an average or a learned convolution.

The three shrink a map alike, ``(B, C, H, W)`` -> ``(B, C, (H - k) / s + 1, (W - k) / s + 1)`` rounded down, with
window k and stride s, and are used inside networks. :class:`LocalThenGlobal` makes a descriptor of one by pooling its
map globally.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retrieval.errors import UsageError
from retrieval.pooling.base import Pooling, check_dim, check_map, full_precision, positive_int
from retrieval.pooling.power import EPS
from retrieval.pooling.regions import global_pooling


class LocalPooling(Pooling):
    """Base of the three: window, stride and the check that the window fits. Unlike the others they return a map.

    Args:
        window: side k of the square window.
        stride: step s from window to window; the window itself if None, so that windows tile the map. A smaller one
            makes them overlap (AlexNet: 3 and 2).
    """

    kind = "map"

    def __init__(self, window: int = 2, stride: int | None = None) -> None:
        super().__init__()
        self.window = positive_int(window, "window")
        self.stride = self.window if stride is None else positive_int(stride, "stride")

    def checked(self, x: Tensor) -> Tensor:
        """The map in working precision.

        Raises:
            UsageError: not a map, or smaller than one window.
        """
        x = check_map(x)
        height, width = x.shape[2:]
        if min(height, width) < self.window:
            raise UsageError(f"a {height} x {width} map is smaller than the {self.window} x {self.window} window")
        return x

    def extra_repr(self) -> str:
        return f"window={self.window}, stride={self.stride}"


class LocalMaxPool(LocalPooling):
    """The strongest activation of each window.

    ``y_ij = max over the window at (s i, s j) of x``

    Gradient: sparse, winner takes all; the first winner where several tie.
    Use it where presence counts; the output does not change when the winner moves within its window.
    Source: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural Networks", 2012 (overlapping).
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C, H', W')``."""
        return F.max_pool2d(self.checked(x), self.window, self.stride)


class LocalAvgPool(LocalPooling):
    """The mean of each window.

    ``y_ij = 1/k^2 * sum over the window at (s i, s j) of x``

    Gradient: equal, 1/k^2 for every cell of the window.
    Use it where the level counts; it smooths, so noise and peaks both shrink.
    Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C, H', W')``."""
        return F.avg_pool2d(self.checked(x), self.window, self.stride)


class StridedConvPool(LocalPooling):
    """A convolution with a stride: the network learns how to shrink the map.

    ``y_o,ij = sum over channels c and the window of w_oc * x_c``, without bias: k^2 C^2 parameters.

    Args:
        dim: number of channels C.
        window, stride: as in :class:`LocalPooling`.

    It starts as the average (each channel its own mean, 1/k^2), so that putting it into a trained network changes
    nothing at first that :class:`LocalAvgPool` would not.
    Gradient: weighted by the kernel; the kernel has its own.
    Use it where there is data to learn from; the others are free of parameters.
    Source: Springenberg et al., "Striving for Simplicity: The All Convolutional Net", 2015.
    """

    def __init__(self, dim: int, window: int = 2, stride: int | None = None) -> None:
        super().__init__(window, stride)
        self.dim = positive_int(dim, "dim")
        identity = torch.eye(self.dim)[:, :, None, None] / self.window**2
        self.weight = nn.Parameter(identity.repeat(1, 1, self.window, self.window))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C, H', W')``."""
        x = self.checked(x)
        check_dim(x.shape[1], self.dim, "the strided convolution")
        with full_precision(x):
            return F.conv2d(x, self.weight.to(x.dtype), stride=self.stride)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, {super().extra_repr()}"


class LocalThenGlobal(Pooling):
    """A local pooling followed by a global one: a descriptor ``(B, C)``.

    Args:
        local: a module from map to map.
        then: ``gem``, ``avg`` or ``max``.
        p, learn_p, eps: the exponent of ``gem``, see :class:`GeM`.

    Average then average is the global average, and maximum then maximum the global maximum, where the windows tile
    the map; the mixtures are what is worth having.
    Gradient: the product of the two.
    Use it to calm single outliers (average before the maximum or GeM) or to let few peaks speak for a region.
    Source: a composition of the two families; see the parts.
    """

    kind = "map"

    def __init__(
        self,
        local: nn.Module,
        then: str = "gem",
        p: float | str = 3.0,
        *,
        learn_p: bool = True,
        eps: float = EPS,
    ) -> None:
        super().__init__()
        self.local = local
        self.head = global_pooling(then, p, learn_p, eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C)``."""
        pooled: Tensor = self.head(self.local(x))
        return pooled


def local_max(
    window: int = 2,
    stride: int | None = None,
    then: str = "gem",
    p: float | str = 3.0,
    learn_p: bool = True,
    eps: float = EPS,
) -> LocalThenGlobal:
    """:class:`LocalMaxPool` followed by a global pooling."""
    return LocalThenGlobal(LocalMaxPool(window, stride), then, p, learn_p=learn_p, eps=eps)


def local_avg(
    window: int = 2,
    stride: int | None = None,
    then: str = "gem",
    p: float | str = 3.0,
    learn_p: bool = True,
    eps: float = EPS,
) -> LocalThenGlobal:
    """:class:`LocalAvgPool` followed by a global pooling."""
    return LocalThenGlobal(LocalAvgPool(window, stride), then, p, learn_p=learn_p, eps=eps)


def strided_conv(
    dim: int,
    window: int = 2,
    stride: int | None = None,
    then: str = "gem",
    p: float | str = 3.0,
    learn_p: bool = True,
    eps: float = EPS,
) -> LocalThenGlobal:
    """:class:`StridedConvPool` followed by a global pooling."""
    return LocalThenGlobal(StridedConvPool(dim, window, stride), then, p, learn_p=learn_p, eps=eps)

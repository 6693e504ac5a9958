"""Poolings that keep some of the layout: grids, the spatial pyramid and regional poolings (R-MAC, regional GeM)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from retrieval.errors import UsageError
from retrieval.pooling.base import Pooling, check_map, one_of, positive_int
from retrieval.pooling.power import EPS, PowerModule, max_shares, power_mean, power_shares
from retrieval.pooling.spatial import GRID, GeM, GlobalAvg, GlobalMax, GlobalPooling

MODES = ("avg", "max", "gem")


def global_pooling(mode: str, p: float | str = 3.0, learn_p: bool = True, eps: float = EPS) -> GlobalPooling:
    """``avg``, ``max`` or ``gem`` as a module; p, learn_p and eps belong to ``gem`` alone.

    Raises:
        UsageError: another mode.
    """
    one_of(mode, MODES, "the mode")
    if mode == "gem":
        return GeM(p, learn_p=learn_p, eps=eps)
    return GlobalAvg() if mode == "avg" else GlobalMax()


def adaptive_windows(length: int, cells: int) -> list[tuple[int, int]]:
    """The ``cells`` windows that cover an axis of ``length``: ``floor(i L / n)`` to ``ceil((i + 1) L / n)``.

    These are the windows of torch's adaptive pooling. They overlap where n does not divide L: 7 into 2 gives 0..4
    and 3..7 (the end is exclusive).
    """
    return [(i * length // cells, ((i + 1) * length + cells - 1) // cells) for i in range(cells)]


def pool_windows(pool: Callable[[Tensor], Tensor], x: Tensor, rows: int, columns: int) -> Tensor:
    """Pool each window of a grid; ``(B, C, H, W)`` -> ``(B, C * rows * columns)``, channel by channel, row by row."""
    down, across = adaptive_windows(x.shape[2], rows), adaptive_windows(x.shape[3], columns)
    cells = [pool(x[:, :, top:bottom, left:right]) for top, bottom in down for left, right in across]
    return torch.stack(cells, dim=-1).flatten(1)


def _grid_size(size: int | Sequence[int]) -> tuple[int, int]:
    if isinstance(size, int):
        return positive_int(size, "size"), size
    if isinstance(size, str) or len(size) != 2:
        raise UsageError(f"size must be a whole number or (rows, columns), not {size!r}")
    return positive_int(size[0], "rows"), positive_int(size[1], "columns")


class _Grid(Pooling):
    kind = "map"

    def __init__(self, size: int | Sequence[int] = 2) -> None:
        super().__init__()
        self.size = _grid_size(size)

    def out_dim(self, in_dim: int) -> int:
        """``C * rows * columns``."""
        return in_dim * self.size[0] * self.size[1]

    def extra_repr(self) -> str:
        return f"size={self.size}"


class GridAvg(_Grid):
    """Average over each cell of a fixed grid, whatever the size of the map (adaptive average pooling), flattened.

    ``y[c, i, j] = mean of x[c] over window (i, j)``, see :func:`adaptive_windows`; flattened channel by channel.

    Args:
        size: rows and columns of the grid, or one number for both.

    Gradient: equal within a window.
    Use it where the place of things matters and pictures are framed alike; it costs invariance to shifts.
    Source: He et al., "Spatial Pyramid Pooling in Deep Convolutional Networks", 2014 (one level of it).
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C * rows * columns)``."""
        return pool_windows(lambda view: view.mean(GRID), check_map(x), *self.size)


class GridMax(_Grid):
    """Maximum over each cell of a fixed grid (adaptive max pooling), flattened channel by channel.

    ``y[c, i, j] = max of x[c] over window (i, j)``, see :func:`adaptive_windows`.

    Args:
        size: rows and columns of the grid, or one number for both.

    Gradient: sparse, the winner of each window, ties sharing equally; a cell that wins several windows gets the sum.
    Use it as :class:`GridAvg`, where presence counts.
    Source: He et al., 2014 (one level of it).
    """

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C * rows * columns)``."""
        return pool_windows(lambda view: view.amax(GRID), check_map(x), *self.size)


class SpatialPyramid(Pooling):
    """Spatial pyramid pooling: grids of several sizes, one after the other.

    For each level n the map is cut into n x n windows (:func:`adaptive_windows`) and each is pooled; a level gives
    ``C * n * n`` values, flattened channel by channel, and the levels follow each other as given.

    Args:
        levels: the grid sizes.
        mode: how a window is pooled, ``max`` (the source), ``avg`` or ``gem``.
        p, learn_p, eps: the exponent of ``gem``, shared by all windows, see :class:`GeM`.

    Gradient: that of the mode, within each window; a cell belongs to at least one window of every level.
    Use it where coarse layout helps; the descriptor is 21 times as long as the channels with the usual levels.
    Source: He, Zhang, Ren, Sun, "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition",
    2014; Lazebnik, Schmid, Ponce, "Beyond Bags of Features", 2006.
    """

    kind = "map"

    def __init__(
        self,
        levels: Sequence[int] = (1, 2, 4),
        mode: str = "max",
        p: float | str = 3.0,
        *,
        learn_p: bool = True,
        eps: float = EPS,
    ) -> None:
        super().__init__()
        if isinstance(levels, (str, int)) or len(levels) == 0:
            raise UsageError(f"levels must be a list of grid sizes such as (1, 2, 4), not {levels!r}")
        self.levels = tuple(positive_int(level, "a level") for level in levels)
        self.window = global_pooling(mode, p, learn_p, eps)

    def out_dim(self, in_dim: int) -> int:
        """``C`` times the number of windows."""
        return in_dim * sum(n * n for n in self.levels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C * windows)``."""
        x = check_map(x)
        return torch.cat([pool_windows(self.window, x, n, n) for n in self.levels], dim=1)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


def rmac_regions(height: int, width: int, levels: int = 3) -> list[tuple[int, int, int, int]]:
    """The square regions of R-MAC as ``(top, left, height, width)``, without the whole map.

    At scale l the side is ``floor(2 min(H, W) / (l + 1))``. The shorter axis holds l regions; the longer one holds
    l + m, with m from 1 to 6 chosen so that neighbours of the first scale overlap as close to 40 % as can be (of
    two equally close, the smaller m; m = 0 for a square map). Regions are spread evenly, from border to border,
    their offsets rounded down.
    """
    short, long = min(height, width), max(height, width)
    extra = 0
    if long > short:
        # |overlap - 2/5| with overlap = 1 - (long - short) / (m short), times 300 short: whole numbers, exact ties.
        misses = [abs(3 * short * m - 5 * (long - short)) * (60 // m) for m in range(1, 7)]
        extra = 1 + misses.index(min(misses))
    extra_rows, extra_columns = (extra, 0) if height > width else (0, extra)
    regions = []
    for level in range(1, levels + 1):
        side = 2 * short // (level + 1)
        if side == 0:
            break
        tops = _spread(height - side, level + extra_rows)
        lefts = _spread(width - side, level + extra_columns)
        regions += [(top, left, side, side) for top in tops for left in lefts]
    return regions


def _spread(room: int, count: int) -> list[int]:
    """``count`` offsets from 0 to ``room``, evenly spaced and rounded down."""
    return [0] if count == 1 else [i * room // (count - 1) for i in range(count)]


def regional_sum(pool: Callable[[Tensor], Tensor], x: Tensor, levels: int, eps: float = EPS) -> Tensor:
    """Pool the whole map and every region of R-MAC, divide each vector by its norm + eps, add them up."""
    boxes = rmac_regions(x.shape[2], x.shape[3], levels)
    views = [x, *(x[:, :, top : top + h, left : left + w] for top, left, h, w in boxes)]
    return sum_of_directions(torch.stack([pool(view) for view in views], dim=1), eps)


def sum_of_directions(vectors: Tensor, eps: float = EPS) -> Tensor:
    """Vectors ``(B, R, C)``, each divided by its norm + eps, added up: ``(B, C)``."""
    return (vectors / (torch.linalg.vector_norm(vectors, dim=-1, keepdim=True) + eps)).sum(1)


def regional_map(contribution: Callable[[Tensor], Tensor], x: Tensor, weights: Tensor, levels: int) -> Tensor:
    """Which cells made ``weights`` times :func:`regional_sum`: ``(B, H, W)``, summing to that.

    ``contribution`` of a view ``(B, C, h, w)``: what each cell adds to its pooled vector. The norms that the vectors are
    divided by are taken as they are. ``weights``: ``(C,)`` or ``(B, C)``.
    """
    total = x.new_zeros((x.shape[0], *x.shape[2:]))
    for top, left, h, w in [(0, 0, *x.shape[2:]), *rmac_regions(x.shape[2], x.shape[3], levels)]:
        parts = contribution(x[:, :, top : top + h, left : left + w])
        norms = torch.linalg.vector_norm(parts.sum(GRID), dim=-1, keepdim=True) + EPS
        shares = weights.to(parts) / norms
        total[:, top : top + h, left : left + w] += (parts * shares[..., None, None]).sum(1)
    return total


class RMAC(Pooling):
    """Regional maximum activation of convolutions: the maxima of many square regions, normalised and added.

    ``y = sum over regions R of v_R / (||v_R|| + 1e-6)``, with ``v_R = max of x over R``; the regions are those of
    :func:`rmac_regions` and the whole map. The sum is not normalised.

    Args:
        levels: number of scales L.

    Gradient: sparse, the winners of each region; a cell that wins several regions gets the sum.
    Use it for instance retrieval with networks that were not trained for it; it copes with clutter better than one
    maximum does.
    Source: Tolias, Sicre, Jegou, "Particular object retrieval with integral max-pooling of CNN activations",
    2016 (without its PCA-whitening of the region vectors).
    """

    kind = "map"

    def __init__(self, levels: int = 3) -> None:
        super().__init__()
        self.levels = positive_int(levels, "levels")

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C)``."""
        return regional_sum(lambda view: view.amax(GRID), check_map(x), self.levels)

    def contribution_map(self, x: Tensor, weights: Tensor) -> Tensor:
        """Which cells made ``weights`` times ``self(x)``: ``(B, H, W)``, see :func:`regional_map`."""
        return regional_map(
            lambda view: max_shares(view, GRID) * view.amax(GRID, keepdim=True), check_map(x), weights, self.levels
        )

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


class RegionalGeM(PowerModule, Pooling):
    """Regional GeM: as R-MAC, with the generalised mean in place of the maximum.

    ``y = sum over regions R of g_R / (||g_R|| + 1e-6)``, with ``g_R`` the GeM of x over R.

    Args:
        levels: number of scales L.
        p, learn_p, eps: as in :class:`GeM`; one exponent for all regions.

    Gradient: weighted within each region as in :class:`GeM`.
    Use it where R-MAC fits and the exponent is to be learned.
    Source: the regions of Tolias et al., 2016, with the pooling of Radenovic et al., 2018.
    """

    kind = "map"

    def __init__(self, levels: int = 3, p: float | str = 3.0, *, learn_p: bool = True, eps: float = EPS) -> None:
        super().__init__()
        self.levels = positive_int(levels, "levels")
        self.init_exponent(p, learn_p, eps)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C)``."""
        x = check_map(x)
        if self.is_max:
            return regional_sum(lambda view: view.clamp(min=self.eps).amax(GRID), x, self.levels)
        p = self.exponent(x)[:, None, None]
        return regional_sum(lambda view: power_mean(view, p, GRID, self.eps), x, self.levels)

    def contribution_map(self, x: Tensor, weights: Tensor) -> Tensor:
        """Which cells made ``weights`` times ``self(x)``: ``(B, H, W)``, see :func:`regional_map`."""
        x = check_map(x)
        p = self.exponent(x)[:, None, None]

        def contribution(view: Tensor) -> Tensor:
            if self.is_max:
                held = view.clamp(min=self.eps)
                return max_shares(held, GRID) * held.amax(GRID, keepdim=True)
            return power_shares(view, p, GRID, self.eps) * power_mean(view, p, GRID, self.eps)[..., None, None]

        return regional_map(contribution, x, weights, self.levels)

    def extra_repr(self) -> str:
        return f"levels={self.levels}, {super().extra_repr()}"

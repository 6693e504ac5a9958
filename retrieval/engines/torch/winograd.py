"""Winograd filtering with torch's own operations. See :mod:`retrieval.engines.winograd`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retrieval.engines.winograd import (
    CONSTANT,
    INPUT,
    LEAST_CHANNELS,
    LEAST_TILES,
    OUTPUT,
    TILE,
    WINDOW,
    transformed,
)


def use_winograd(module: nn.Module) -> None:
    """Replaces, in place and for inference, the wide 3 x 3 convolutions inside ``module`` that move one pixel a step."""
    for name, child in module.named_children():
        if type(child) is nn.Conv2d and _suits(child):
            setattr(module, name, WinogradConvolution(child))
        else:
            use_winograd(child)


def _suits(convolution: nn.Conv2d) -> bool:
    return (
        convolution.in_channels >= LEAST_CHANNELS
        and convolution.groups == 1
        and convolution.kernel_size == (3, 3)
        and convolution.stride == convolution.dilation == convolution.padding == (1, 1)
        and convolution.padding_mode == "zeros"
    )


class WinogradConvolution(nn.Module):
    """A 3 x 3 convolution with stride 1 and one pixel of zeros around: (B, C, H, W) -> (B, C_out, H, W).

    Which way a map goes depends on its height and width alone, never on the maps beside it in the batch.
    """

    weights: Tensor
    to_positions: Tensor
    to_tile: Tensor

    def __init__(self, direct: nn.Conv2d) -> None:
        super().__init__()
        self.direct = direct  # for small maps
        weights = torch.from_numpy(transformed(direct.weight.detach().numpy()))
        self.register_buffer("weights", weights.transpose(1, 2).contiguous())  # (36, C, C_out)
        self.register_buffer("to_positions", torch.from_numpy(INPUT))
        self.register_buffer("to_tile", torch.from_numpy(OUTPUT))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        down, across = -(-height // TILE), -(-width // TILE)
        if down * across < LEAST_TILES:
            return self.direct(x)
        beyond = (0, 0, 1, TILE * across + 1 - width, 1, TILE * down + 1 - height)
        windows = F.pad(x.permute(0, 2, 3, 1), beyond).unfold(1, WINDOW, TILE).unfold(2, WINDOW, TILE)
        places = windows.permute(4, 5, 0, 1, 2, 3).reshape(WINDOW * WINDOW, -1)  # of all tiles and channels
        positions = torch.mm(self.to_positions, places).view(WINDOW * WINDOW, -1, channels)
        sums = torch.bmm(positions, self.weights)
        if self.direct.bias is not None:
            sums[CONSTANT] += self.direct.bias
        tiles = torch.mm(self.to_tile, sums.view(WINDOW * WINDOW, -1)).view(TILE, TILE, batch, down, across, -1)
        maps = tiles.permute(2, 3, 0, 4, 1, 5).reshape(batch, TILE * down, TILE * across, -1)
        return maps[:, :height, :width].permute(0, 3, 1, 2)

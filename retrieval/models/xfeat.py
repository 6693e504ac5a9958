"""XFeat: learned local features (Potje et al., "XFeat: Accelerated Features for Lightweight Image Matching", CVPR 2024).

The network of the paper's section 3 with the weights its authors publish; the rest of it (dense matches refined by an MLP) is
left out. What it computes of a picture is dense; points are chosen of it in :mod:`retrieval.ranking.learned_points`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retrieval.errors import ModelError
from retrieval.messages import first_line
from retrieval.models.backbones import read_published
from retrieval.models.registry import XFEAT
from retrieval.models.weights import checked_digest, remedy, weights_file

CELL = 8  # pixels a side, of which a cell of the map describes the middle
_UNUSED = "fine_matcher."
_EPS = 1e-5


class XFeat(nn.Module):
    """``forward``: uint8 (1, H, W, 3), H and W multiples of 32 -> descriptors float32 (1, H / 8, W / 8, 64) of unit length, and
    float32 (1, 2, H, W): how likely a point lies at a pixel rather than elsewhere in its cell or nowhere in it (between 0
    and 1), and how far a descriptor at this place can be relied on (between 0 and 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.skip1 = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(1, 24, 1))
        self.block1 = nn.Sequential(_layer(1, 4), _layer(4, 8, stride=2), _layer(8, 8), _layer(8, 24, stride=2))
        self.block2 = nn.Sequential(_layer(24, 24), _layer(24, 24))
        self.block3 = nn.Sequential(_layer(24, 64, stride=2), _layer(64, 64), _layer(64, 64, side=1))
        self.block4 = nn.Sequential(_layer(64, 64, stride=2), _layer(64, 64), _layer(64, 64))
        self.block5 = nn.Sequential(
            _layer(64, 128, stride=2), _layer(128, 128), _layer(128, 128), _layer(128, 64, side=1)
        )
        self.block_fusion = nn.Sequential(_layer(64, 64), _layer(64, 64), nn.Conv2d(64, 64, 1))
        self.heatmap_head = nn.Sequential(_layer(64, 64, side=1), _layer(64, 64, side=1), nn.Conv2d(64, 1, 1))
        self.keypoint_head = nn.Sequential(*(_layer(64, 64, side=1) for _ in range(3)), nn.Conv2d(64, CELL**2 + 1, 1))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        grey = pictures.permute(0, 3, 1, 2).float().mean(1, keepdim=True)
        apart = grey - grey.mean((2, 3), keepdim=True)
        grey = apart / (apart.square().mean((2, 3), keepdim=True) + _EPS).sqrt()
        fine = self.block3(self.block2(self.block1(grey) + self.skip1(grey)))
        middle = self.block4(fine)
        coarse = self.block5(middle)
        size = fine.shape[2:]
        fused = self.block_fusion(fine + _enlarged(middle, size) + _enlarged(coarse, size))
        reliability = torch.sigmoid(self.heatmap_head(fused))
        # In each cell its pixels and "none of them" share one probability.
        likelihood = self.keypoint_head(F.pixel_unshuffle(grey, CELL)).softmax(1)[:, : CELL**2]
        maps = torch.cat([F.pixel_shuffle(likelihood, CELL), _enlarged(reliability, grey.shape[2:])], 1)
        return F.normalize(fused, dim=1).permute(0, 2, 3, 1), maps

    def load_published(self, weights: Mapping[str, Tensor]) -> None:
        """Load weights as the authors publish them. Raises ModelError when they are for another network."""
        used = {name: value for name, value in weights.items() if not name.startswith(_UNUSED)}
        try:
            self.load_state_dict(used)
        except RuntimeError as error:
            raise ModelError(f"these weights do not fit XFeat: {first_line(error)}") from error


def published_xfeat() -> XFeat:
    """The network with its published weights, in evaluation mode. Raises ModelError where they are not installed, or damaged."""
    path = weights_file(XFEAT)
    checked_digest(XFEAT, path)
    network = XFeat().eval()
    try:
        network.load_published(read_published(str(path)))
    except ModelError as error:
        raise ModelError(f"{path}: {error.message}", remedy(XFEAT, path)) from error
    return network


class _Layer(nn.Module):
    """Convolution, normalisation without scale and shift, ReLU."""

    def __init__(self, inside: int, outside: int, stride: int, side: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            nn.Conv2d(inside, outside, side, stride, side // 2, bias=False),
            nn.BatchNorm2d(outside, affine=False),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(x)
        return result


def _layer(inside: int, outside: int, *, stride: int = 1, side: int = 3) -> _Layer:
    return _Layer(inside, outside, stride, side)


def _enlarged(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)

"""An EfficientNet-Lite0 of the first three of its seven stages: depthwise convolutions, padding as TensorFlow's, its last
activation and its 1280 channels, converted and run in a quarter of the time. Known as ``few_blocks`` after an import."""

from __future__ import annotations

from dataclasses import replace

import tiny  # noqa: F401  # makes its backbones known
from torch import nn

from retrieval.models import backbones
from retrieval.models.registry import BACKBONES, BackboneInfo

NAME = "few_blocks"


class FewBlocks(backbones.EfficientNetLite):
    def __init__(self, info: BackboneInfo) -> None:
        super().__init__(info)
        del self.body.blocks[3:]
        self.body.conv_head = nn.Conv2d(40, info.dim, 1, bias=False)


_known = BACKBONES["efficientnet_lite0"]
BACKBONES[NAME] = replace(_known, name=NAME, family=NAME, stride=8, weights=BACKBONES["tiny"].weights)
backbones._FAMILIES[NAME] = FewBlocks

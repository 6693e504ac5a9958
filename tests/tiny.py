"""Backbones of three small convolutions, registered under names of their own: for what is not about a real backbone.

``tiny`` (32 channels) and ``tiny2`` (24) are known in every test. A process that a test starts knows them after
``import tiny``, with this folder on its path (:func:`knowing_tiny`).
"""

from __future__ import annotations

import itertools
import os
import sys
from pathlib import Path

import torch
from torch import nn

from retrieval.models import backbones
from retrieval.models.registry import BACKBONES, BackboneInfo, Weights

MODEL = "tiny-gem@random:0"
RETRIEVE = [sys.executable, "-c", "import tiny; from retrieval.cli.main import main; main()"]


class Tiny(backbones.Backbone):
    """Three convolutions with normalisation; each halves the picture."""

    def __init__(self, info: BackboneInfo) -> None:
        super().__init__()
        self.info = info
        widths = (3, 12, 24, info.dim)
        self.body = nn.Sequential()
        for before, after in itertools.pairwise(widths):
            self.body.extend([nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()])

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.body(images)
        return result


for _name, _dim in (("tiny", 32), ("tiny2", 24)):
    # A package that is not installed: there are no published weights.
    _weights = Weights(f"test/{_name}", "", 0.0, "none", "none", package="no_such_package_of_weights")
    BACKBONES[_name] = BackboneInfo(_name, _dim, _weights, "tiny", stride=8)
backbones._FAMILIES["tiny"] = Tiny


def knowing_tiny() -> dict[str, str]:
    """The environment for a process that imports this file."""
    here = Path(__file__).parent
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])}

"""A pooling of one's own, measured on a labelled set: the network's own preparation of pictures, another last step."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from retrieval import Model, load_model
from retrieval.datasets.load import load_truth
from retrieval.engines.torch.engine import TorchEngine
from retrieval.evaluation.run import evaluate_ranking


class Middle(nn.Module):
    """(B, C, H, W) to (B, C): halfway between average and maximum."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.mean((-2, -1)) + x.amax((-2, -1))) / 2


def measure(dataset: Path, model: Model, pooling: nn.Module, ranks: Path) -> float:
    """mAP (Medium) with another pooling in the model, which is for describing alone then: a gallery would not know it."""
    engine = model.engine()
    assert isinstance(engine, TorchEngine)
    engine.describer.network.pooling = pooling.eval()
    truth = load_truth(dataset)
    gallery = model.describe([Path(truth.root, path) for path in truth.gallery])
    queries = np.stack([model.describe(Path(truth.root, query.image), bbox=query.bbox) for query in truth.queries])
    np.save(ranks, np.argsort(-queries @ gallery.T, axis=1, kind="stable"))
    return float(evaluate_ranking(truth, ranks).measured[0].results["medium"].mean_average_precision)


if __name__ == "__main__":
    own = load_model("efficientnet_lite0-gem", engine="torch")
    print(measure(Path(sys.argv[1]), own, Middle(), Path("own.npy")))

"""A model with a whitening as its last layer, written as a checkpoint of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.describe.model import Model
from retrieval.errors import UsageError
from retrieval.models.checkpoint import FILE_NAME, save_checkpoint
from retrieval.models.spec import ModelSpec
from retrieval.models.whitening import Whitening

if TYPE_CHECKING:
    from retrieval.models.network import RetrievalNetwork


def whitened_model(model: Model, whitening: Whitening, origin: Mapping[str, Any], out: str | os.PathLike[str]) -> Model:
    """The model with the whitening as its last layer, written to the folder ``out`` as a checkpoint of its own.

    ``origin`` is from :func:`learned_on`. Raises UsageError when the model is whitened already or ``out`` holds one.
    """
    from retrieval.models.loading import build_network

    path = Path(out) / FILE_NAME
    check_whitenable(model.spec, path)
    if whitening.projection.shape[1] != model.spec.dim:
        raise UsageError(f"a whitening of {whitening.projection.shape[1]} dimensions does not fit {model.spec.dim}")
    network = build_network(model.spec, model.checkpoint)
    _add_layer(network, whitening)
    about: dict[str, Any] = {
        "kind": whitening.kind,
        "dim": len(whitening.projection),
        "learned_on": dict(origin),
        "scales": list(model.spec.image.scales),
        **{key: value for key, value in whitening.info.items() if key in ("pairs", "shrinkage")},
    }
    if model.spec.whitening is not None:  # an FC layer, which stays below
        about["fc"] = {key: value for key, value in model.spec.whitening.items() if key != "kind"}
    spec = replace(model.spec, dim=len(whitening.projection), whitening=about)
    spec = save_checkpoint(network, spec, path, origin=f"{model.spec.weights.id}, whitened")
    return Model(spec, path, model.engine_name)


def check_whitenable(spec: ModelSpec, path: Path) -> None:
    """Raises UsageError where a whitened model cannot be made of ``spec``, or not at ``path``."""
    if spec.whitening is not None and spec.whitening.get("kind") != "fc":
        raise UsageError(f"{spec.name} is whitened already", "Whiten the model that it was made of.")
    if path.exists():
        raise UsageError(f"{path} is there already", "Name another folder with --out.")


def _add_layer(network: RetrievalNetwork, whitening: Whitening) -> None:
    import torch
    from torch import nn

    layer = nn.Linear(whitening.projection.shape[1], len(whitening.projection))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(whitening.projection))
        layer.bias.copy_(torch.from_numpy(whitening.bias))
    network.whitening = layer

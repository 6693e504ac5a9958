"""What the readers of foreign checkpoints share: what they are asked for, what they hand over, how they take tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import ModelError
from retrieval.files.torch_pickle import StoredTensor
from retrieval.models.registry import IMAGENET_MEAN, IMAGENET_STD

AUTO, NONE = "auto", "none"


@dataclass(frozen=True)
class Wishes:
    """What the user asked for: the ``whitening`` by name (or "auto", "none"), the ``scales``, a ``pooling`` for files
    that name none."""

    whitening: str = AUTO
    scales: tuple[float, ...] = (1.0,)
    pooling: Mapping[str, Any] | None = None


@dataclass
class Whitening:
    """Post-processing of the finished descriptor: ``y = matrix (x - mean)``, then unit length. ``matrix`` (d, D) and
    ``mean`` (D,) in float64; ``about`` goes into the specification."""

    matrix: np.ndarray
    mean: np.ndarray
    about: dict[str, Any]


@dataclass
class Foreign:
    """A checkpoint of another project as its reader hands it over.

    ``tensors``: by the name in :class:`retrieval.models.network.RetrievalNetwork`, the name in the file and the tensor.
    ``unknown``: names of tensors that no part of the network takes. ``fc``: the layer learned with the network, as the
    specification describes it. ``fresh_pooling``: whether the pooling is not the file's own. ``notes``: for the user.
    """

    origin: str
    backbone: str
    pooling: dict[str, Any]
    tensors: dict[str, tuple[str, StoredTensor]]
    unknown: list[str] = field(default_factory=list)
    fc: dict[str, Any] | None = None
    whitening: Whitening | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    fresh_pooling: bool = False
    notes: list[str] = field(default_factory=list)


def state_dict(file: Path, value: Any) -> dict[str, StoredTensor]:
    """``value`` as a state dict, without the ``module.`` that data-parallel training puts before names."""
    if not isinstance(value, dict) or not value:
        raise ModelError(f"{file} holds no state dict")
    odd = [str(name)[:60] for name, tensor in value.items() if not isinstance(tensor, StoredTensor)]
    if odd or not all(isinstance(name, str) for name in value):
        raise ModelError(f"{file}: not everything in its state dict is a tensor: {', '.join(odd[:5])}")
    return {name.removeprefix("module."): tensor for name, tensor in value.items()}


def assign(
    file: Path, tensors: Mapping[str, StoredTensor], rename: Callable[[str], str | None]
) -> tuple[dict[str, tuple[str, StoredTensor]], list[str]]:
    """The tensors under their names here, and the names of those for which ``rename`` has none."""
    taken: dict[str, tuple[str, StoredTensor]] = {}
    unknown = []
    for name, tensor in tensors.items():
        own = rename(name)
        if own is None:
            unknown.append(name)
        elif own in taken:
            raise ModelError(f"{file}: {name} and {taken[own][0]} are the same tensor")
        else:
            taken[own] = (name, tensor)
    return taken, unknown


def triple(file: Path, value: Any, what: str, default: tuple[float, float, float]) -> tuple[float, float, float]:
    """Three numbers, such as a mean of RGB."""
    if value is None:
        return default
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(type(v) in (int, float) for v in value):
        raise ModelError(f"{file}: its {what} is not three numbers")
    return float(value[0]), float(value[1]), float(value[2])


def exponent(file: Path, tensors: Mapping[str, StoredTensor], name: str) -> float:
    """GeM's p, one for all channels, for the specification. Raises ModelError for what is no exponent."""
    if name not in tensors:
        raise ModelError(f"{file} lacks the tensor {name}, the exponent of its pooling")
    values = tensors[name].load().double().flatten().tolist()
    if not values or not all(0.01 <= value < 1e6 for value in values):
        raise ModelError(f"{file}: {name} is no exponent of a mean")
    return round(values[0], 6)

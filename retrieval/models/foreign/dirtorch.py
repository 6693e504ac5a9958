"""Checkpoints of Deep Image Retrieval (Gordo, Almazan, Revaud, Larlus): ``model_options``, ``state_dict``, ``pca``.

The network is a ResNet, GeM (or maximum, or average), an FC layer and L2; the pooled vector has no unit length before
the FC layer unless the options say so. ``pca`` holds scikit-learn objects by the name of the set they were learned on;
they are applied afterwards with the eigenvalues to a power, 0.25 in the authors' evaluation.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import ModelError, UsageError
from retrieval.files.torch_pickle import PickledObject, as_array
from retrieval.models.foreign.common import AUTO, NONE, Foreign, Whitening, Wishes, assign, exponent, state_dict, triple
from retrieval.models.foreign.torchvision import depth_of, named
from retrieval.models.registry import IMAGENET_MEAN, IMAGENET_STD

_POOLINGS = {"max": "max", "avg": "avg"}
_USUAL = "Landmarks_clean"
_POWER = 0.25


def _options(loaded: dict[Any, Any]) -> dict[Any, Any]:
    for key in ("model_options", "options"):
        value = loaded.get(key)
        if isinstance(value, PickledObject):
            value = value.state
        if isinstance(value, dict) and "arch" in value:
            return value
    return {}


def recognises(loaded: dict[Any, Any]) -> bool:
    tensors = loaded.get("state_dict")
    if not isinstance(tensors, dict):
        return False
    return bool(_options(loaded)) or "pca" in loaded or any(str(name).endswith("adpool.p") for name in tensors)


def read(file: Path, loaded: dict[Any, Any], wishes: Wishes) -> Foreign:
    options = _options(loaded)
    tensors = state_dict(file, loaded["state_dict"])
    arch = str(options.get("arch", ""))
    if arch and not re.fullmatch(r"resnet\d+_rmac", arch):
        raise ModelError(
            f"{file}: its architecture is {arch[:40]!r}", "ResNets with one pooling (resnetN_rmac) are read."
        )
    if wishes.pooling is not None:
        raise UsageError(f"{file} says its own pooling: leave --pooling out")
    if options.get("center_bias"):
        raise ModelError(f"{file} weighs the centre of pictures (center_bias), which is not supported")
    pool = str(options.get("pooling", "gem"))
    if pool.startswith("gem"):
        pooling: dict[str, Any] = {"name": "gem", "p": exponent(file, tensors, "adpool.p")}
    elif pool in _POOLINGS:
        pooling = {"name": _POOLINGS[pool]}
    else:
        raise ModelError(f"{file}: its pooling is {pool[:40]!r}", "Known: gem, max, avg.")
    without_fc = bool(options.get("without_fc"))

    def rename(name: str) -> str | None:
        if name == "adpool.p":
            return "pooling.p"
        return name if name in ("fc.weight", "fc.bias") else named(name)

    kept = {name: tensor for name, tensor in tensors.items() if not (without_fc and name.startswith("fc."))}
    taken, unknown = assign(file, kept, rename)
    backbone = depth_of(file, taken)
    if arch and arch != f"{backbone}_rmac":
        raise ModelError(f"{file} says {arch}, but its tensors are those of {backbone}")
    fc = None
    if not without_fc:
        if "fc.weight" not in taken or len(taken["fc.weight"][1].shape) != 2:
            raise ModelError(f"{file} lacks the tensor fc.weight")
        fc = {"dim": taken["fc.weight"][1].shape[0], "normalised": bool(options.get("norm_features"))}
    image = loaded.get("preprocess")
    image = image if isinstance(image, dict) else {}
    found = Foreign(
        "dirtorch",
        backbone,
        pooling,
        taken,
        unknown,
        fc=fc,
        mean=triple(file, image.get("mean"), "mean", IMAGENET_MEAN),
        std=triple(file, image.get("std"), "std", IMAGENET_STD),
    )
    found.whitening = _whitening(file, loaded.get("pca"), wishes, found.notes)
    return found


def _whitening(file: Path, learned: Any, wishes: Wishes, notes: list[str]) -> Whitening | None:
    """The PCA that was asked for (``NAME`` or ``NAME:POWER``), or the usual one."""
    if isinstance(learned, PickledObject):
        learned = {_USUAL: learned}
    learned = learned if isinstance(learned, dict) else {}
    listed = ", ".join(str(name)[:60] for name in learned) or "none"
    if wishes.whitening == NONE or (wishes.whitening == AUTO and not learned):
        return None
    if wishes.whitening == AUTO:
        name, power = _USUAL if _USUAL in learned else sorted(map(str, learned))[0], _POWER
    else:
        name, _, number = wishes.whitening.partition(":")
        try:
            power = float(number) if number else _POWER
        except ValueError:
            raise UsageError(f"{number!r} is no power", f"Example: --whitening {name}:{_POWER}.") from None
        if name not in learned or not 0 <= power <= 1:
            raise UsageError(f"{file} has no whitening {wishes.whitening}", f"It has: {listed}; powers from 0 to 1.")
    entry = learned[name]
    state = entry.state if isinstance(entry, PickledObject) and isinstance(entry.state, dict) else {}
    matrix, mean, variance = (as_array(state.get(key)) for key in ("components_", "mean_", "explained_variance_"))
    if matrix is None or mean is None or variance is None or variance.shape != matrix.shape[:1]:
        raise ModelError(f"{file}: its PCA {name} has no arrays components_, mean_ and explained_variance_")
    if state.get("whiten"):
        matrix = matrix / np.power(np.maximum(variance, np.finfo(np.float64).tiny), power)[:, None]
    notes.append(f"whitening {name}, eigenvalues to the power {power:g}")
    return Whitening(matrix, mean.reshape(-1), {"kind": "pca", "learned_on": name, "power": power})

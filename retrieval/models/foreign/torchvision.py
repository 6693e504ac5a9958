"""Plain state dicts of torchvision's ResNets, and of the convolutional part alone as cirtorch publishes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval.errors import ModelError, UsageError
from retrieval.files.torch_pickle import StoredTensor
from retrieval.models.foreign.common import AUTO, NONE, Foreign, Wishes, assign, state_dict

# The children of torchvision's ResNet in order, as cirtorch numbers them in ``features.N``.
CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_DEPTHS = {
    ((2, 2, 2, 2), False): "resnet18",
    ((3, 4, 6, 3), False): "resnet34",
    ((3, 4, 6, 3), True): "resnet50",
    ((3, 4, 23, 3), True): "resnet101",
    ((3, 8, 36, 3), True): "resnet152",
}
_OWN = re.compile(r"(conv1|bn1|layer[1-4])\.")


def numbered(name: str) -> str | None:
    """The name in this project of the tensor ``N.rest`` of cirtorch's numbered ResNet, None if it is no such."""
    number, _, rest = name.partition(".")
    return f"backbone.body.{CHILDREN[number]}.{rest}" if number in CHILDREN and rest else None


def named(name: str) -> str | None:
    """The name in this project of a tensor of torchvision's ResNet, None if it is no such."""
    return f"backbone.body.{name}" if _OWN.match(name) else None


def depth_of(file: Path, names: Mapping[str, Any]) -> str:
    """Which ResNet has tensors of these names (this project's). Raises ModelError."""
    blocks = []
    for layer in range(1, 5):
        found = {int(m[1]) for name in names if (m := re.match(rf"backbone\.body\.layer{layer}\.(\d{{1,3}})\.", name))}
        blocks.append(len(found))
    bottleneck = "backbone.body.layer1.0.conv3.weight" in names
    try:
        return _DEPTHS[(tuple(blocks), bottleneck)]  # type: ignore[index]
    except KeyError:
        kind = "bottleneck" if bottleneck else "basic"
        raise ModelError(
            f"{file} holds no ResNet of a known depth: its layers have {blocks} {kind} blocks",
            f"Known: {', '.join(_DEPTHS.values())}.",
        ) from None


def tensors_of(loaded: dict[Any, Any]) -> Any:
    """The state dict itself, or the one that a training script wrapped."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded.get(key), dict):
            return loaded[key]
    return loaded


def recognises(loaded: dict[Any, Any]) -> bool:
    names = {str(name).removeprefix("module.") for name in tensors_of(loaded)}
    return bool({"conv1.weight", "0.weight"} & names) and any(
        name.startswith(("layer1.", "4.0.", "layer4.")) for name in names
    )


def read(file: Path, loaded: dict[Any, Any], wishes: Wishes) -> Foreign:
    if wishes.whitening not in (AUTO, NONE):
        raise UsageError(f"{file} holds no whitening: it is a plain state dict")
    tensors: dict[str, StoredTensor] = state_dict(file, tensors_of(loaded))
    rename = numbered if "0.weight" in tensors else named
    taken, unknown = assign(file, {k: v for k, v in tensors.items() if not k.startswith("fc.")}, rename)
    backbone = depth_of(file, taken)
    pooling = dict(wishes.pooling or {"name": "gem"})
    return Foreign(
        "cirtorch" if rename is numbered else "torchvision",
        backbone,
        pooling,
        taken,
        unknown,
        fresh_pooling=True,
        notes=[f"{backbone}, a plain state dict: pooled by {pooling['name']}"],
    )

"""The state of a run in the middle of it: one safetensors file with all that the next step depends on. Never pickle."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from retrieval.errors import ModelError
from retrieval.files.tensors import read_tensors
from retrieval.files.whole import whole_file

FORMAT = "retrieval-training-1"


def write_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replace the file ``path`` as a whole: written beside, brought to the disk, renamed. A kill at any moment leaves the old
    or the new one. Raises ModelError where it cannot be written; the old one is kept then."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            save_file(plain, file, metadata={"format": FORMAT, "facts": json.dumps(facts)})
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"the checkpoint {path} cannot be written ({_reason(error)}); the one before is kept"
        ) from error


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and facts of :func:`write_state`. Raises ModelError for a missing, foreign or damaged file."""
    if not path.is_file():
        raise ModelError(f"{path} is not there: nothing to resume", "The run has not come to its first checkpoint.")
    metadata, tensors = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ModelError(f"{path} is not the state of a training run")
    try:
        return tensors, json.loads(metadata["facts"])
    except (ValueError, KeyError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {_reason(error)}") from error


def by_part(tensors: Mapping[str, Tensor]) -> defaultdict[str, dict[str, Tensor]]:
    """Tensors called PART/NAME, by part and by name; a part that is not there is empty."""
    parts: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, value in tensors.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = value
    return parts


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimiser remembers of each parameter, by the parameter's number and the value's name."""
    state = optimiser.state_dict()["state"]
    return {
        f"{number}/{name}": value
        for number, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of :func:`optimiser_tensors`, for an optimiser over the same parameters.

    Values take their parameter's layout in memory: with another one, the same step could round differently.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    optimiser.state.clear()
    for key, value in tensors.items():
        number, name = key.split("/")
        p = parameters[int(number)]
        if name != "step":
            value = torch.empty_like(p, requires_grad=False).copy_(value)
        optimiser.state[p][name] = value


def _reason(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return strerror or (str(error).splitlines() or [type(error).__name__])[0]

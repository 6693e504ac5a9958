"""Checkpoints of other projects: recognised, read without running them, and written as the project's own.

Three kinds: those of CNN Image Retrieval in PyTorch ("cirtorch"), those of Deep Image Retrieval ("dirtorch"), and plain
state dicts of torchvision's ResNets. Each kind has a module that turns what is in the file into a :class:`Foreign`;
here it becomes a specification and a checkpoint whose descriptors are those of the original.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.errors import ModelError, UsageError
from retrieval.files.torch_file import read_torch_file
from retrieval.files.torch_pickle import PickledObject
from retrieval.messages import say_nothing
from retrieval.models.checkpoint import FILE_NAME, save_checkpoint
from retrieval.models.foreign import cirtorch as foreign_cirtorch
from retrieval.models.foreign import dirtorch as foreign_dirtorch
from retrieval.models.foreign import torchvision as foreign_torchvision
from retrieval.models.foreign.common import AUTO, Foreign, Whitening, Wishes
from retrieval.models.registry import BACKBONES
from retrieval.models.spec import ImageRule, ModelSpec, WeightsRef
from retrieval.models.zoo import canonical_pooling, output_dim

if TYPE_CHECKING:
    from torch import Tensor


def import_checkpoint(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    whitening: str = AUTO,
    scales: Sequence[float] | None = None,
    size: int = 1024,
    dim: int | None = None,
    pooling: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = say_nothing,
) -> ModelSpec:
    """Convert another project's checkpoint to ``out/model.safetensors`` and return its specification.

    ``whitening``: which of the file's learned whitenings is applied: ``"auto"`` the usual one for these ``scales`` if
    the file has one, ``"none"``, or by name (``retrieval-SfM-120k:ms``; ``Landmarks_clean:0.25``, with its power).
    ``scales`` and ``size`` (longest side) become the model's. ``dim`` keeps the first dimensions of the whitening.
    ``pooling`` is for files that do not say theirs (plain state dicts; default GeM).

    Raises ModelError for a file that cannot be read or does not fit, naming the tensors, and UsageError for an option
    that the file has no place for.
    """
    from retrieval.models.loading import empty_network

    file, target = Path(file), Path(out) / FILE_NAME
    if target.exists() and not overwrite:
        raise UsageError(f"{target} is there already", "Choose another folder, or give --overwrite.")
    rule = ImageRule(size=size, scales=(1.0,) if scales is None else tuple(float(scale) for scale in scales))
    found = _recognise(file, read_torch_file(file), Wishes(whitening, rule.scales, pooling))
    for note in found.notes:
        say(note)
    if dim is not None and (found.whitening is None or not 1 <= dim <= len(found.whitening.matrix)):
        raise UsageError(f"--dim {dim} needs a whitening of that many dimensions", "It keeps the first of them.")
    described = canonical_pooling(found.pooling)
    width = output_dim(BACKBONES[found.backbone], described) if found.fc is None else int(found.fc["dim"])
    about: dict[str, Any] | None = None if found.fc is None else {"kind": "fc", **found.fc}
    if found.whitening is not None:
        _check_whitening(found.whitening, width, file)
        found.whitening.matrix = found.whitening.matrix[:dim]
        about = {**found.whitening.about, "dim": len(found.whitening.matrix)}
        if found.fc is not None:
            about["fc"] = found.fc
    spec = ModelSpec(
        backbone=found.backbone,
        weights=WeightsRef(found.origin, ""),
        pooling=described,
        dim=width if found.whitening is None else len(found.whitening.matrix),
        whitening=about,
        image=ImageRule(size=size, mean=found.mean, std=found.std, scales=rule.scales),
    )
    network = empty_network(spec)
    network.load_state_dict(_fitting(file, network.state_dict(), found))
    return save_checkpoint(network, spec, target, origin=f"{found.origin}/{file.name}")


def _recognise(file: Path, loaded: Any, wishes: Wishes) -> Foreign:
    if isinstance(loaded, PickledObject):
        raise ModelError(
            f"{file} holds a whole object ({type(loaded).__name__[:80]}), not weights",
            "Save its state_dict() where the object's code is at hand.",
        )
    if not isinstance(loaded, dict):
        raise ModelError(f"{file} holds no checkpoint: no dict of tensors")
    for reader in (foreign_cirtorch, foreign_dirtorch, foreign_torchvision):
        if reader.recognises(loaded):
            result: Foreign = reader.read(file, loaded, wishes)
            return result
    inner = foreign_torchvision.tensors_of(loaded)
    raise ModelError(
        f"{file} is no checkpoint of a known kind: it holds {_few([str(name)[:40] for name in inner]) or 'nothing'}",
        "Known: cirtorch, dirtorch, and state dicts of torchvision's ResNets.",
    )


def _check_whitening(whitening: Whitening, width: int, file: Path) -> None:
    matrix, mean = whitening.matrix, whitening.mean
    if matrix.ndim != 2 or matrix.shape[1] != width or not 1 <= len(matrix) <= width or mean.shape != (width,):
        raise ModelError(
            f"{file}: the whitening {whitening.about.get('learned_on')} has shapes {matrix.shape} and {mean.shape}, "
            f"which do not fit descriptors of {width}"
        )
    if not (np.isfinite(matrix).all() and np.isfinite(mean).all()):
        raise ModelError(f"{file}: the whitening {whitening.about.get('learned_on')} holds NaN or infinity")


def _fitting(file: Path, own: Mapping[str, Tensor], found: Foreign) -> dict[str, Tensor]:
    """The tensors for a network's state dict ``own``. Raises ModelError that says which do not fit."""
    import torch

    tensors: dict[str, Tensor] = {}
    missing, shapes = [], []
    for name, value in own.items():
        if name.startswith("whitening."):
            continue
        if name not in found.tensors:
            # Files from before 2018 count no batches; files that name no pooling have no exponent for ours.
            if name.endswith("num_batches_tracked") or (found.fresh_pooling and name.endswith(".p")):
                tensors[name] = value
            else:
                missing.append(name.removeprefix("backbone.body."))
            continue
        theirs, stored = found.tensors[name]
        if _bare(value.shape) != _bare(stored.shape):
            shapes.append(f"{theirs} is {list(stored.shape)}, not {list(value.shape)}")
            continue
        loaded = stored.load().to(value.dtype)
        if not bool(torch.isfinite(loaded.sum(dtype=torch.float64))):
            raise ModelError(f"{file}: the tensor {theirs} holds NaN or infinity")
        tensors[name] = loaded.reshape(value.shape)
    unexpected = [theirs for name, (theirs, _) in found.tensors.items() if name not in own] + found.unknown
    problems = [f"lacks {_few(missing)}"] if missing else []
    problems += [f"has unknown {_few(unexpected)}"] if unexpected else []
    problems += [f"has other shapes: {_few(shapes)}"] if shapes else []
    if problems:
        raise ModelError(f"{file} does not fit {found.backbone} as {found.origin} uses it: it {'; it '.join(problems)}")
    if found.whitening is not None:
        matrix, mean = found.whitening.matrix, found.whitening.mean
        tensors["whitening.weight"] = torch.from_numpy(matrix).float()
        tensors["whitening.bias"] = torch.from_numpy(-matrix @ mean).float()
    return tensors


def _bare(shape: Sequence[int]) -> list[int]:
    """A shape without its ones: a linear layer is a 1 x 1 convolution, a number is a vector of one."""
    return [n for n in shape if n != 1]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

"""Two models' weights interpolated into a third."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from retrieval.errors import ModelError, UsageError
from retrieval.models.checkpoint import FILE_NAME, checkpoint_path, read_spec, save_checkpoint
from retrieval.models.loading import build_network
from retrieval.models.network import RetrievalNetwork
from retrieval.models.spec import ModelSpec
from retrieval.models.zoo import resolve


def blend(
    first: str | os.PathLike[str],
    second: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    alpha: float = 0.5,
    half: bool = False,
    overwrite: bool = False,
) -> ModelSpec:
    """Write the model ``(1 - alpha) first + alpha second``, weight by weight, into the folder ``out``.

    Between a model and what it was trained into, such a blend keeps most of what either does well (Wortsman et al., CVPR
    2022). ``first``, ``second``: names or checkpoints; preprocessing is the first one's. ``half``: stored as float16, which
    halves the file; networks compute in float32 all the same. Returns the specification. Raises UsageError where the two
    are not of one architecture and preprocessing or alpha is not in [0, 1], ModelError where a file cannot be used.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha must lie between 0 and 1, not {alpha}")
    path = Path(out) / FILE_NAME
    if path.exists() and not overwrite:
        raise UsageError(f"{out} holds a model already", "Name another --out, or say --overwrite.")
    (spec, a), (other, b) = _load(first), _load(second)
    if difference := _unlike(spec, other):
        raise UsageError(f"{first} and {second} cannot be blended: {difference}")
    theirs = b.state_dict()
    mixed = {}
    for name, value in a.state_dict().items():
        if theirs[name].shape != value.shape:
            raise UsageError(f"{first} and {second} cannot be blended: their {name} have different shapes")
        mixed[name] = value.lerp(theirs[name], alpha) if value.is_floating_point() else value
    if half:
        mixed = {name: _halved(name, value) for name, value in mixed.items()}
    return save_checkpoint(_Holding(mixed), spec, path, origin=f"blend/{alpha:g} of {other.weights.id}")


class _Holding:
    """Weights of any kind, where a network is expected whose own would be float32."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self._tensors


def _load(name: str | os.PathLike[str]) -> tuple[ModelSpec, RetrievalNetwork]:
    if os.path.exists(name):
        path = checkpoint_path(name)
        spec = read_spec(path)
        return spec, build_network(spec, path)
    spec = resolve(os.fspath(name))
    return spec, build_network(spec)


def _unlike(a: ModelSpec, b: ModelSpec) -> str:
    """In what two specifications differ other than in their weights and picture size; empty: in nothing."""
    for what, one, two in (
        ("backbone", _architecture(a.backbone), _architecture(b.backbone)),
        ("pooling", dict(a.pooling), dict(b.pooling)),
        ("dimensions", a.dim, b.dim),
        ("whitening", a.whitening, b.whitening),
        ("preprocessing", replace(a.image, size=None), replace(b.image, size=None)),
    ):
        if one != two:
            return f"their {what} differ" if what != "backbone" else f"one is {one}, the other {two}"
    return ""


def _architecture(backbone: str) -> str:
    """One name for backbones that differ in their weights only."""
    from retrieval.models.registry import BACKBONES

    info = BACKBONES.get(backbone)
    return backbone if info is None else info.library_name or info.name


def _halved(name: str, value: torch.Tensor) -> torch.Tensor:
    if not value.is_floating_point():
        return value
    halved = value.half()
    if not bool(torch.isfinite(halved).all()):
        raise ModelError(f"{name} has values that float16 cannot hold", "Leave out --half.")
    return halved

"""Checkpoints of CNN Image Retrieval in PyTorch (Radenovic, Tolias, Chum): a dict with ``meta`` and ``state_dict``.

``meta`` names architecture, pooling, mean and std, and may hold learned whitenings (Lw): by training set, for single
scale (``ss``) and several (``ms``), a mean ``m`` and a projection ``P``. The network is ``features`` (a ResNet's
children, numbered), ``lwhiten`` (of every cell), ``pool`` (with ``regional``: ``pool.rpool`` and ``pool.whiten``) and
``whiten`` (the FC layer).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrieval.errors import ModelError, UsageError
from retrieval.files.torch_pickle import as_array
from retrieval.models.foreign.common import AUTO, NONE, Foreign, Whitening, Wishes, assign, exponent, state_dict, triple
from retrieval.models.foreign.torchvision import depth_of, numbered
from retrieval.models.inner_whitening import CELLS, REGIONS
from retrieval.models.registry import IMAGENET_MEAN, IMAGENET_STD

_POOLINGS = {"mac": "max", "spoc": "avg", "gem": "gem", "gemmp": "gem-channel", "rmac": "rmac"}
_REGION_SCALES = 3
_USUAL = ("retrieval-SfM-120k", "retrieval-SfM-30k")


def recognises(loaded: dict[Any, Any]) -> bool:
    return isinstance(loaded.get("meta"), dict) and "state_dict" in loaded and "architecture" in loaded["meta"]


def read(file: Path, loaded: dict[Any, Any], wishes: Wishes) -> Foreign:
    meta = loaded["meta"]
    architecture, pool = meta["architecture"], meta.get("pooling")
    if not isinstance(architecture, str) or not architecture.startswith("resnet"):
        raise ModelError(
            f"{file}: its architecture is {str(architecture)[:40]!r}, which is not supported",
            "ResNets are: resnet18, 34, 50, 101 and 152.",
        )
    if pool not in _POOLINGS:
        raise ModelError(f"{file}: its pooling is {str(pool)[:40]!r}", f"Known: {', '.join(_POOLINGS)}.")
    if wishes.pooling is not None:
        raise UsageError(f"{file} says its own pooling ({pool}): leave --pooling out")
    tensors = state_dict(file, loaded["state_dict"])
    regional, cells, fc = (bool(meta.get(key, False)) for key in ("regional", "local_whitening", "whitening"))
    inner, outer = ("pool.rpool.", "pooling.pool.") if regional else ("pool.", "pooling.")

    def rename(name: str) -> str | None:
        if name.startswith("features."):
            return numbered(name.removeprefix("features."))
        for theirs, ours in (
            ("whiten.", "fc."),
            ("lwhiten.", "cells."),
            (inner, outer),
            ("pool.whiten.", "pooling.whiten."),
        ):
            if name.startswith(theirs):
                return ours + name.removeprefix(theirs)
        return None

    taken, unknown = assign(file, tensors, rename)
    backbone = depth_of(file, taken)
    if backbone != architecture:
        raise ModelError(f"{file} says {architecture}, but its tensors are those of {backbone}")
    pooling: dict[str, Any] = {"name": _POOLINGS[pool]}
    if pool in ("gem", "gemmp"):
        p = exponent(file, tensors, inner + "p")
        pooling |= {"p": p} if pool == "gem" else {}
    if cells:
        pooling[CELLS] = True
    if regional:
        pooling[REGIONS] = _REGION_SCALES
    found = Foreign(
        "cirtorch",
        backbone,
        pooling,
        taken,
        unknown,
        fc={"dim": _rows(file, taken, "fc.weight")} if fc else None,
        mean=triple(file, meta.get("mean"), "mean", IMAGENET_MEAN),
        std=triple(file, meta.get("std"), "std", IMAGENET_STD),
    )
    found.whitening = _whitening(file, meta.get("Lw"), wishes, found.notes)
    return found


def _rows(file: Path, taken: dict[str, Any], name: str) -> int:
    if name not in taken or len(taken[name][1].shape) != 2:
        raise ModelError(f"{file} lacks the tensor whiten.weight, its whitening layer")
    return int(taken[name][1].shape[0])


def _whitening(file: Path, learned: Any, wishes: Wishes, notes: list[str]) -> Whitening | None:
    """The learned whitening that was asked for, or the usual one for these scales."""
    learned = learned if isinstance(learned, dict) else {}
    fitting = "ms" if len(wishes.scales) > 1 else "ss"
    available = [f"{name}:{kind}" for name, both in learned.items() if isinstance(both, dict) for kind in both]
    listed = ", ".join(str(one)[:60] for one in available) or "none"
    if wishes.whitening == NONE:
        return None
    if wishes.whitening == AUTO:
        names = [name for name in (*_USUAL, *sorted(map(str, learned))) if f"{name}:{fitting}" in available]
        if not names:
            if available:
                notes.append(f"no whitening: the file has none for these scales, only {listed}")
            return None
        name, kind = names[0], fitting
    else:
        name, _, kind = wishes.whitening.partition(":")
        kind = kind or fitting
        if f"{name}:{kind}" not in available:
            raise UsageError(f"{file} has no whitening {name}:{kind}", f"It has: {listed}.")
        if kind != fitting:
            notes.append(f"whitening {name}:{kind} was learned at other scales than {list(wishes.scales)}")
    entry = learned[name][kind]
    matrix, mean = (as_array(entry.get(key)) if isinstance(entry, dict) else None for key in ("P", "m"))
    if matrix is None or mean is None:
        raise ModelError(f"{file}: its whitening {name}:{kind} is not made of arrays m and P")
    notes.append(f"whitening {name}:{kind}")
    return Whitening(matrix, mean.reshape(-1), {"kind": "lw", "learned_on": name, "scales": kind})

"""Checkpoints: a safetensors file of weights with the model specification as JSON in its metadata. Never pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from retrieval.errors import ModelError
from retrieval.files.tensors import read_metadata, read_tensors
from retrieval.files.whole import whole_file
from retrieval.models.spec import ModelSpec, WeightsRef

FILE_NAME = "model.safetensors"
FORMAT = "retrieval-model-1"
_SPEC_HASH = "spec_sha256"


class HasWeights(Protocol):
    """A network, or anything else that hands out its weights by name."""

    def state_dict(self) -> Mapping[str, Any]: ...


def checkpoint_path(path: str | os.PathLike[str]) -> Path:
    """The checkpoint meant by a path: the file itself, or ``model.safetensors`` (or ``best``) in a run's folder."""
    given = Path(path)
    if given.is_dir():
        for candidate in (given / FILE_NAME, given / "best.safetensors"):
            if candidate.is_file():
                return candidate
        raise ModelError(f"no checkpoint in {given}", f"A model's folder holds {FILE_NAME}.")
    if not given.is_file():
        raise ModelError(f"no checkpoint at {given}")
    return given


def read_spec(path: str | os.PathLike[str]) -> ModelSpec:
    """The specification in a checkpoint; imports no torch. Raises ModelError for a foreign or damaged file."""
    path = checkpoint_path(path)
    return _spec(path, read_metadata(path))


def _spec(path: Path, metadata: Mapping[str, str]) -> ModelSpec:
    if metadata.get("format") != FORMAT or "spec" not in metadata:
        raise ModelError(f"{path} is not a checkpoint of this project", "Foreign checkpoints are converted first.")
    # Checkpoints of earlier versions have no such hash; what has lost its name shows as something unknown.
    written = metadata.get(_SPEC_HASH)
    if written is None and set(metadata) != {"format", "spec"}:
        raise ModelError(f"{path} is damaged: the hash of its specification is missing")
    if written is not None and written != _text_sha256(metadata["spec"]):
        raise ModelError(f"{path} is damaged: its specification does not have the hash written beside it")
    try:
        return ModelSpec.from_dict(json.loads(metadata["spec"]))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: the specification inside is damaged ({error})") from error


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def tensors_sha256(tensors: Mapping[str, Any]) -> str:
    """Hash over names, kinds, shapes and bytes of torch tensors: the same weights give the same digest in any file."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(_byte_type()).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def _byte_type() -> Any:
    import torch

    return torch.uint8


def save_checkpoint(network: HasWeights, spec: ModelSpec, path: str | os.PathLike[str], origin: str = "") -> ModelSpec:
    """Write weights and specification; returns the specification with the weights' true hash. Written atomically."""
    from safetensors.torch import save_file

    path = Path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    spec = replace(spec, weights=WeightsRef(origin or f"checkpoint/{path.stem}", tensors_sha256(tensors)))
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(spec.to_dict(), sort_keys=True)
    metadata = {"format": FORMAT, "spec": text, _SPEC_HASH: _text_sha256(text)}
    try:
        with whole_file(path) as file:
            save_file(tensors, file, metadata=metadata)
    except OSError as error:
        raise ModelError(f"could not write the checkpoint {path}: {error.strerror or error}") from error
    return spec


def load_tensors(path: str | os.PathLike[str]) -> tuple[ModelSpec, dict[str, Any]]:
    """Specification and weights, the hash checked. Raises ModelError when the file is damaged."""
    path = checkpoint_path(path)
    metadata, tensors = read_tensors(path)
    spec = _spec(path, metadata)
    if tensors_sha256(tensors) != spec.weights.sha256:
        raise ModelError(f"{path} is damaged: its weights do not have the hash written in it")
    return spec, tensors

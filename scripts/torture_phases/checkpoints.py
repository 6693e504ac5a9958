"""Damaged checkpoints: read as they were written, or refused by a ModelError. Other numbers than were written are a failure."""

from __future__ import annotations

import functools
import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import ModelError
from torture_phases.base import Outcome, Phase, damaged

KINDS = ("own", "torch zip", "torch before 1.6")


@functools.cache
def originals() -> dict[str, bytes]:
    import torch

    from retrieval.models.checkpoint import save_checkpoint
    from retrieval.models.spec import ImageRule, ModelSpec, WeightsRef

    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.BatchNorm1d(5))
    spec = ModelSpec("resnet18", WeightsRef("torture", ""), {"name": "gem", "p": 3.0}, 512, None, ImageRule(size=64))
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(network, spec, Path(folder) / "model.safetensors")  # type: ignore[arg-type]
        files["own"] = (Path(folder) / "model.safetensors").read_bytes()
    content = {
        "meta": {
            "architecture": "resnet18",
            "mean": [0.1, 0.2, 0.3],
            "Lw": {"set": {"P": np.eye(4), "m": np.ones((4, 1))}},
        },
        "state_dict": network.state_dict(),
        "epoch": 3,
    }
    for name, modern in (("torch zip", True), ("torch before 1.6", False)):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=modern)
        files[name] = buffer.getvalue()
    return files


def loaded(kind: str, path: Path) -> Any:
    """All that is in the file: tensors as bytes, the rest as it is."""
    if kind == "own":
        from retrieval.models.checkpoint import load_tensors, read_spec

        read_spec(path)
        spec, tensors = load_tensors(path)
        return spec.to_dict(), {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
    from retrieval.files.torch_file import read_torch_file

    return plain(read_torch_file(path))


def plain(value: Any) -> Any:
    from retrieval.files.torch_pickle import PickledObject, StoredTensor, as_array

    if isinstance(value, StoredTensor):
        tensor = value.load()
        return (
            str(tensor.dtype),
            tuple(tensor.shape),
            tensor.numpy().tobytes() if tensor.dtype.is_floating_point else repr(tensor),
        )
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, PickledObject):
        return type(value).__name__
    array = as_array(value)
    return repr(value) if array is None else (array.shape, array.tobytes())


@functools.cache
def expected(kind: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pth"
        path.write_bytes(originals()[kind])
        return loaded(kind, path)


def damaged_inside(data: bytes, rng: np.random.Generator) -> tuple[bytes, str]:
    """The archive packed again, with a damaged pickle in it: its checksums are right."""
    buffer = io.BytesIO()
    names = ""
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                content, names = damaged(content, rng)
            new.writestr(entry.filename, content)
    return buffer.getvalue(), f"in its pickle: {names}"


def trial(rng: np.random.Generator, folder: Path) -> Outcome:
    kind, other = (str(rng.choice(KINDS)) for _ in range(2))
    original = originals()[kind]
    inside = kind == "torch zip" and rng.random() < 0.4
    data, damages = damaged_inside(original, rng) if inside else damaged(original, rng, originals()[other])
    path = folder / ("model.safetensors" if kind == "own" else "model.pth")
    path.write_bytes(data)
    try:
        found = loaded(kind, path)
    except ModelError as error:
        if "\n" in str(error) or len(str(error)) > 1000 or "weights_only" in str(error):
            return Outcome("failed", kind, f"{damages}: an error that says {error!s:.200}")
        return Outcome("refused", kind)
    if found == expected(kind):
        return Outcome("read", kind)
    if inside or kind == "torch before 1.6":  # the older layout has no checksums, and here they were written anew
        return Outcome("read with other numbers", kind)
    return Outcome("failed", kind, f"{damages}: read with other numbers than were written")


PHASE = Phase("checkpoints", "own checkpoints, torch files of both layouts", 300, trial)

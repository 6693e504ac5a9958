"""safetensors files that are replaced while they are read."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import pytest
import torch
from safetensors.torch import save_file

from retrieval.errors import ModelError
from retrieval.files import tensors as tensors_file
from retrieval.files.tensors import read_metadata, read_tensors
from retrieval.files.whole import whole_file


def _write(path: Path, version: int) -> None:
    """Versions differ in size and in what they hold: a mixture of two is seen or does not load."""
    tensors = {f"weights{n}": torch.full((4_000 + 100 * version,), float(version)) for n in range(1 + version)}
    with whole_file(path) as file:
        save_file(tensors, file, metadata={"version": str(version)})


def test_a_file_replaced_while_it_is_read_is_still_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    _write(path, 0)
    metadata_of = tensors_file._metadata

    def then_replaced(file: BinaryIO) -> dict[str, str]:
        found = metadata_of(file)
        _write(path, 4)
        return found

    monkeypatch.setattr(tensors_file, "_metadata", then_replaced)
    metadata, tensors = read_tensors(path)
    assert metadata == {"version": "0"}
    assert list(tensors) == ["weights0"]
    assert torch.equal(tensors["weights0"], torch.zeros(4_000))
    monkeypatch.undo()
    metadata, tensors = read_tensors(path)
    assert metadata == {"version": "4"}
    assert len(tensors) == 5
    assert all(torch.equal(t, torch.full((4_400,), 4.0)) for t in tensors.values())


def test_the_metadata_alone(tmp_path: Path) -> None:
    _write(tmp_path / "a", 3)
    assert read_metadata(tmp_path / "a") == {"version": "3"} == read_tensors(tmp_path / "a")[0]


@pytest.mark.parametrize(
    "data",
    [b"", b"\x01", b"\xff" * 40, b"\x02" + bytes(7) + b"[]", (60).to_bytes(8, "little") + b'{"__metadata__": 5}'],
)
def test_files_of_another_kind(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    for read in (read_metadata, read_tensors):
        with pytest.raises(ModelError, match="not a readable safetensors file"):
            read(tmp_path / "a")


def test_a_cut_file_is_damaged(tmp_path: Path) -> None:
    _write(tmp_path / "a", 1)
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:-4])
    with pytest.raises(ModelError, match="is damaged"):
        read_tensors(tmp_path / "a")

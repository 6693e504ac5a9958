"""Checkpoints that were changed on the disk are refused by a ModelError; descriptors have unit length, of any picture."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from few_blocks import NAME as FEW_BLOCKS

from retrieval.describe.model import Model, load_model
from retrieval.engines.base import checked, unit_length
from retrieval.errors import ModelError, UsageError
from retrieval.models.checkpoint import load_tensors, read_spec, save_checkpoint
from retrieval.models.loading import build_network
from retrieval.models.spec import ImageRule, ModelSpec, WeightsRef


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    spec = ModelSpec("resnet18", WeightsRef("x", ""), {"name": "gem", "p": 3.5}, 512, None, ImageRule(size=64))
    save_checkpoint(torch.nn.Linear(3, 2), spec, tmp_path / "model.safetensors")  # type: ignore[arg-type]
    return tmp_path / "model.safetensors"


def test_no_bit_of_a_checkpoint_can_be_changed_unnoticed(checkpoint: Path) -> None:
    data = checkpoint.read_bytes()
    want, tensors = load_tensors(checkpoint)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        checkpoint.write_bytes(changed)
        try:
            spec, found = load_tensors(checkpoint)
        except ModelError:
            continue
        # What it says is still the same: a space became another one, say.
        assert spec == want
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def header(checkpoint: Path) -> tuple[dict[str, dict[str, str]], bytes]:
    data = checkpoint.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def rewrite(checkpoint: Path, form: object, rest: bytes) -> None:
    text = form if isinstance(form, bytes) else json.dumps(form).encode()
    checkpoint.write_bytes(struct.pack("<Q", len(text)) + text + rest)


def test_a_specification_is_read_only_as_it_was_written(checkpoint: Path) -> None:
    form, rest = header(checkpoint)
    metadata = form["__metadata__"]
    changed = metadata | {"spec": metadata["spec"].replace("3.5", "4.5")}
    rewrite(checkpoint, form | {"__metadata__": changed}, rest)
    with pytest.raises(ModelError, match="hash written beside it"):
        read_spec(checkpoint)
    lost = {("spec_sha255" if key == "spec_sha256" else key): value for key, value in changed.items()}
    rewrite(checkpoint, form | {"__metadata__": lost}, rest)
    with pytest.raises(ModelError, match="hash of its specification is missing"):
        read_spec(checkpoint)
    earlier = {key: metadata[key] for key in ("format", "spec")}  # as versions before this one wrote them
    rewrite(checkpoint, form | {"__metadata__": earlier}, rest)
    assert read_spec(checkpoint).pooling["p"] == 3.5


def test_headers_nested_without_end_are_refused(checkpoint: Path) -> None:
    form, rest = header(checkpoint)
    rewrite(checkpoint, b"[" * 500_000, rest)
    with pytest.raises(ModelError):
        read_spec(checkpoint)
    form["__metadata__"]["spec"] = "[" * 500_000
    form["__metadata__"].pop("spec_sha256")
    rewrite(checkpoint, form, rest)
    with pytest.raises(ModelError, match="specification inside is damaged"):
        read_spec(checkpoint)


# ------------------------------------------------------------------------------------------------ unit length

TINY = [(1, 1), (1, 2), (2, 1), (3, 3), (5, 7), (8, 8), (1, 64), (64, 1), (31, 33)]


@pytest.mark.parametrize("scales", [None, (1, 0.7071, 0.5), (0.1, 1)])
@pytest.mark.parametrize("name", [f"{FEW_BLOCKS}-gem@random:0", f"{FEW_BLOCKS}-avg@random:0"])
@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_pictures_of_a_few_pixels_have_descriptors_of_unit_length(
    engine: str, name: str, scales: tuple[float, ...] | None
) -> None:
    assert_unit_length(load_model(name, size=64, scales=scales, engine=engine))


@pytest.mark.parametrize(("engine", "scales"), [("torch", (0.1, 1)), ("torch", None), ("openvino", None)])
def test_so_they_have_of_the_product_s_network(engine: str, scales: tuple[float, ...] | None) -> None:
    assert_unit_length(load_model("efficientnet_lite0-gem", size=64, scales=scales, engine=engine))


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_so_has_a_picture_in_which_nothing_is_seen(engine: str, tmp_path: Path) -> None:
    """All cells zero: GeM gives its least value everywhere, a vector so short that the field's 1e-6 under it counts."""
    spec = load_model(tiny.MODEL).spec
    network = build_network(spec)
    with torch.no_grad():
        network.backbone.body[-2].bias.fill_(-100)  # before the last ReLU
    save_checkpoint(network, spec, tmp_path / "model.safetensors")
    assert_unit_length(load_model(tmp_path / "model.safetensors", size=64, engine=engine))


def assert_unit_length(model: Model) -> None:
    rng = np.random.default_rng(0)
    for height, width in TINY:
        shape = (height, width, 3)
        for picture in (np.zeros(shape), np.full(shape, 255), rng.integers(0, 256, shape)):
            length = np.linalg.norm(model.describe(picture.astype(np.uint8)).astype(np.float64))
            assert length == pytest.approx(1, abs=1e-5)


def test_a_tiny_picture_is_described_as_if_its_pixels_were_larger() -> None:
    model = load_model("efficientnet_lite0-gem", size=64, engine="torch")
    small = np.random.default_rng(1).integers(0, 256, (4, 8, 3)).astype(np.uint8)
    large = np.kron(small, np.ones((8, 8, 1), np.uint8))
    np.testing.assert_array_equal(model.describe(small), model.describe(large))


def test_what_an_engine_is_given_and_gives() -> None:
    assert checked(np.zeros((2, 64, 3, 3), np.uint8)).shape == (2, 64, 3, 3)
    assert checked(np.zeros((2, 20, 30, 3), np.uint8)).shape == (2, 20, 30, 3)
    assert checked(np.zeros((2, 10, 15, 3), np.uint8)).shape == (2, 50, 75, 3)
    for wrong in (np.zeros((2, 64, 64, 3)), np.zeros((64, 64, 3), np.uint8), np.zeros((1, 0, 64, 3), np.uint8)):
        with pytest.raises(UsageError, match="an engine takes uint8"):
            checked(wrong)
    vectors = np.array([[0.6, 0.8], [0.3, 0.4], [0, 0], [np.nan, 1], [1e-30, 0]], np.float32)
    found = unit_length(vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[[0, 1, 2, 4]], [[0.6, 0.8], [0.6, 0.8], [0, 0], [1, 0]], atol=1e-7)
    assert np.isnan(found[3, 0])
    ordinary = np.array([[0.6, 0.800001]], np.float32)
    assert unit_length(ordinary) is ordinary  # not touched in its last digits

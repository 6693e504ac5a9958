"""The weights that come with the package: what they are, that they load, and that damage is seen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import write_pictures

from retrieval.describe.model import Model, load_model
from retrieval.errors import ModelError
from retrieval.files.digest import file_sha256
from retrieval.gallery.gallery import Gallery
from retrieval.models import weights
from retrieval.models.checkpoint import load_tensors
from retrieval.models.loading import build_network
from retrieval.models.registry import BACKBONES, Weights
from retrieval.models.spec import WeightsRef
from retrieval.models.zoo import resolve

NAME = "lite0_instance-gem"
WEIGHTS = BACKBONES["lite0_instance"].weights


@pytest.mark.parametrize("published", [WEIGHTS, *BACKBONES["lite0_instance"].earlier], ids=lambda w: w.id)
def test_the_file_is_the_one_that_the_registry_names(published: Weights) -> None:
    file = weights.weights_file(published)
    assert file_sha256(file) == published.sha256
    assert file.stat().st_size < 10_000_000
    spec, tensors = load_tensors(file)
    assert spec.backbone == "efficientnet_lite0"
    assert {value.dtype for value in tensors.values() if value.is_floating_point()} == {torch.float16}
    assert (file.parent / "lite0_instance.md").is_file()  # licence and sources go along


def test_a_gallery_keeps_the_weights_it_was_made_with(tmp_path: Path) -> None:
    """One made before the weights of this name became others: its specification names the earlier ones."""
    (earlier,) = BACKBONES["lite0_instance"].earlier
    now = load_model(NAME, size=64)
    before = Model(replace(now.spec, weights=WeightsRef(earlier.id, earlier.sha256)))
    assert before.fingerprint != now.fingerprint
    paths = write_pictures(tmp_path / "pictures", 3, sizes=((64, 48),))
    with Gallery.create(tmp_path / "g", before, local=False) as gallery:
        gallery.index([tmp_path / "pictures"])
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.query(paths[1], 1).matches[0].score > 0.99999
        old = gallery.vectors([str(paths[1])])[0]
    assert float(old @ now.describe(paths[1])) < 0.999
    _, stored = load_tensors(weights.weights_file(earlier))
    own = build_network(before.spec).backbone.state_dict()
    name = "body.conv_stem.weight"
    assert torch.equal(own[name], stored[f"backbone.{name}"].float())
    unknown = replace(now.spec, weights=WeightsRef("retrieval/lite0_instance-9", "0" * 64))
    with pytest.raises(ModelError, match="not known here"):
        build_network(unknown)


def test_it_describes_in_float32_with_unit_length_and_not_as_its_origin_does() -> None:
    network, origin = build_network(resolve(NAME)), build_network(resolve("efficientnet_lite0-gem"))
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = network(images), origin(images)
    np.testing.assert_allclose(ours.norm(dim=1).numpy(), 1, atol=1e-5)
    assert float((ours * theirs).sum(dim=1).max()) < 0.999
    _, stored = load_tensors(weights.weights_file(WEIGHTS))
    own = network.backbone.state_dict()
    assert all(
        torch.equal(own[n.removeprefix("backbone.")], v.to(own[n.removeprefix("backbone.")].dtype))
        for n, v in stored.items()
        if n.startswith("backbone.")
    )


def test_damage_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(weights.weights_file(WEIGHTS).read_bytes())
    data[-1] ^= 1
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        load_tensors(broken)
    monkeypatch.setattr("retrieval.models.zoo.weights_file", lambda _: broken)
    with pytest.raises(ModelError, match="is damaged"):
        load_model(NAME)

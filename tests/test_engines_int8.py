"""The network in 8 bits: what it loses is measured, said and kept within bounds; a gallery keeps its own int8 model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import openvino
import pytest
from click.testing import CliRunner
from fakes import write_pictures
from narrow import use_narrow

from retrieval.cli.main import cli
from retrieval.describe.model import Model, load_model
from retrieval.engines.base import EngineUnavailable
from retrieval.engines.choose import create_engine
from retrieval.engines.loss import compare
from retrieval.errors import ModelError, UsageError
from retrieval.gallery.gallery import Gallery
from retrieval.system.processor import has_vnni


@pytest.fixture(autouse=True)
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    use_narrow(monkeypatch)


def test_the_loss_by_hand() -> None:
    angles = np.radians([0, 10, 25, 90])
    exact = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    turned = angles + np.radians([0, 0, 60, 0])  # the third goes from 25 to 85 degrees
    loss = compare(exact.astype(np.float32), np.stack([np.cos(turned), np.sin(turned)], axis=1).astype(np.float32))
    assert loss.pictures == 4
    assert loss.least_cosine == pytest.approx(0.5, abs=1e-6)
    assert loss.mean_cosine == pytest.approx((3 + 0.5) / 4, abs=1e-6)
    assert loss.overlap == 1.0  # with four pictures all others are neighbours
    many = np.eye(40)
    shuffled = compare(many + 0.3 * np.roll(many, 1, axis=0), many + 0.3 * np.roll(many, 1, axis=0))
    assert shuffled.overlap == 1.0
    rng = np.random.default_rng(0)
    unrelated = compare(*(v / np.linalg.norm(v, axis=1, keepdims=True) for v in rng.standard_normal((2, 200, 16))))
    assert unrelated.overlap < 0.15  # 10 of 199 by chance


def test_int8_needs_pictures_and_openvino(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path, 8)
    with pytest.raises(UsageError, match="at least 16"):
        load_model("resnet18-gem@random:0").quantise(paths, tmp_path / "int8")
    with pytest.raises(UsageError, match="openvino alone"):
        load_model("resnet18-gem@random:0", engine="torch").quantise(paths * 4, tmp_path / "int8")
    with pytest.raises(UsageError, match="openvino alone"):
        create_engine(load_model("resnet18-gem@random:0").spec, "torch", quantised=tmp_path)
    with pytest.raises(ModelError, match="cannot be read"):
        create_engine(load_model("resnet18-gem@random:0").spec, quantised=tmp_path)


def test_int8_without_openvino_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(EngineUnavailable, match="pip install openvino"):
        create_engine(load_model("resnet18-gem@random:0").spec, quantised=tmp_path)


@pytest.mark.slow
def test_a_gallery_in_int8_from_beginning_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow: a network is quantised, by nncf with its imports."""
    model = "resnet18-gem@random:0"
    paths = write_pictures(tmp_path / "pictures", 24, sizes=((96, 64), (64, 96)))
    gallery = tmp_path / "gallery"

    def run(*arguments: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(cli, [*arguments, "--index", str(gallery)], standalone_mode=False)
        return (done.exit_code if done.exception is None else -1), done.stdout, done.stderr + str(done.exception or "")

    status, _, said = run("index", str(tmp_path / "pictures"), "--model", model, "--precision", "int8")
    assert status == 0, said
    assert "int8 against fp32 on 12 pictures: cosine 0.9" in said
    assert json.loads((gallery / "gallery.json").read_text())["precision"] == "int8"
    assert json.loads(run("info", "--format", "json")[1])["precision"] == "int8"

    with monkeypatch.context() as elsewhere:  # the gallery has what it needs
        elsewhere.setenv("RETRIEVE_CACHE", str(tmp_path / "empty"))
        status, found, said = run("query", str(paths[3]), "--format", "json")
    assert status == 0, said
    first = json.loads(found)["results"][0]
    assert first["path"].endswith(paths[3].name)
    assert first["score"] > 0.99999  # the same int8 model
    assert list((tmp_path / "empty").glob("engines/*"))
    assert not list((tmp_path / "empty").glob("engines/*/model.xml"))

    with Gallery.open(gallery) as opened:
        records = opened.records()
        stored = opened.vectors_of([record for _, record in records])
    exact = load_model(model, engine="torch").describe([Path(path) for path, _ in records])
    cosines = (stored * exact).sum(1)
    assert cosines.min() > 0.97  # close to float32, and not float32 itself
    assert cosines.max() < 0.999999

    # A model of 8-bit weights is for processors with VNNI: elsewhere the network it was made of answers, which is near.
    assert (gallery / "int8" / "wide.txt").is_file() == has_vnni()
    if has_vnni():
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr("retrieval.engines.choose.has_vnni", lambda: False)
            status, found, said = run("query", str(paths[3]), "--format", "json")
            assert status == 0, said
            assert "one has none" in said
            assert json.loads(found)["results"][0]["path"] == first["path"]
            assert 0.97 < json.loads(found)["results"][0]["score"] < 0.999999

    assert "described with int8" in run("index", "--precision", "fp32")[2]
    assert "openvino alone" in run("query", str(paths[3]), "--engine", "torch")[2]
    weights = gallery / "int8" / "model.bin"
    monkeypatch.setenv("RETRIEVE_CACHE", str(tmp_path / "another"))
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "int8 model in" in run("query", str(paths[3]))[2]


def int8_weights(folder: Path) -> list[np.ndarray]:
    model = openvino.Core().read_model(folder / "model.xml")
    constants = [op.data for op in model.get_ordered_ops() if op.get_type_name() == "Constant"]
    return [values.astype(int) for values in constants if values.dtype == np.int8 and values.ndim == 4]


@pytest.mark.slow
def test_without_vnni_weights_have_seven_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And with it eight. What loses too much is kept where that is asked for. Slow: as above."""
    monkeypatch.setattr("retrieval.engines.loss.LEAST_COSINE", 0.99999999)
    paths = write_pictures(tmp_path / "pictures", 16, sizes=((64, 64),))
    model: Model = load_model("resnet18-gem@random:0")
    for vnni in (False, True):
        monkeypatch.setattr("retrieval.engines.openvino.quantise.has_vnni", lambda vnni=vnni: vnni)
        folder = tmp_path / f"int8-{vnni}"
        loss = model.quantise(paths, folder, refuse=False).loss
        assert loss is not None
        assert loss.pictures == 8
        assert (folder / "wide.txt").exists() == vnni
        weights = int8_weights(folder)
        assert len(weights) > 10
        assert (max(np.abs(values).max() for values in weights) > 64) == vnni


@pytest.mark.slow
def test_a_model_that_loses_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow: as above."""
    monkeypatch.setattr("retrieval.engines.loss.LEAST_COSINE", 0.99999999)
    paths = write_pictures(tmp_path / "pictures", 16, sizes=((64, 64),))
    said: list[str] = []
    with pytest.raises(ModelError, match="loses too much"):
        load_model("resnet18-gem@random:0").quantise(paths, tmp_path / "int8", say=said.append)
    assert "cosine" in said[-1]
    assert not (tmp_path / "int8").exists()

"""Token Pooling as part of a model: schedules in words, the reduced transformer against the pooled one, engines, commands."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from click.testing import CliRunner
from converted import CHECKED, compiled_graph
from evaluation_set import make_set
from fakes import write_pictures
from torch import nn

from retrieval.backends.served import ServedGallery
from retrieval.cli.main import cli
from retrieval.describe.model import Model, load_model
from retrieval.engines.base import checked
from retrieval.engines.choose import create_engine
from retrieval.errors import GalleryMismatch, GalleryMissing, RetrievalError, UsageError
from retrieval.gallery.gallery import Gallery
from retrieval.models.backbones import _FAMILIES, TimmViT, TorchvisionViT
from retrieval.models.checkpoint import save_checkpoint
from retrieval.models.loading import build_network
from retrieval.models.network import Describer
from retrieval.models.registry import BACKBONES
from retrieval.models.token_reduction import cost_of, token_schedule
from retrieval.pooling.schedules import METHODS, TokenSchedule, kept, read_schedule
from retrieval.pooling.vit import TokenPooledViT

DEPTH, SHAPES = 3, [(64, 64), (100, 36), (44, 133), (5, 7)]
DEIT = {"depth": 12, "dim": 384, "patch": 16, "patches": 196, "prefix": 1}


class SmallTimm(TimmViT):
    def __init__(self, info: Any) -> None:
        nn.Module.__init__(self)
        self.info = info
        self.body = timm.models.vision_transformer.VisionTransformer(
            img_size=64, patch_size=8, embed_dim=24, depth=DEPTH, num_heads=3, num_classes=0, global_pool="", reg_tokens=2,
            init_values=0.5, dynamic_img_size=True,
        )  # fmt: skip
        _strengthen(self, self.body.pos_embed)


class SmallTorchvision(TorchvisionViT):
    def __init__(self, info: Any) -> None:
        nn.Module.__init__(self)
        self.info = info
        self.body = torchvision.models.VisionTransformer(64, 8, DEPTH, 3, 24, 96)
        self.body.heads = nn.Identity()
        _strengthen(self, self.body.encoder.pos_embedding)


@torch.no_grad()
def _strengthen(module: nn.Module, positions: torch.Tensor) -> None:
    """Attention that is not uniform, positions that matter."""
    for parameter in module.parameters():
        if parameter.ndim == 2:
            parameter.mul_(4)
    nn.init.normal_(positions, std=0.5)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``small_timm`` and ``small_torchvision`` as backbones, and a cache of one's own."""
    monkeypatch.setenv("RETRIEVE_CACHE", str(tmp_path / "cache"))
    for name, family, prefix in (("small_timm", SmallTimm, 3), ("small_torchvision", SmallTorchvision, 1)):
        monkeypatch.setitem(_FAMILIES, name, family)
        info = replace(
            BACKBONES["deit_tiny"], name=name, family=name, dim=24, stride=8, prefix=prefix, size=64, depth=DEPTH
        )
        monkeypatch.setitem(BACKBONES, name, info)


def pictures(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height * width)
    coarse = np.kron(rng.integers(0, 256, (1, -(-height // 20), -(-width // 20), 3)), np.ones((1, 20, 20, 1)))
    return np.clip(coarse[:, :height, :width] + rng.integers(-40, 40, (1, height, width, 3)), 0, 255).astype(np.uint8)


# -- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["4:0.37", "4:0.5+8:0.25", "1:0.001", "11:0.999", "4:0.37+topk", "3:0.5+weighted-kmeans"]
)
def test_a_schedule_is_what_its_words_say(text: str) -> None:
    schedule = read_schedule(text, **DEIT)
    assert str(schedule) == text
    assert read_schedule(str(schedule), **DEIT) == schedule


def test_counts_hold_for_every_number_of_patches() -> None:
    schedule = TokenSchedule(((2, 500), (5, 250)))
    assert schedule.counts(100, 3, 6) == [None, 53, None, None, 28, None]
    assert schedule.counts(1, 1, 6) == [None, 2, None, None, 2, None]
    for patches in range(1, 400):
        for share in (1, 70, 333, 372, 999):
            assert kept(patches, share) == -(-patches * share // 1000)
            assert int(kept(torch.tensor(patches), share)) == kept(patches, share)


def test_kmeans_written_out_is_the_usual_method() -> None:
    assert str(read_schedule("kmeans+4:.50", **DEIT)) == "4:0.5"


@pytest.mark.parametrize("percent", [10, 42, 55, 70])
def test_a_percentage_saves_so_much_and_hardly_more(percent: int) -> None:
    """By the library's own count of the real network, which is tested against the closed form and the layers."""
    for name in ("deit_small-cls@random:0", "dinov2_vits14-cls@random:0", "vit_b_32-cls@random:0"):
        cost = cost_of(load_model(name, tokens=f"{percent}%").spec)
        saved = 100 * (1 - cost.network / cost.whole)
        assert percent <= saved < percent + 3  # a patch is 1 % of vit_b_32's
        assert cost.own > 0
    assert cost_of(load_model(name).spec).whole == cost.whole
    assert cost_of(load_model(name).spec).own == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no part"),
        ("fast", "no part"),
        ("4:1.5", "no part"),
        ("4:0.5+kmeans+topk", "no part"),
        ("kmeans", "one of both"),
        ("42%+4:0.5", "one of both"),
        ("0:0.5", "rise from 1 to 11"),
        ("12:0.5", "rise from 1 to 11"),
        ("5:0.5+4:0.4", "rise"),
        ("4:0.5+5:0.6", "fall"),
        ("4:1", "fall"),
        ("4:0.0", "fall"),
        ("95%", "saves 95 %"),
    ],
)
def test_a_wrong_schedule_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_schedule(text, **DEIT)


def test_a_network_without_tokens_has_no_schedule() -> None:
    with pytest.raises(UsageError, match="no tokens"):
        load_model("resnet18-gem@random:0", tokens="42%")
    with pytest.raises(UsageError, match="no tokens"):
        load_model("resnet18-gem:tokens=42%@random:0")


# -- the network -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["1:0.4", "1:0.5+2:0.2", *(f"1:0.6+2:0.3+{method}" for method in METHODS[1:])])
@pytest.mark.parametrize("name", ["small_timm", "small_torchvision"])
@torch.no_grad()
def test_the_reduced_backbone_is_the_pooled_transformer(name: str, words: str) -> None:
    """At the trained size, where TokenPooledViT runs the library's own forward pass with hooks."""
    network = build_network(load_model(f"{name}-mean@random:0", tokens=words).spec)
    backbone = network.backbone
    schedule = token_schedule(backbone.info, words, 64)
    assert backbone.schedule == schedule
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    got = backbone(images)
    counts = schedule.counts(64, backbone.info.prefix, DEPTH)
    start = "significant" if schedule.significant else "spaced"
    pooled = TokenPooledViT(backbone.body, counts, schedule.method, start=start)
    torch.testing.assert_close(got, pooled.tokens(images), atol=1e-5, rtol=1e-5)
    assert got.shape[1] == [k for k in counts if k][-1]
    backbone.schedule = None
    assert backbone(images).shape[1] == 64 + backbone.info.prefix


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *(("small_timm", f"1:0.5+2:0.3+{method}") for method in METHODS),
        *(("small_torchvision", f"1:0.5+{method}") for method in METHODS),
    ],
)
def test_openvino_reduces_as_torch_does(name: str, words: str) -> None:
    model = load_model(f"{name}-cls-mean@random:0", tokens=words)
    describer = Describer(build_network(model.spec), model.spec.image).eval()
    compiled = compiled_graph(describer)
    for height, width in [*SHAPES, *CHECKED]:
        images = checked(pictures(height, width))
        with torch.no_grad():
            wanted = describer(torch.from_numpy(images)).double().numpy()[0]
        got = compiled(images)[0][0]
        assert got @ wanted / np.linalg.norm(wanted) > 1 - 1e-6
        np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_the_engine_reduces_too() -> None:
    """By the graph of the test above, which passes its own check."""
    model = load_model("small_timm-cls-mean@random:0", tokens="1:0.5")
    describer = Describer(build_network(model.spec), model.spec.image).eval()
    with torch.no_grad():
        wanted = describer(torch.from_numpy(pictures(100, 36))).numpy()
    np.testing.assert_allclose(create_engine(model.spec, "openvino").describe(pictures(100, 36)), wanted, atol=1e-4)


def test_attention_that_is_looked_at_is_optional_for_clustering() -> None:
    """The spaced start costs no products of queries and keys."""
    body = build_network(load_model("small_timm-cls@random:0").spec).backbone.body
    spaced, significant = (TokenPooledViT(body, [20, None, None], "kmeans", start=s) for s in ("spaced", "significant"))
    assert significant.flops(64).clustering[0] - spaced.flops(64).clustering[0] == 67 * 67 * 24


# -- the model -------------------------------------------------------------------------------------------------------


def test_the_schedule_is_part_of_the_name_and_the_fingerprint() -> None:
    plain = load_model("small_timm-mean@random:0")
    model = load_model("small_timm-mean@random:0", tokens="30%")
    assert model.spec.name.startswith("small_timm-mean:tokens=1:0.")
    assert (
        len({plain.fingerprint, model.fingerprint, load_model("small_timm-mean@random:0", tokens="1:0.9").fingerprint})
        == 3
    )
    assert load_model(model.spec.name).fingerprint == model.fingerprint
    assert load_model("small_timm-mean:tokens=30%@random:0").fingerprint == model.fingerprint
    assert type(model.spec).from_dict(model.spec.to_dict()) == model.spec
    assert load_model("deit_small-cls@random:0").fingerprint == "00372169ad29f682"  # as before there were schedules


def test_a_checkpoint_takes_a_schedule(tmp_path: Path) -> None:
    plain = load_model("small_timm-mean@random:3")
    save_checkpoint(build_network(plain.spec), plain.spec, tmp_path / "model.safetensors")
    image = pictures(64, 48)[0]
    reduced = load_model(tmp_path / "model.safetensors", tokens="1:0.5", engine="torch")
    wanted = load_model("small_timm-mean@random:3", tokens="1:0.5", engine="torch")
    np.testing.assert_allclose(reduced.describe(image), wanted.describe(image), atol=1e-6)
    assert abs(reduced.describe(image) - plain.describe(image)).max() > 1e-3


# -- commands --------------------------------------------------------------------------------------------------------


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: str) -> RetrievalError:
    error = CliRunner().invoke(cli, list(arguments)).exception
    assert isinstance(error, RetrievalError)
    return error


def test_a_gallery_made_with_a_schedule_is_asked_with_it(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "photos", 6)
    gallery = str(tmp_path / "gallery")
    made = ("index", str(tmp_path / "photos"), "--index", gallery, "--no-local", "--model", "small_timm-mean@random:0")
    assert "multiplications saved" in run(*made, "--tokens", "1:0.5").stderr
    model = load_model("small_timm-mean@random:0", tokens="1:0.5")
    with Gallery.open(gallery) as opened:
        assert opened.spec == model.spec.with_image()
        for path in paths:
            match = opened.query(str(path), k=1).matches[0]
            assert match.score == pytest.approx(1, abs=1e-4)
    run("index", "--index", gallery, "--tokens", "1:0.5")
    run(*made, "--tokens", "1:0.5")
    for other in (("--tokens", "1:0.4"), ("--model", "small_timm-mean@random:0", "--tokens", "2:0.5")):
        error = refused("index", "--index", gallery, *other)
        assert isinstance(error, GalleryMismatch)
        assert "tokens=1:0.5" in str(error)
    found = run("query", str(paths[0]), "--index", gallery, "--format", "paths", "-k", "1").stdout
    assert found.strip().endswith(paths[0].name)
    assert "no part of a schedule" in str(refused(*made[:2], "--index", f"{gallery}2", *made[4:], "--tokens", "x"))


def test_a_gallery_that_is_made_on_a_server_gets_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pictures(tmp_path / "photos", 1)
    made: list[Model] = []

    class Made(Exception):
        pass

    def no_gallery(address: str, **options: Any) -> ServedGallery:
        raise GalleryMissing("there is none")

    def create(address: str, model: Model, **options: Any) -> ServedGallery:
        made.append(model)
        raise Made

    monkeypatch.setattr(ServedGallery, "open", no_gallery)
    monkeypatch.setattr(ServedGallery, "create", create)
    asked = ["--model", "small_timm-cls@random:0", "--tokens", "2:0.5", "--index", "postgresql://host/base/name"]
    result = CliRunner().invoke(cli, ["index", str(tmp_path / "photos"), *asked])
    assert isinstance(result.exception, Made), result.output
    assert made[0].fingerprint == load_model("small_timm-cls@random:0", tokens="2:0.5").fingerprint
    assert made[0].fingerprint != load_model("small_timm-cls@random:0").fingerprint


def test_parts_carry_the_schedule(tmp_path: Path) -> None:
    write_pictures(tmp_path / "photos", 4)
    parts = str(tmp_path / "parts")
    run(
        "describe",
        str(tmp_path / "photos"),
        "--out",
        parts,
        "--no-local",
        "--model",
        "small_timm-mean@random:0",
        "--tokens",
        "1:0.5",
    )
    run("index", parts, "--index", str(tmp_path / "gallery"))
    with Gallery.open(tmp_path / "gallery") as opened:
        assert opened.spec.name == "small_timm-mean:tokens=1:0.5@random:0"
    error = refused("index", parts, "--index", str(tmp_path / "other"), "--tokens", "1:0.5")
    assert "Leave out --tokens" in str(error.hint)


def test_speed_is_measured_with_the_schedule(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)  # otherwise 32 of a megapixel are drawn
    seen = []

    def benchmark_speed(model: Any, *_: Any, **__: Any) -> Any:
        from retrieval.benchmarks.speed.results import SpeedReport

        seen.append(model.spec.name)
        return SpeedReport([], {"model": "", "processor": "", "cores": 1, "threads": 1})

    monkeypatch.setattr("retrieval.benchmarks.speed.run.benchmark_speed", benchmark_speed)
    run(
        "benchmark",
        "speed",
        "--model",
        "small_timm-cls",
        "--random-weights",
        "--tokens",
        "1:0.5",
        "--images",
        str(tmp_path),
    )
    assert seen == ["small_timm-cls:tokens=1:0.5@random:0"]


# -- the comparison --------------------------------------------------------------------------------------------------


def test_schedules_and_methods_are_compared_on_a_set(tmp_path: Path) -> None:
    truth = make_set(tmp_path / "set", objects=3)
    saved = tmp_path / "rows.json"
    name = "small_timm-mean@random:0"
    options = (
        "--schedules",
        "1:0.5,1:0.2",
        "--methods",
        "kmeans,topk",
        "--engine",
        "torch",
        "--count",
        "3",
        "--rounds",
        "2",
    )
    done = run(
        "benchmark",
        "tokens",
        str(tmp_path / "set" / "groundtruth.json"),
        "--model",
        name,
        *options,
        "--save",
        str(saved),
    )
    rows = json.loads(saved.read_text())["rows"]
    assert [(row["schedule"], row["method"]) for row in rows] == [
        ("", ""), ("1:0.5", "kmeans"), ("1:0.5", "topk"), ("1:0.2", "kmeans"), ("1:0.2", "topk")
    ]  # fmt: skip
    assert len(done.stdout.splitlines()) == 6
    whole = rows[0]
    assert (whole["saved"], whole["saved_in_all"], whole["ratio"]) == (0, 0, 1)
    assert whole["cosine"] == pytest.approx(1)
    block, embedding = [12 * 24**2 * n + 2 * 24 * n**2 for n in (67, 35)], 3 * 64 * 24 * 64
    assert rows[1]["saved"] == pytest.approx(2 * (block[0] - block[1]) / (3 * block[0] + embedding))
    plain = load_model(name, engine="torch")
    reduced = load_model(name, tokens="1:0.2+topk", engine="torch")
    pictures_ = [str(truth.root / path) for path in truth.gallery]
    for model, row in ((plain, whole), (reduced, rows[4])):
        assert row["saved_in_all"] <= row["saved"]
        assert row["milliseconds"] > 0
        assert row["ratio_least"] <= row["ratio"] <= row["ratio_most"]
        assert -1 <= row["least_cosine"] <= row["cosine"] <= 1 + 1e-9
        gallery = model.describe(pictures_).astype(float)
        precisions = []
        for query in truth.queries:  # average precision by its definition, the medium protocol
            order = np.argsort(-(gallery @ model.describe(str(truth.root / query.image), query.bbox).astype(float)))
            ranked = [truth.gallery[i] for i in order if truth.gallery[i] not in query.junk]
            places = [i for i, path in enumerate(ranked) if path in query.easy + query.hard]
            before = [(k / place if place else 1.0, (k + 1) / (place + 1)) for k, place in enumerate(places)]
            precisions.append(np.mean([(a + b) / 2 for a, b in before]))
        assert row["mean_ap"] == pytest.approx(np.mean(precisions))


def test_a_comparison_without_a_set_draws_its_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    options = ("--schedules", "1:0.5", "--count", "2", "--rounds", "1", "--format", "json", "--engine", "torch")
    rows = run("benchmark", "tokens", "--model", "small_timm-cls@random:0", *options).stdout.splitlines()
    assert [json.loads(row)["mean_ap"] for row in rows] == [None, None]
    assert "no vision transformer" in str(refused("benchmark", "tokens"))
    assert "no tokens" in str(refused("benchmark", "tokens", "--model", "resnet18-gem@random:0", "--count", "1"))
    named = ("benchmark", "tokens", "--model", "small_timm-cls:tokens=1:0.5@random:0", "--count", "1")
    monkeypatch.setattr("retrieval.benchmarks.speed.pictures.draw_pictures", None)  # refused before any is drawn
    assert "already" in str(refused(*named))
    assert "no method" in str(refused("benchmark", "tokens", "--model", "small_timm-cls@random:0", "--methods", "x"))

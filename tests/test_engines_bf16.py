"""The backbone in bfloat16: nothing else is, what it loses is measured and said, and any machine can ask such a gallery."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from click.testing import CliRunner
from fakes import write_pictures
from torch import nn

from retrieval.cli.main import cli
from retrieval.describe.model import Model, load_model
from retrieval.engines import choose, half
from retrieval.engines.base import Engine
from retrieval.engines.openvino import tail
from retrieval.engines.openvino.prepared import load_model as converted
from retrieval.errors import UsageError
from retrieval.gallery.gallery import Gallery
from retrieval.models.checkpoint import save_checkpoint
from retrieval.models.loading import build_network
from retrieval.system import processor
from retrieval.system.processor import has_bf16

MODEL = "tiny-gem@random:0"
HAS = has_bf16()
able = pytest.mark.skipif(not HAS, reason="this processor has no instructions for bfloat16")


@pytest.fixture(scope="module")
def whitened(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Tiny with a linear layer and a whitening of random matrices."""
    torch.manual_seed(1)
    model = load_model(MODEL)
    network = build_network(model.spec)
    network.fc, network.whitening = nn.Linear(32, 20), nn.Linear(20, 12)
    spec = replace(model.spec, dim=12, whitening={"kind": "learned", "dim": 12, "fc": {"kind": "fc", "dim": 20}})
    path = tmp_path_factory.mktemp("whitened") / "model.safetensors"
    save_checkpoint(network, spec, path)
    return load_model(path)


@pytest.fixture(params=[MODEL, "whitened"])
def model(request: pytest.FixtureRequest, whitened: Model) -> Model:
    return whitened if request.param == "whitened" else load_model(request.param)


def pictures(count: int = 3) -> np.ndarray:
    rng = np.random.default_rng(2)
    return np.kron(rng.integers(0, 256, (count, 9, 12, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)


def test_whitening_as_a_sum_is_the_same_whitening(whitened: Model) -> None:
    graph = converted(whitened.spec, whitened.checkpoint, print)
    tail.keep_float32_after_backbone(graph)
    assert not [node for node in graph.get_ops() if node.get_type_name() == "MatMul"]
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for picture, wanted in zip(pictures(), whitened.describe(list(pictures())), strict=True):
        np.testing.assert_allclose(compiled(picture[None])[0][0], wanted, atol=1e-6)


@able
def test_only_the_backbone_is_in_bfloat16(model: Model) -> None:
    graph = converted(model.spec, model.checkpoint, print)
    tail.keep_float32_after_backbone(graph)
    compiled = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    precisions: list[tuple[str, str]] = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        told = node.get_rt_info()
        precisions.append((str(told["layerType"].value), str(told["runtimePrecision"].value)))
    kinds = [kind for kind, _ in precisions]
    last = len(kinds) - 1 - kinds[::-1].index("Convolution")
    assert {precision for kind, precision in precisions if kind == "Convolution"} == {"bf16"}
    assert {precision for kind, precision in precisions[last + 1 :] if kind not in ("Const", "Reorder")} == {"f32"}
    assert "FullyConnected" not in kinds


@able
@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_descriptors_are_near_float32_and_not_float32(model: Model, engine: str) -> None:
    rough = choose.create_engine(model.spec, engine, model.checkpoint, precision="bf16").describe(pictures())
    exact = choose.create_engine(model.spec, engine, model.checkpoint).describe(pictures())
    cosines = (rough.astype(np.float64) * exact).sum(1)
    assert 0.995 < cosines.min() <= cosines.max() < 1 - 1e-9
    np.testing.assert_allclose(np.linalg.norm(rough, axis=1), 1, atol=1e-5)  # bfloat16 would be 4e-3 off


@able
def test_bfloat16_in_torch_is_what_rounded_weights_and_maps_give() -> None:
    """A second implementation: weights, and the result of each layer, rounded to eight bits of mantissa."""
    model = load_model(MODEL)
    network = build_network(model.spec).eval()
    engine = choose.create_engine(model.spec, "torch", precision="bf16")
    rows = []
    for picture in pictures():
        x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
        x = (x - torch.tensor(model.spec.image.mean).view(1, 3, 1, 1)) / torch.tensor(model.spec.image.std).view(
            1, 3, 1, 1
        )
        layers = list(network.backbone.body)  # type: ignore[arg-type]
        for i in range(0, len(layers), 3):
            conv, norm = layers[i], layers[i + 1]
            factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            weight = (conv.weight * factor.view(-1, 1, 1, 1)).bfloat16().float()
            x = nn.functional.conv2d(x.bfloat16().float(), weight, None, 2, 1)
            x = torch.relu((x + (norm.bias - norm.running_mean * factor).view(1, -1, 1, 1)).bfloat16().float())
        pooled = x.clamp(min=1e-6).double().pow(3).mean((2, 3)).pow(1 / 3)
        rows.append((pooled / pooled.norm()).detach().numpy()[0])
    cosines = (engine.describe(pictures()) * np.stack(rows)).sum(1)
    exact = (choose.create_engine(model.spec, "torch").describe(pictures()) * np.stack(rows)).sum(1)
    assert cosines.min() > 1 - 2e-6
    assert exact.max() < cosines.min()  # float32 is farther from it


def run(gallery: Path, *arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, [*arguments, "--index", str(gallery)], standalone_mode=False)
    return (done.exit_code if done.exception is None else -1), done.stdout, done.stderr + str(done.exception or "")


def as_if(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    """A processor that has these instructions, or none. OpenVINO may end the process where it is asked for what there is not."""
    if has and not HAS:
        pytest.skip("this processor has no instructions for bfloat16")
    for name in ("retrieval.engines.choose.has_bf16", "retrieval.engines.half.has_bf16"):
        monkeypatch.setattr(name, lambda: has)
    monkeypatch.setattr("retrieval.system.processor.has_bf16", lambda: has)


def test_a_gallery_in_bf16_and_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_if(monkeypatch, True)
    paths = write_pictures(tmp_path / "pictures", 20, sizes=((96, 64), (64, 96)))
    gallery = tmp_path / "gallery"
    status, _, said = run(gallery, "index", str(tmp_path / "pictures"), "--model", MODEL, "--precision", "bf16")
    assert status == 0, said
    assert "bf16 against fp32 on 20 pictures: cosine" in said
    description = json.loads((gallery / "gallery.json").read_text())
    assert description["precision"] == "bf16"
    assert description["precision_loss"]["pictures"] == 20
    told = json.loads(run(gallery, "info", "--format", "json")[1])
    assert (told["precision"], told["precision_loss"]["precision"]) == ("bf16", "bf16")
    assert "bf16 (cosine to fp32 " in run(gallery, "info")[1]

    def first() -> dict[str, object]:
        status, found, said = run(gallery, "query", str(paths[3]), "--format", "json")
        assert status == 0, said
        result: dict[str, object] = json.loads(found)["results"][0]
        return result

    same = first()
    assert str(same["path"]).endswith(paths[3].name)
    assert float(str(same["score"])) > 0.99999  # the same bits on both sides

    as_if(monkeypatch, False)  # the gallery is carried to a machine that has no such instructions
    with Gallery.open(gallery) as opened:
        engine: Engine = opened.model.engine()
        assert engine.precision == "fp32"  # type: ignore[attr-defined]
        assert opened.model.precision == "bf16"
    elsewhere = first()
    assert str(elsewhere["path"]).endswith(paths[3].name)
    assert float(str(elsewhere["score"])) > 0.99
    write_pictures(tmp_path / "pictures", 22, sizes=((96, 64), (64, 96)))
    assert run(gallery, "index")[0] == 0  # and grows there
    assert "described with bf16" in run(gallery, "index", "--precision", "int8")[2]
    assert run(gallery, "index", "--precision", "auto")[0] == 0


def test_without_the_instructions_it_is_refused_and_auto_is_fp32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if(monkeypatch, False)
    write_pictures(tmp_path / "pictures", 16)
    asked = ("index", str(tmp_path / "pictures"), "--model", MODEL, "--precision")
    status, _, said = run(tmp_path / "a", *asked, "bf16")
    assert status == -1
    assert "no instructions for bfloat16" in said
    assert not (tmp_path / "a").exists()
    assert run(tmp_path / "b", *asked, "auto")[0] == 0
    assert json.loads((tmp_path / "b" / "gallery.json").read_text())["precision"] == "fp32"


def test_a_small_folder_is_measured_on_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_if(monkeypatch, True)
    write_pictures(tmp_path / "few", 3)
    write_pictures(tmp_path / "many", 17, seed=1)
    asked = ("index", str(tmp_path / "few"), "--model", MODEL)
    status, _, said = run(tmp_path / "a", *asked, "--precision", "bf16")
    assert (status, "at least 16 pictures, and 3" in said) == (-1, True)
    assert not (tmp_path / "a").exists()
    assert run(tmp_path / "a", *asked, "--precision", "bf16", "--calibrate-on", str(tmp_path / "many"))[0] == 0
    description = json.loads((tmp_path / "a" / "gallery.json").read_text())
    assert (description["precision"], description["precision_loss"]["pictures"]) == ("bf16", 17)
    assert "goes with --precision" in run(tmp_path / "b", *asked, "--calibrate-on", str(tmp_path / "many"))[2]
    assert "there is no" in run(tmp_path / "b", *asked, "--precision", "bf16", "--calibrate-on", str(tmp_path / "x"))[2]
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("least", "count", "wanted"), [(0.9, 16, "bf16"), (1.1, 16, "fp32"), (0.9, 15, "fp32")])
def test_auto_takes_what_was_measured_to_be_harmless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float, count: int, wanted: str
) -> None:
    as_if(monkeypatch, True)
    monkeypatch.setattr("retrieval.engines.loss.HARMLESS_COSINE", least)
    monkeypatch.setattr("retrieval.engines.loss.HARMLESS_OVERLAP", 0.5)
    write_pictures(tmp_path / "pictures", count)
    status, _, said = run(
        tmp_path / "gallery", "index", str(tmp_path / "pictures"), "--model", MODEL, "--precision", "auto"
    )
    assert status == 0, said
    assert json.loads((tmp_path / "gallery" / "gallery.json").read_text())["precision"] == wanted
    assert wanted in said


def test_a_library_asks_for_a_precision_as_the_command_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_if(monkeypatch, True)
    paths = write_pictures(tmp_path / "pictures", 16)
    for name, where in (("files", paths), ("folder", [tmp_path / "pictures"])):
        with Gallery.create(tmp_path / name, load_model(MODEL), precision="bf16", calibrate_on=where) as gallery:
            assert gallery.model.precision == "bf16"
            assert gallery.model.loss is not None
            assert gallery.model.loss.pictures == 16
    with pytest.raises(UsageError, match="precision is one of"):
        Gallery.create(tmp_path / "c", load_model(MODEL), precision="fp8", calibrate_on=paths)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="at least 16 pictures, and 0"):
        Gallery.create(tmp_path / "c", load_model(MODEL), precision="bf16")
    assert not (tmp_path / "c").exists()


def test_a_loss_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_if(monkeypatch, True)
    monkeypatch.setattr("retrieval.engines.loss.LEAST_COSINE", 1.1)
    write_pictures(tmp_path / "pictures", 16)
    status, _, said = run(
        tmp_path / "gallery", "index", str(tmp_path / "pictures"), "--model", MODEL, "--precision", "bf16"
    )
    assert status == -1
    assert "bf16 loses too much" in said
    assert not (tmp_path / "gallery").exists()


@pytest.mark.skipif(platform.system() != "Linux", reason="the processor's abilities are read from /proc")
@pytest.mark.skipif(bool(processor._level()), reason="OpenVINO tells what there is, and we what oneDNN may use")
def test_what_openvino_says_of_the_processor() -> None:
    if platform.machine() == "x86_64":
        assert has_bf16() == ("BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    assert half.has_bf16 is has_bf16


@pytest.mark.parametrize(
    ("level", "bf16", "vnni"),
    [("", True, True), ("AVX2", False, False), ("avx512_core_vnni", False, True), ("AVX512_CORE_AMX", True, True)],
)
def test_a_lower_level_of_the_library_is_kept_to(
    level: str, bf16: bool, vnni: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bfloat16 asked of it below its level, OpenVINO ends the process."""
    monkeypatch.setattr(processor, "processor_flags", lambda: "flags : avx2 avx512_bf16 avx512_vnni")
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
        monkeypatch.setenv(name, level)
        assert (processor.has_bf16(), processor.has_vnni()) == (bf16, vnni)

"""The speed benchmark: what it times, what it compares, what it writes. No claim about the times themselves."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from fakes import write_pictures
from PIL import Image
from tiny import MODEL

from retrieval.benchmarks.speed import index as speed_index
from retrieval.benchmarks.speed import run as speed
from retrieval.benchmarks.speed.limit import matrix_rate, multiplications
from retrieval.benchmarks.speed.pictures import draw_pictures, load_at
from retrieval.benchmarks.speed.reference import ReferenceProcess, reference_loop
from retrieval.cli.main import cli
from retrieval.describe.model import load_model
from retrieval.errors import RetrievalError, UsageError
from retrieval.models.loading import build_network
from retrieval.models.network import Describer

RESNET = "resnet18-gem@random:0"


def test_drawn_pictures_have_the_spectrum_of_photographs(tmp_path: Path) -> None:
    paths = draw_pictures(tmp_path, 4)
    arrays = load_at(paths, 1200, 4)
    assert [a.shape for a in arrays] == [(900, 1200, 3), (1200, 900, 3), (800, 1200, 3), (675, 1200, 3)]
    power = np.abs(np.fft.rfft2(arrays[0][:, :900, 1].astype(float) - arrays[0][:, :900, 1].mean())) ** 2
    radius = np.hypot(np.fft.fftfreq(900)[:, None], np.fft.rfftfreq(900)[None])
    low, high = (power[(radius > f) & (radius < 1.2 * f)].mean() for f in (0.02, 0.16))
    assert np.log(low / high) / np.log(8) == pytest.approx(2, abs=0.25)  # power falls as 1 / f^2


def test_pictures_come_at_exactly_the_size(tmp_path: Path) -> None:
    paths = [str(p) for p in write_pictures(tmp_path, 7, sizes=((40, 30), (90, 200)))]
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    arrays = load_at([*paths, str(tmp_path / "broken.jpg")], 64, 8)
    assert [max(a.shape) for a in arrays] == [64] * 7
    assert arrays[0].shape == (48, 64, 3)
    assert len(load_at(paths, 64, 3)) == 3
    with pytest.raises(UsageError, match="can be read"):
        load_at([str(tmp_path / "broken.jpg")], 64, 3)


def test_the_reference_is_the_unfolded_network_picture_by_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(RESNET, scales=(1, 0.5))
    seen: list[tuple[tuple[int, ...], bool]] = []
    forward = torch.nn.Conv2d.forward

    def watched(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if self.in_channels == 3:
            seen.append((tuple(x.shape), x.is_contiguous()))
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    pictures = [np.random.default_rng(i).integers(0, 256, (64, 96, 3), dtype=np.uint8) for i in range(2)]
    got = reference_loop(model.spec, model.checkpoint)(pictures)
    assert [shape for shape, _ in seen] == [(1, 3, 64, 96), (1, 3, 32, 48)] * 2
    assert seen[0][1]  # channels first in memory
    describer = Describer(build_network(model.spec), model.spec.image).eval()
    with torch.no_grad():
        wanted = describer(torch.from_numpy(np.stack(pictures))).numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_the_batched_loop_puts_pictures_of_a_shape_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(MODEL)
    seen: list[tuple[int, ...]] = []
    forward = torch.nn.Conv2d.forward

    def watched(self: torch.nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if self.in_channels == 3:
            seen.append(tuple(x.shape))
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 40 if i % 3 else 48, 3), dtype=np.uint8) for i in range(8)]
    got = reference_loop(model.spec, model.checkpoint, 3)(pictures)
    assert sorted(seen) == [(2, 3, 32, 40), (3, 3, 32, 40), (3, 3, 32, 48)]
    np.testing.assert_allclose(got, reference_loop(model.spec, model.checkpoint)(pictures), atol=1e-6)


@pytest.fixture
def small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of a moment: the processor's rate itself is not looked at."""
    monkeypatch.setattr("retrieval.benchmarks.speed.limit._SIDE", 256)


def test_multiplications_by_hand(small_matrices: None) -> None:
    pictures = [np.zeros((32, 48, 3), np.uint8), np.zeros((16, 48, 3), np.uint8)]
    whole = 16 * 24 * 12 * 3 * 9 + 8 * 12 * 24 * 12 * 9 + 4 * 6 * 32 * 24 * 9  # three convolutions that halve each side
    assert multiplications(load_model(MODEL).spec, pictures) == (whole + whole / 2) / 2
    # As published for 224 x 224, the linear layer of the classifier (2,048,000) left out.
    resnet = multiplications(load_model("resnet50-gem@random:0").spec, [np.zeros((224, 224, 3), np.uint8)])
    assert resnet == pytest.approx(4.089e9 - 2.048e6, rel=1e-3)
    assert matrix_rate() > 1e8


def test_the_reference_has_a_process_of_its_own() -> None:
    model = load_model(RESNET)
    pictures = [np.random.default_rng(i).integers(0, 256, (64, 80 + i, 3), dtype=np.uint8) for i in range(2)]
    with ReferenceProcess(model) as reference:
        for some in (pictures, pictures[1:]):
            descriptors, seconds = reference(some)
            np.testing.assert_allclose(descriptors, reference_loop(model.spec, model.checkpoint)(some), atol=1e-6)
            assert 0 < seconds < 60
        reference._process.kill()
        reference._process.wait()
        with pytest.raises(RetrievalError, match="reference"):
            reference(pictures)


def test_ratios_are_taken_round_by_round() -> None:
    def answer(vectors: list[list[float]], *seconds: float) -> Any:
        times = iter([9, 9, 9, 9, *seconds])  # warming up, one at a time, and for the descriptors
        return lambda pictures: (np.array(vectors, np.float32)[: len(pictures)], next(times))

    contenders = [
        speed._Contender("reference", "fp32", answer([[1, 0], [0, 1]], 8.0, 4.0, 6.0), 0.5),
        speed._Contender("torch", "fp32", answer([[1, 0], [0.6, 0.8]], 2.0, 2.0, 1.0), 1.5),
    ]
    rows = speed._race(contenders, [np.zeros((4, 4, 3), np.uint8)] * 2, 4, 3, lambda _: None)
    assert [(r.ratio_least, r.ratio, r.ratio_most) for r in rows] == [(1, 1, 1), (2, 4, 6)]
    assert [(r.least, r.milliseconds, r.most) for r in rows] == [(2000, 3000, 4000), (500, 1000, 1000)]
    assert rows[1].cosine == pytest.approx(0.8)
    assert rows[1].mean_cosine == pytest.approx(0.9)
    assert rows[1].start == 1.5


def test_indexing_is_timed_whole(tmp_path: Path) -> None:
    paths = [str(p) for p in write_pictures(tmp_path / "pictures", 5, sizes=((64, 40),))]
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    spec = load_model(RESNET, size=64).spec
    task = {
        "model": spec.to_dict(),
        "checkpoint": None,
        "engine": "torch",
        "bf16": False,
        "quantised": None,
        "paths": [*paths, str(tmp_path / "broken.jpg")],
        "gallery": str(tmp_path / "gallery"),
    }
    answer = speed_index.run(json.loads(json.dumps(task)))
    assert answer["pictures"] == 5
    assert answer["at_size"]
    assert answer["peak"] > 50e6
    assert answer["own"] > 0
    assert answer["seconds"] > 0


@pytest.mark.slow
def test_the_command(tmp_path: Path, small_matrices: None) -> None:
    """With torch the index run is tested above. Slow: the references and the index run have a process of their own."""
    write_pictures(tmp_path / "pictures", 4, sizes=((64, 40),))
    out = tmp_path / "out.json"
    arguments = [
        "benchmark",
        "speed",
        "--model",
        "efficientnet_lite0-gem",
        "--size",
        "48,64",
        "--rounds",
        "1",
    ]
    arguments += ["--images", str(tmp_path / "pictures"), "--count", "2", "--save", str(out), "--format", "json"]
    arguments += ["--engines", "batched,openvino"]
    done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert done.exception is None, done.stderr
    saved = json.loads(out.read_text())
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows == saved["rows"]
    network = [(r["size"], r["engine"]) for r in rows if r["part"] == "network"]
    assert network == [(s, e) for s in (48, 64) for e in ("reference", "batched", "openvino")]
    assert all(r["cosine"] > 0.999999 for r in rows if r["part"] == "network")
    whole = [r for r in rows if r["part"] == "index"]
    assert [(r["engine"], r["size"], r["pictures"]) for r in whole] == [("openvino", 64, 4)]
    assert all(r["peak"] > 50 and r["share"] > 0 and r["cosine"] is None for r in whole)
    assert saved["about"]["model"] == "efficientnet_lite0-gem"
    assert saved["about"]["openvino"]
    assert set(saved["about"]["multiplications"]) == {"48", "64"}
    draw = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "speed_chart.py"))["draw"]
    draw([saved], tmp_path / "chart.png")
    assert Image.open(tmp_path / "chart.png").width > 400
    refused = CliRunner().invoke(cli, ["benchmark", "speed", "--engines", "warp"], standalone_mode=False)
    assert isinstance(refused.exception, UsageError)
    assert "warp" in str(refused.exception)

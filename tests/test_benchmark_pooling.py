"""The pooling benchmark from pictures to rows, checked against descriptors that the model itself gives."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import own_pooling
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from tiny import MODEL, Tiny

from retrieval.benchmarks.pooling.feature_cache import extract_features
from retrieval.benchmarks.pooling.figures import write_figures
from retrieval.benchmarks.pooling.methods import choose_methods, make_method
from retrieval.benchmarks.pooling.results import PoolingReport, Row, race, tables, write_results
from retrieval.benchmarks.pooling.robustness import noisy_descriptors
from retrieval.benchmarks.pooling.run import benchmark_pooling
from retrieval.benchmarks.pooling.shared_pooling import _Shared, descriptors
from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.reading import load_groundtruth
from retrieval.describe.model import Model, load_model
from retrieval.errors import DatasetError, UsageError
from retrieval.models.registry import BACKBONES
from retrieval.pooling.regions import GridAvg, GridMax, RegionalGeM, SpatialPyramid
from retrieval.pooling.registry import create_pooling

METHODS = ("gem", "avg", "max", "rmac", "spp", "local-avg")
PS = (1.0, 3.0, math.inf)


def draw(path: Path, pattern: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> None:
    """A picture of a coarse pattern, seen with noise, at a size (width, height)."""
    noisy = np.clip(pattern + rng.normal(0, 60, pattern.shape), 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noisy).resize(size, Image.Resampling.BICUBIC).save(path)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> GroundTruth:
    """Five things, each with two easy, two hard and one junk picture, ten others, and a query each, two with a box."""
    folder = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    sizes = [(96, 64), (64, 96), (80, 80)]
    gallery, queries = [], []
    for thing in range(5):
        pattern = rng.uniform(0, 255, (5, 6, 3))
        listed: dict[str, list[str]] = {"easy": [], "hard": [], "junk": []}
        for kind, count in (("easy", 2), ("hard", 2), ("junk", 1)):
            for k in range(count):
                name = f"{thing}-{kind}-{k}.png"
                draw(folder / name, pattern, sizes[len(gallery) % 3], rng)
                listed[kind].append(name)
                gallery.append(name)
        draw(folder / f"q{thing}.png", pattern, (96, 80), rng)
        box = [10, 5, 80, 70] if thing < 2 else None
        queries.append({"image": f"q{thing}.png", "bbox": box, **listed})
    for k in range(10):
        draw(folder / f"other-{k}.png", rng.uniform(0, 255, (5, 6, 3)), sizes[k % 3], rng)
        gallery.append(f"other-{k}.png")
    (folder / "truth.json").write_text(json.dumps({"name": "things", "gallery": gallery, "queries": queries}))
    return load_groundtruth(folder / "truth.json")


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("strangers")
    rng = np.random.default_rng(1)
    for k in range(24):
        draw(folder / f"{k % 2}" / f"{k}.png", rng.uniform(0, 255, (5, 6, 3)), (64, 64), rng)
    return folder


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(MODEL, size=96, engine="torch")


@pytest.fixture(scope="module")
def report(model: Model, truth: GroundTruth, strangers: Path) -> PoolingReport:
    return benchmark_pooling(model, truth, ps=PS, methods=METHODS, bootstrap=200, whiten_on=strangers)


def find(report: PoolingReport, method: str, protocol: str = "medium", whitened: str | None = None) -> Row:
    (row,) = (r for r in report.rows if (r.method, r.protocol, r.whitened) == (method, protocol, whitened))
    return row


def described(name: str, truth: GroundTruth) -> tuple[np.ndarray, np.ndarray]:
    """Gallery and query descriptors one by one, as `retrieve index` and `retrieve query` get them."""
    other = load_model(name, size=96)
    gallery = np.stack([other.describe(truth.root / path) for path in truth.gallery])
    queries = np.stack([other.describe(truth.root / q.image, bbox=q.bbox) for q in truth.queries])
    return gallery, queries


def plain_average_precision(ranking: list[int], right: set[int], junk: set[int]) -> float:
    clean = [i for i in ranking if i not in junk]
    total, found = 0.0, 0
    for rank, i in enumerate(clean):
        if i in right:
            before = found / rank if rank else 1.0
            found += 1
            total += (before + found / (rank + 1)) / 2
    return total / len(right)


@pytest.mark.parametrize("shape", [(7, 5), (3, 11), (13, 9), (2, 2), (1, 6)])
def test_shared_windows_are_those_of_the_modules(shape: tuple[int, int]) -> None:
    x = torch.randn(2, 6, *shape, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    modules = [GridMax(2), GridMax((1, 2)), SpatialPyramid((1, 2, 4)), SpatialPyramid((1, 2, 3)), GridMax(3)]
    modules += [SpatialPyramid((4, 8, 1, 5)), RegionalGeM(p=2.5), GridAvg((3, 2))]
    with torch.inference_mode():
        shared = _Shared(x)  # one for all: each finds what those before it left
        for module in modules:
            torch.testing.assert_close(shared.pool(module), module(x), msg=lambda said, m=module: f"{m}: {said}")


@pytest.mark.parametrize("method", ["gem:p=3", "avg", "max", "spp"])
def test_map_is_that_of_the_models_own_descriptors(method: str, report: PoolingReport, truth: GroundTruth) -> None:
    gallery, queries = described(f"tiny-{method}@random:0", truth)
    for protocol, right, junk in (
        ("easy", ("easy",), ("junk", "hard")),
        ("medium", ("easy", "hard"), ("junk",)),
        ("hard", ("hard",), ("junk", "easy")),
    ):
        expected = []
        for i, query in enumerate(truth.queries):
            scores = gallery @ queries[i]
            ranking = sorted(range(len(scores)), key=lambda k: (-scores[k], k))
            sets = [{truth.gallery.index(p) for n in names for p in getattr(query, n)} for names in (right, junk)]
            expected.append(plain_average_precision(ranking, *sets))
        assert find(report, method, protocol).mAP == pytest.approx(np.mean(expected), abs=1e-9)


def test_descriptors_are_those_of_the_model(model: Model, truth: GroundTruth) -> None:
    import torch

    from retrieval.models.network import Describer, RetrievalNetwork, make_pooling

    info = BACKBONES["tiny"]
    methods, _ = choose_methods(info, (2.0, 8.0, math.inf), ("all", "gem-channel", "spp:mode=gem", "rgem:p=6"))
    pictures = [(str(truth.root / path), None) for path in truth.gallery[:6]]
    backbone = model.engine().describer.network.backbone  # type: ignore[attr-defined]
    with extract_features(model, model.engine(), pictures) as cache, torch.inference_mode():  # type: ignore[arg-type]
        alone = [descriptors(methods, cache.load([i])) for i in range(6)]
        together = {tuple(batch): descriptors(methods, cache.load(batch)) for batch in cache.batches()}
        for j, method in enumerate(methods):
            describer = Describer(RetrievalNetwork(backbone, make_pooling(method.pooling, info)), model.spec.image)
            own = [describer(torch.from_numpy(model.load(path).copy())[None])[0].numpy() for path, _ in pictures]
            for batch, found in together.items():
                for i, vector in zip(batch, found[j].numpy(), strict=True):
                    np.testing.assert_allclose(vector, own[i], atol=1e-5, err_msg=method.label)
                    np.testing.assert_allclose(vector, alone[i][j][0].numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["mean", "cls", "token-gem:p=3", "token-gem:p=3,negative=shift", "cls-gem"])
def test_tokens_are_pooled_as_by_the_model(name: str, truth: GroundTruth) -> None:
    vit = load_model(f"deit_tiny-{name}@random:0", size=64, engine="torch")
    pictures = [(str(truth.root / path), None) for path in truth.gallery[:4]]
    with extract_features(vit, vit.engine(), pictures) as cache:  # type: ignore[arg-type]
        assert cache.layout == "tokens"
        for batch in cache.batches():
            (found,) = descriptors([make_method(name, BACKBONES["deit_tiny"])], cache.load(batch))
            own = vit.describe([pictures[i][0] for i in batch])
            np.testing.assert_allclose(found.detach().numpy(), own, atol=1e-5)


def test_vision_transformers_have_their_own_poolings(truth: GroundTruth) -> None:
    found = benchmark_pooling(
        load_model("deit_tiny@random:0", size=64, engine="torch"), truth, ps=(1, 3), noise=(0.5,), bootstrap=50
    )
    names = [row.method for row in found.ranked()]
    assert names[:2] == ["token-gem:p=1", "token-gem:p=3"]
    assert {"mean", "token-max", "cls", "cls-gem", "token-gem:p=3,negative=shift"} < set(names)
    assert found.rows[0].baseline == "mean"
    assert "attention" in " ".join(found.notes)
    gallery, queries = described("deit_tiny-cls-mean@random:0", truth)
    best = (gallery @ queries.T).argmax(0)
    assert find(found, "cls-mean").similarity_auc > 0.5
    assert best.shape == (5,)


def test_rows_hold_together(report: PoolingReport) -> None:
    assert [r.protocol for r in report.rows[:3]] == ["easy", "medium", "hard"]
    assert report.ranked_by == "medium"
    plain = [row.method for row in report.ranked() if row.whitened is None]
    assert plain == ["gem:p=1", "gem:p=3", "gem:p=inf", "avg", "max", "rmac", "spp", "local-avg"]
    for row in report.rows:
        assert row.low <= row.mAP <= row.high
        assert row.low < row.high
        assert row.wins + row.losses + row.ties == row.queries == 5
        assert row.difference == pytest.approx(row.mAP - find(report, "avg", row.protocol).mAP)
        assert row.difference_low <= row.difference <= row.difference_high
        assert row.noise["0"] == pytest.approx(row.mAP)
        assert set(row.noise) == {"0", "0.1", "0.25", "0.5", "1"}
        assert 0 <= row.retained <= 1
        assert row.microseconds > 0
    base = find(report, "avg")
    assert (base.difference, base.difference_low, base.difference_high, base.ties) == (0, 0, 0, 5)
    assert find(report, "gem:p=3").parameters == 1
    assert find(report, "spp").dim == 21 * 32


def test_maximum_is_gem_with_infinite_p_and_average_with_p_one(report: PoolingReport) -> None:
    for one, other in (("max", "gem:p=inf"), ("avg", "gem:p=1")):
        for protocol in ("easy", "medium", "hard"):
            a, b = find(report, one, protocol), find(report, other, protocol)
            assert (a.mAP, a.low, a.high) == pytest.approx((b.mAP, b.low, b.high))
        assert a.similarity_auc == pytest.approx(b.similarity_auc, abs=1e-6)
        assert a.retained == pytest.approx(b.retained, abs=1e-4)


def test_backbone_sees_every_picture_once(
    model: Model, truth: GroundTruth, strangers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    forward = Tiny.forward

    def counting(self: Tiny, images: object) -> object:
        seen.append(len(images))  # type: ignore[arg-type]
        return forward(self, images)  # type: ignore[arg-type]

    monkeypatch.setattr(Tiny, "forward", counting)
    benchmark_pooling(model, truth, ps=PS, methods=("all",), noise=(0.5,), bootstrap=10, whiten_on=strangers)
    assert sum(seen) == len(truth.gallery) + len(truth.queries) + 24


def test_leave_one_out_describes_queries_once_and_passes_over_the_query(
    model: Model, truth: GroundTruth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [f"{p},{p.split('-')[0]}" for p in truth.gallery if not p.startswith("other")]
    (truth.root / "list.csv").write_text("path,label\n" + "\n".join(lines) + "\n")
    labelled = load_groundtruth(truth.root / "list.csv")
    done: list[tuple[int, int]] = []
    found = benchmark_pooling(
        model, labelled, methods=("max",), noise=(), bootstrap=10, progress=lambda *now: done.append(now)
    )
    assert done[-1] == (25, 25)
    assert {row.protocol for row in found.rows} == {"easy"}
    row = find(found, "max", "easy")
    vectors = load_model("tiny-max@random:0", size=96).describe([labelled.root / p for p in labelled.gallery])
    classes = np.array([p.split("-")[0] for p in labelled.gallery])
    hits, precisions = [], []
    for i in range(25):
        scores = vectors @ vectors[i]
        order = [k for k in np.lexsort((np.arange(25), -scores)) if k != i]
        precisions.append(plain_average_precision(order, set(np.flatnonzero(classes == classes[i])) - {i}, set()))
        centroids = {}
        for name in set(classes):
            mean = vectors[(classes == name) & (np.arange(25) != i)].mean(0)
            centroids[name] = vectors[i] @ mean / np.linalg.norm(mean)
        hits.append(max(centroids, key=centroids.__getitem__) == classes[i])
    assert row.mAP == pytest.approx(np.mean(precisions), abs=1e-9)
    assert row.centroid_accuracy == pytest.approx(np.mean(hits))
    assert row.noise == {"0": pytest.approx(row.mAP)}


def test_no_noise_is_the_clean_descriptor_and_noise_grows(model: Model, truth: GroundTruth) -> None:
    methods, _ = choose_methods(BACKBONES["tiny"], (1.0, 3.0, math.inf))
    pictures = [(str(truth.root / path), None) for path in truth.gallery[:3]]
    with extract_features(model, model.engine(), pictures) as cache:  # type: ignore[arg-type]
        std = float(np.std(np.concatenate([cache.features(i).ravel() for i in range(3)])))
        clouds = noisy_descriptors(cache, methods, [0, 1, 2], [0.0, std, 4 * std], draws=2, seed=3)
        for method in methods:
            cloud = clouds[method.label]
            assert cloud.shape[:3] == (3, 2, 3)
            for i in range(3):
                (clean,) = descriptors([method], cache.load([i]))
                np.testing.assert_allclose(cloud[0, :, i], np.repeat(clean.detach().numpy(), 2, 0), atol=1e-6)
            similarity = np.einsum("sqnd,qnd->sqn", cloud, cloud[0])
            assert (similarity[1] < 1 - 1e-4).all()
            assert (similarity[2] < similarity[1]).all()
        assert not np.allclose(clouds["avg"][1, 0], clouds["avg"][1, 1], atol=1e-5)


def test_features_may_lie_in_a_file(model: Model, truth: GroundTruth, report: PoolingReport) -> None:
    found = benchmark_pooling(model, truth, ps=PS, methods=METHODS, bootstrap=200, budget=100_000)
    assert "in a temporary file as float32" in found.setting["features"]["kept"]
    for row in found.rows:
        same = find(report, row.method, row.protocol)
        assert (row.mAP, row.noise) == (pytest.approx(same.mAP), pytest.approx(same.noise))


def test_whitening_never_sees_the_set_unsaid(
    model: Model, truth: GroundTruth, strangers: Path, report: PoolingReport, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for leak in (truth.gallery[3], truth.queries[0].image):
        folder = tmp_path / leak
        folder.mkdir()
        for path in strangers.rglob("*.png"):
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "innocent.png").write_bytes((truth.root / leak).read_bytes())
        with pytest.raises(UsageError, match=r"innocent\.png is in the set itself .*leak"):
            benchmark_pooling(model, truth, methods=("avg",), whiten_on=folder)
    with pytest.raises(UsageError, match="in the set itself"):
        benchmark_pooling(model, truth, methods=("avg",), whiten_on=truth.root)
    with pytest.raises(UsageError, match="not a folder"):
        benchmark_pooling(model, truth, methods=("avg",), whiten_on=tmp_path / "nowhere")
    (tmp_path / "few").mkdir()
    with pytest.raises(UsageError, match="holds 0 pictures"):
        benchmark_pooling(model, truth, methods=("avg",), whiten_on=tmp_path / "few")
    allowed = benchmark_pooling(model, truth, methods=("avg",), noise=(), bootstrap=10, whiten_on="gallery")
    assert [r.whitened for r in allowed.ranked()] == [None, "gallery"]
    assert "gallery!" in tables(allowed)
    assert any("searched gallery itself" in note for note in allowed.notes)
    assert {r.whitened for r in report.rows} == {None, "other"}
    assert find(report, "avg", whitened="other").dim == 12
    assert "spp is not whitened" not in " ".join(report.notes)
    monkeypatch.setattr("retrieval.benchmarks.pooling.whitened.LARGEST_DIM", 600)
    small = benchmark_pooling(model, truth, methods=("avg", "spp"), noise=(), bootstrap=10, whiten_on=strangers)
    assert "spp is not whitened: 672 dimensions" in " ".join(small.notes)
    assert [(r.method, r.whitened) for r in small.ranked()] == [("avg", None), ("spp", None), ("avg", "other")]


def test_trained_pooling_of_a_checkpoint_takes_part(truth: GroundTruth, tmp_path: Path) -> None:
    import torch

    from retrieval.models.checkpoint import save_checkpoint
    from retrieval.models.loading import build_network

    start = load_model("tiny-gem:p=2.25@random:0", size=96)
    network = build_network(start.spec)
    with torch.no_grad():
        network.pooling.p.fill_(6.5)
    save_checkpoint(network, start.spec, tmp_path / "mine.safetensors")
    trained = load_model(tmp_path / "mine.safetensors")
    found = benchmark_pooling(trained, truth, methods=("avg", "gem:p=6.5"), noise=(), bootstrap=10)
    row = find(found, "gem (trained)")
    assert row.p == 6.5
    assert row.mAP == find(found, "gem:p=6.5").mAP


def test_files_hold_the_rows(report: PoolingReport, tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    table, form, setting = write_results(report, tmp_path / "out")
    rows = json.loads(form.read_text(), parse_constant=refuse)
    assert len(rows) == len(report.rows)
    first = rows[0]
    assert first["method"] == "gem:p=1"
    assert first["p"] == 1.0
    assert first["mAP"] == report.rows[0].mAP
    assert first["noise"]["0.25"] == report.rows[0].noise["0.25"]
    assert next(r for r in rows if r["method"] == "gem:p=inf")["p"] == "inf"
    assert next(r for r in rows if r["method"] == "avg")["p"] is None
    assert {r["whitened"] for r in rows} == {None, "other"}
    with open(table, newline="") as file:
        cells = list(csv.DictReader(file))
    assert [(c["method"], c["protocol"], float(c["mAP"])) for c in cells] == [
        (r["method"], r["protocol"], r["mAP"]) for r in rows
    ]
    assert float(cells[0]["mAP_noise_0.25"]) == first["noise"]["0.25"]
    stamp = json.loads(setting.read_text(), parse_constant=refuse)
    assert (stamp["set"], stamp["gallery"], stamp["queries"], stamp["model"]) == ("things", 35, 5, MODEL)
    assert stamp["environment"]["torch"]
    assert stamp["seconds"]["extraction"] > 0
    with pytest.raises(UsageError, match="cannot write results"):
        write_results(report, form / "below-a-file")


def test_figures_are_drawn(report: PoolingReport, tmp_path: Path) -> None:
    paths = write_figures(report, tmp_path)
    assert [path.name for path in paths] == ["map_over_p.png", "robustness.png", "race.png"]
    for path in paths:
        with Image.open(path) as picture:
            assert picture.width > 800
            assert np.asarray(picture.convert("L")).std() > 10
    small = PoolingReport(
        [Row(**{**vars(r), "noise": {"0": r.mAP}}) for r in report.rows if r.method == "avg"],
        report.ranked_by,
        [],
        report.setting,
    )
    (tmp_path / "small").mkdir()
    assert [path.name for path in write_figures(small, tmp_path / "small")] == ["race.png"]


def test_figures_show_the_rows(report: PoolingReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.benchmarks.pooling import figures

    given: dict[str, tuple] = {}
    for name in ("plot_exponents", "plot_robustness", "plot_race"):
        monkeypatch.setattr(figures, name, lambda path, *args, _name=name, **_: given.update({_name: args}))
    write_figures(report, tmp_path)
    ps, curves, references = given["plot_exponents"]
    assert ps == list(PS)
    sweep = [find(report, f"gem:p={p:g}") for p in PS]
    assert curves[0].values == [row.mAP for row in sweep]
    assert (curves[0].low, curves[0].high) == ([row.low for row in sweep], [row.high for row in sweep])
    assert curves[1].values == [find(report, f"gem:p={p:g}", whitened="other").mAP for p in PS]
    assert references == {"average": find(report, "avg").mAP, "maximum": find(report, "max").mAP}
    strengths, chosen, others = given["plot_robustness"]
    assert strengths == [0, 0.1, 0.25, 0.5, 1]
    assert {curve.name for curve in (*chosen, *others)} == {r.method for r in report.rows}
    for curve in chosen:
        assert curve.values == list(find(report, curve.name).noise.values())
    (panels,) = given["plot_race"]
    assert [entry.value for entry in next(iter(panels.values()))] == sorted(
        (r.mAP for r in report.ranked()), reverse=True
    )


def test_race_ranks_each_task(report: PoolingReport) -> None:
    ranking = race(report.ranked())
    assert list(ranking) == ["retrieval", "similarity", "classification"]
    names = {row.name for row in report.ranked()}
    for found in ranking.values():
        assert {name for name, _ in found} == names
        values = [value for _, value in found]
        assert values == sorted(values, reverse=True)
    best = max(report.ranked(), key=lambda row: row.mAP)
    assert ranking["retrieval"][0][1] == best.mAP


def test_equal_figures_share_a_place_and_the_columns_are_explained(report: PoolingReport) -> None:
    rows = [replace(row, mAP=value) for row, value in zip(report.ranked(), (0.5, 1.0, 1.0, 0.25), strict=False)]
    *_, race_table, legend = tables(replace(report, rows=rows)).split("\n\n")
    assert [line.split()[0] for line in race_table.splitlines()[1:]] == ["1", "1", "3", "4"]
    for word in ("in %", "kept:", "noise S:", "microseconds"):
        assert word in legend


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("gme",)}, "Did you mean gem"),
        ({"methods": ("mean",)}, "for token sequences"),
        ({"methods": ("gem:q=2",)}, "no parameter 'q'"),
        ({"methods": ()}, "no pooling to compare"),
        ({"baseline": "best"}, "no pooling is called 'best'"),
        ({"ps": (-1.0,)}, "p must be at least"),
        ({"noise": (-0.5,)}, "standard deviations"),
        ({"bootstrap": 0}, "bootstrap"),
    ],
)
def test_requests_that_make_no_sense(options: dict, message: str, model: Model, truth: GroundTruth) -> None:
    with pytest.raises(UsageError, match=message):
        benchmark_pooling(model, truth, **options)


def test_unreadable_and_missing_pictures_are_named(model: Model, truth: GroundTruth, tmp_path: Path) -> None:
    form = truth.to_json()
    for name in (*truth.gallery, *(q.image for q in truth.queries)):
        (tmp_path / name).write_bytes((truth.root / name).read_bytes())
    (tmp_path / "other-3.png").write_bytes(b"\x89PNG\r\n\x1a\n, or so it says")
    (tmp_path / "truth.json").write_text(json.dumps(form))
    with pytest.raises(DatasetError, match=r"other-3\.png"):
        benchmark_pooling(model, load_groundtruth(tmp_path / "truth.json"), methods=("avg",))
    (tmp_path / "other-3.png").unlink()
    with pytest.raises(DatasetError, match="1 of 40 pictures is missing"):
        benchmark_pooling(model, load_groundtruth(tmp_path / "truth.json"), methods=("avg",))
    with pytest.raises(UsageError, match="one scale"):
        benchmark_pooling(load_model(MODEL, size=96, scales=(1, 0.5)), truth, methods=("avg",))


def test_of_class_folders_what_cannot_be_used_is_left_out(model: Model, truth: GroundTruth, tmp_path: Path) -> None:
    for folder in ("sound", "torn"):
        for i, name in enumerate(truth.gallery):
            (tmp_path / folder / str(i % 3)).mkdir(parents=True, exist_ok=True)
            shutil.copy(truth.root / name, tmp_path / folder / str(i % 3))
    torn = tmp_path / "torn"
    (torn / "0" / "dead.png").symlink_to(tmp_path / "gone.png")
    (torn / "1" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, or so it says")
    said: list[str] = []
    chosen = {"methods": ("avg", "max"), "bootstrap": 10}
    found = benchmark_pooling(model, load_groundtruth(torn), say=said.append, **chosen)
    expected = benchmark_pooling(model, load_groundtruth(tmp_path / "sound"), **chosen)
    assert [(row.method, row.protocol, row.mAP) for row in found.rows] == [
        (row.method, row.protocol, row.mAP) for row in expected.rows
    ]
    left_out = [line for line in said if "left out" in line]
    assert ["'0/dead.png' (a symbolic link to nothing)" in left_out[0], "'1/broken.png' (" in left_out[1]] == [
        True,
        True,
    ]
    assert found.setting["gallery"] == expected.setting["gallery"] == len(truth.gallery)


def run(*arguments: str) -> tuple[str, str]:
    from retrieval.cli.benchmarks.pooling import command

    result = CliRunner().invoke(command, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_command_prints_what_was_asked_for(truth: GroundTruth, report: PoolingReport, tmp_path: Path) -> None:
    out = tmp_path / "results"
    common = (str(truth.root / "truth.json"), "--model", MODEL, "--size", "96", "--bootstrap", "200")
    printed, said = run(
        *common,
        "--p",
        "1,3,inf",
        "--methods",
        "gem,avg,spp:mode=max,levels=(1,2)",
        "--format",
        "json",
        "--out",
        str(out),
    )
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [row["method"] for row in rows[::3]] == [
        "gem:p=1", "gem:p=3", "gem:p=inf", "avg", "spp:mode=max,levels=(1,2)",
    ]  # fmt: skip
    for row in rows:
        if "spp" not in row["method"]:
            same = find(report, row["method"], row["protocol"])
            assert (row["mAP"], row["low"], row["high"]) == pytest.approx((same.mAP, same.low, same.high))
    assert "x the extraction" in said
    names = {"results.csv", "results.json", "environment.json", "map_over_p.png", "robustness.png", "race.png"}
    assert {path.name for path in out.iterdir()} == names
    printed, said = run(*common, "--methods", "avg", "--noise", "0", "--format", "csv", "-q")
    assert len(printed.splitlines()) == 4
    assert said == ""
    printed, _ = run(*common, "--methods", "max,avg", "--baseline", "max", "-q")
    assert "against max (medium)" in printed
    assert f"{100 * find(report, 'avg').mAP:.1f} [" in printed


def test_command_draws_a_set_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truth: GroundTruth) -> None:
    from retrieval.datasets.synthetic import make as synthetic

    drawn: list[Path] = []

    def draw_few(folder: str, **options: object) -> GroundTruth:
        drawn.append(Path(folder))
        assert options == {"train_objects": 0}
        return make(folder, objects=2, distractors=2, size=96, train_objects=0)

    make: Callable[..., GroundTruth] = synthetic.make_synthetic
    monkeypatch.setattr(synthetic, "make_synthetic", draw_few)
    monkeypatch.chdir(tmp_path)
    printed, _ = run("synthetic", "--model", MODEL, "--methods", "avg", "--noise", "0", "--format", "json", "-q")
    assert json.loads(printed.splitlines()[0])["queries"] == 2
    assert not drawn[0].exists()


@pytest.mark.realdata
@pytest.mark.slow
def test_gem_beats_average_on_photographed_paintings(shared_data: Path) -> None:
    """Every other query of docs/pooling.md, and a quarter of its gallery.
    Slow: a hundred photos of 512 pixels."""
    whole = load_groundtruth(shared_data / "paintings" / "qsd2_w2.json")
    queries = whole.queries[::2]
    right = {path for query in queries for path in query.easy}
    truth = replace(
        whole, queries=queries, gallery=tuple(p for i, p in enumerate(whole.gallery) if p in right or i % 4 == 0)
    )
    model = load_model("efficientnet_lite0-gem", size=512)
    found = benchmark_pooling(model, truth, ps=(3.0,), methods=("gem", "avg", "max"), noise=())
    gem, average, maximum = (find(found, name, "easy") for name in ("gem:p=3", "avg", "max"))
    assert [round(100 * row.mAP, 1) for row in (gem, average, maximum)] == [100.0, 79.4, 100.0]
    assert gem.difference_low > 0
    assert gem.losses == 0


def test_the_program_of_the_documents_measures_a_pooling_of_ones_own(
    report: PoolingReport, truth: GroundTruth, tmp_path: Path
) -> None:
    own = load_model(MODEL, size=96, engine="torch")  # whose pooling it replaces
    for method, pooling in (("avg", create_pooling("avg")), ("max", create_pooling("max"))):
        found = own_pooling.measure(truth.root / "truth.json", own, pooling, tmp_path / "own.npy")
        assert found == pytest.approx(find(report, method).mAP, abs=1e-9)
    found = own_pooling.measure(truth.root / "truth.json", own, own_pooling.Middle(), tmp_path / "own.npy")
    assert found not in (find(report, "avg").mAP, find(report, "max").mAP)
    body = Path(own_pooling.__file__).read_text().split('"""\n', 1)[1].strip()
    assert body in (Path(__file__).parent.parent / "docs" / "pooling.md").read_text()

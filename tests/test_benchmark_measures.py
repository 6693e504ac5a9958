"""The measurements of the pooling benchmark, each against a second way to compute it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from retrieval.benchmarks.pooling.cost import flops, microseconds, parameters
from retrieval.benchmarks.pooling.feature_cache import FeatureCache
from retrieval.benchmarks.pooling.methods import Method, choose_methods, make_method, split_names
from retrieval.benchmarks.pooling.race import centroid_accuracy, class_labels, similarity_auc
from retrieval.benchmarks.pooling.retention import coarse_map, retained_share
from retrieval.benchmarks.pooling.robustness import noisy_descriptors
from retrieval.benchmarks.pooling.scoring import average_precisions, protocols_of, score_blocks
from retrieval.benchmarks.pooling.whitened import fit_whitener
from retrieval.datasets.groundtruth import GroundTruth
from retrieval.errors import UsageError
from retrieval.evaluation.protocol import REVISITED, Labels, evaluate_vectors
from retrieval.models.registry import BACKBONES
from retrieval.models.whitening import learn_pca
from retrieval.pooling.regions import rmac_regions
from retrieval.pooling.registry import create_pooling, list_poolings
from retrieval.system.threads import one_thread

MAPS, TOKENS = BACKBONES["resnet18"], BACKBONES["deit_tiny"]


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def random_set(queries: int, size: int, dim: int = 12) -> tuple[np.ndarray, np.ndarray, list[Labels]]:
    """Vectors with exact copies among them, and random labels; some queries without right answers."""
    rng = np.random.default_rng(queries)
    gallery = unit(rng.normal(size=(size, dim)))
    gallery[[size // 2, size - 1]] = gallery[3]
    labels = []
    for i in range(queries):
        ids = rng.permutation(size)
        easy, hard, junk = (0, 0, 3) if i % 7 == 5 else rng.integers(0, 6, 3)
        labels.append(Labels(ids[:easy], ids[easy : easy + hard], ids[easy + hard : easy + hard + junk]))
    asked = gallery[rng.integers(0, size, queries)] + rng.normal(0, 0.2, (queries, dim))
    asked[0] = gallery[3]
    labels[0] = Labels(np.array([size - 1]), np.array([3]), np.array([4]))
    return unit(asked), gallery, labels


@pytest.mark.parametrize(("queries", "size"), [(1, 6), (20, 40), (70, 300)])
def test_average_precision_is_that_of_the_protocols(queries: int, size: int) -> None:
    asked, gallery, labels = random_set(queries, size)
    found = average_precisions(asked, gallery, labels, REVISITED)
    for name, result in evaluate_vectors(asked, gallery, labels).items():
        np.testing.assert_allclose(found[name], result.average_precisions, atol=1e-12)


def test_identical_vectors_get_identical_scores_in_every_block() -> None:
    asked, gallery, _ = random_set(20, 40)
    for start, scores in score_blocks(asked, gallery, block=130):
        np.testing.assert_array_equal(scores[:, 3], scores[:, 39])
        np.testing.assert_allclose(scores, asked[start : start + len(scores)] @ gallery.T, atol=1e-6)


@pytest.mark.parametrize("protocol", REVISITED, ids=lambda p: p.name)
def test_auc_is_that_of_all_pairs(protocol: object) -> None:
    asked, gallery, labels = random_set(30, 50)
    truth, scores = [], []
    for query, label in zip(asked, labels, strict=True):
        right = {int(i) for name in protocol.positive for i in getattr(label, name)}  # type: ignore[attr-defined]
        junk = {int(i) for name in protocol.junk for i in getattr(label, name)}  # type: ignore[attr-defined]
        for i, vector in enumerate(gallery):
            if right and i not in junk:
                truth.append(i in right)
                scores.append(float(np.float32(query @ vector)))
    expected = roc_auc_score(truth, scores)
    assert similarity_auc(asked, gallery, labels, protocol) == pytest.approx(expected, abs=1e-6)  # type: ignore[arg-type]
    nothing = [Labels([], [], [])] * 30
    assert math.isnan(similarity_auc(asked, gallery, nothing, protocol))  # type: ignore[arg-type]


def truth_of(gallery: list[str], queries: list[dict]) -> GroundTruth:
    from pathlib import Path

    return GroundTruth.from_json({"name": "t", "gallery": gallery, "queries": queries}, Path("."))


def test_classes_are_what_right_answers_connect() -> None:
    truth = truth_of(
        ["a1", "a2", "b1", "b2", "b3", "alone", "far"],
        [
            {"image": "qa", "easy": ["a1"], "hard": ["a2"]},
            {"image": "b1", "easy": ["b2"]},
            {"image": "qb", "easy": ["b3"], "hard": ["b2"], "junk": ["far"]},
            {"image": "qc", "easy": ["alone"]},
        ],
    )
    gallery, queries = class_labels(truth)
    a, b, c = gallery[0], gallery[2], gallery[5]
    assert gallery.tolist() == [a, a, b, b, b, c, -1]
    assert queries.tolist() == [a, -1, b, c]
    assert sorted([a, b, c]) == [0, 1, 2]


def test_protocols_follow_the_labels() -> None:
    def names(*queries: dict) -> list[str]:
        return [p.name for p in protocols_of(truth_of(["a", "b"], [{"image": "q", **q} for q in queries]))]

    assert names({"easy": ["a"]}) == ["easy"]
    assert names({"hard": ["a"]}) == ["hard"]
    assert names({"easy": ["a"]}, {"hard": ["b"]}) == ["easy", "medium", "hard"]


def test_nearest_centroid_leaves_the_picture_out() -> None:
    # Alone against its twin and a crowd: with itself in the mean each would be right, without it both are wrong.
    vectors = unit(np.array([[1, 0, 0.1], [0, 1, 0.1], [1, 0.1, 0], [1, 0.12, 0], [0, 0, 1]], float))
    labels = np.array([0, 0, 1, 1, -1])
    assert centroid_accuracy(vectors, labels) == 0.5
    assert math.isnan(centroid_accuracy(vectors, np.array([0, 0, 0, -1, -1])))
    rng = np.random.default_rng(0)
    vectors, labels = unit(rng.normal(size=(60, 5))), rng.integers(-1, 4, 60)
    hits = []
    for i in np.flatnonzero(labels >= 0):
        others = (labels >= 0) & (np.arange(60) != i)
        means = [vectors[others & (labels == k)].mean(0) for k in range(4)]
        hits.append(int(np.argmax([vectors[i] @ m / np.linalg.norm(m) for m in means])) == labels[i])
    assert centroid_accuracy(vectors, labels) == pytest.approx(np.mean(hits))


def test_retained_share_is_that_of_leaving_each_out() -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(14, 30)).astype(np.float32) + 5
    x = (maps[:, :6] + 0.3 * rng.normal(size=(14, 6))).astype(np.float32)
    centred = x.astype(float) - x.mean(0)
    scale = np.trace(centred @ centred.T) / 13
    errors = []
    for penalty in 10.0 ** np.arange(-5, 4) * scale:
        error = 0.0
        for i in range(14):
            rest = np.arange(14) != i
            mean_x, mean_map = x[rest].mean(0), maps[rest].mean(0)
            a = (x[rest] - mean_x).astype(float)
            weights = np.linalg.solve(a.T @ a + penalty * np.eye(6), a.T @ (maps[rest] - mean_map))
            error += float(((maps[i] - mean_map - (x[i] - mean_x) @ weights) ** 2).sum())
        errors.append(error)
    total = sum(float(((maps[i] - maps[np.arange(14) != i].mean(0)) ** 2).sum()) for i in range(14))
    assert retained_share(maps)(x) == pytest.approx(1 - min(errors) / total, abs=1e-5)


def test_retained_share_at_its_ends() -> None:
    rng = np.random.default_rng(0)
    maps = (rng.normal(size=(60, 4)) @ rng.normal(size=(4, 50))).astype(np.float32)
    share = retained_share(maps)
    assert share(maps[:, :10]) > 0.999  # four hidden dimensions: ten columns hold all there is
    assert share(rng.normal(size=(60, 10)).astype(np.float32)) < 0.05
    assert share(rng.normal(size=(60, 500)).astype(np.float32)) < 0.05  # more dimensions than pictures explain nothing
    assert math.isnan(retained_share(maps[:7])(maps[:7]))
    assert math.isnan(retained_share(np.ones((20, 5), np.float32))(maps[:20]))


def test_coarse_maps_are_adaptive_averages() -> None:
    x = torch.rand(7, 9, 3)
    expected = torch.nn.functional.adaptive_avg_pool2d(x.permute(2, 0, 1)[None], 4)[0].permute(1, 2, 0)
    np.testing.assert_allclose(coarse_map(x.numpy()).reshape(4, 4, 3), expected.numpy(), atol=1e-6)
    tokens = torch.rand(33, 5)
    runs = torch.nn.functional.adaptive_avg_pool1d(tokens[1:].T[None], 16)[0].T
    np.testing.assert_allclose(coarse_map(tokens.numpy(), prefix=1).reshape(16, 5), runs.numpy(), atol=1e-6)


def test_noise_has_the_strength_asked_for() -> None:
    """The average of n cells, all 1, with noise of strength s is 1 plus noise of strength s / sqrt(n)."""
    channels, cells = 4096, (4, 6)
    with FeatureCache("map", 1, 1 << 30) as cache:
        cache.add(0, np.ones((*cells, channels), np.float32))
        method = make_method("avg", MAPS)
        cloud = noisy_descriptors(cache, [method], [0], [0.05, 0.2], draws=4, seed=1)["avg"]
        again = noisy_descriptors(cache, [method], [0], [0.2], draws=4, seed=1)["avg"]
    spread = cloud.std(-1) / cloud.mean(-1)
    np.testing.assert_allclose(spread[:, :, 0], np.outer([0.05, 0.2], np.ones(4)) / math.sqrt(24), rtol=0.05)
    np.testing.assert_array_equal(cloud[1], again[0])
    # The same draw at every strength: four times the deviation.
    small, large = (c[0, 0] / c[0, 0].mean() - 1 for c in cloud)
    np.testing.assert_allclose(large, 4 * small, atol=2e-3)


def test_features_beyond_the_budget_go_to_a_file() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(2 + i % 3, 3, 8)).astype(np.float32) for i in range(9)]
    with FeatureCache("map", 9, 600) as cache:
        for i in (4, 0, 8, 1, 2, 3, 5, 6, 7):
            cache.add(i, arrays[i])
        assert cache.file_dtype is np.float32
        assert "of 9 in a temporary file" in cache.place
        for i in range(9):
            np.testing.assert_array_equal(cache.features(i), arrays[i])
        batches = cache.batches()
        assert sorted(i for batch in batches for i in batch) == list(range(9))
        assert len(batches) == 3
        for batch in batches:
            expected = np.stack([arrays[i] for i in batch]).transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(cache.load(batch).numpy(), expected)


def test_a_full_disk_gets_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1000, 0, 1000))  # type: ignore[attr-defined]
    with FeatureCache("tokens", 3, 0) as cache:
        for i in range(3):
            cache.add(i, np.full((5, 16), 0.1 + i, np.float32))
        assert "as float16" in cache.place
        np.testing.assert_allclose(cache.features(2), 2.1, rtol=1e-3)


def test_whitening_is_pca_whitening() -> None:
    rng = np.random.default_rng(0)
    seen = unit(rng.normal(size=(100, 8)) @ rng.normal(size=(8, 8)) + 1)
    new = unit(rng.normal(size=(20, 8)) @ rng.normal(size=(8, 8)) + 1)
    whiten = fit_whitener(seen)
    assert whiten is not None
    found, expected = whiten(new), unit(PCA(whiten=True).fit(seen).transform(new))
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)
    same = learn_pca(seen).apply(new)
    np.testing.assert_allclose(found @ found.T, same @ same.T, atol=1e-4)
    few = fit_whitener(seen[:10, :8])
    assert few is not None
    assert few(new).shape == (20, 5)
    assert fit_whitener(np.zeros((10, 9000), np.float32)) is None


def test_methods_by_name() -> None:
    def labels(*names: str, info: object = MAPS, ps: tuple[float, ...] | None = (1, 3)) -> list[str]:
        return [method.label for method in choose_methods(info, ps, names)[0]]  # type: ignore[arg-type]

    everything = labels("all")
    assert everything[:4] == ["gem:p=1", "gem:p=3", "avg", "max"]
    assert {"grid-avg", "grid-max", "spp", "rmac", "rgem", "local-max", "local-avg"} < set(everything)
    assert not {"strided-conv", "gem-channel"} & set(everything)
    assert labels("gem", "gem:p=3", "max", "mac") == ["gem:p=1", "gem:p=3", "max"]
    assert labels("all", "strided-conv") == [*everything, "strided-conv"]
    assert "strided-conv" not in choose_methods(MAPS, (1,), ("all", "strided-conv"))[1][0]
    assert "strided-conv" in choose_methods(MAPS, (1,), ("all",))[1][0]
    assert labels("gem", ps=(2.5, math.inf)) == ["gem:p=2.5", "gem:p=inf"]
    assert labels("attention", info=TOKENS, ps=None) == ["attention"]
    assert [m.p for m in choose_methods(MAPS, (1, math.inf), ("gem", "avg"))[0]] == [1, math.inf, None]
    for method in choose_methods(TOKENS, (3,), ("all",))[0]:
        assert method.module.prefix == 1
    with pytest.raises(UsageError, match="not key=value"):
        labels("gem:3")
    assert split_names("avg, spp:mode=avg,levels=(1,2),max,gem:p=3") == [
        "avg",
        "spp:mode=avg,levels=(1,2)",
        "max",
        "gem:p=3",
    ]


def test_operations_by_formula() -> None:
    shape, cells = (10, 6, 8), 48
    count = lambda name, **options: flops(create_pooling(name, dim=10, **options), shape)  # noqa: E731
    assert count("avg") == count("max") == 10 * cells
    assert count("gem") == 10 * (3 * cells + 1)
    assert count("gem", p="inf") == 10 * 2 * cells
    assert count("grid-avg") == 10 * cells  # 2 divides both sides: each cell once
    assert count("spp") == 10 * (cells + cells + 8 * 8)  # 6 rows into 4 overlap: 8 rows in all
    regions = [48, *(h * w for _, _, h, w in rmac_regions(6, 8))]
    assert count("rmac") == 10 * (sum(regions) + 4 * len(regions))
    assert count("rgem") == 10 * (3 * sum(regions) + 5 * len(regions))
    assert count("local-max", window=3, then="avg") == 10 * (2 * 2 * 9 + 4)
    assert count("strided-conv", then="max") == 2 * 10 * 10 * cells + 10 * 12
    tokens = (17, 10)
    assert flops(create_pooling("mean", prefix=1), tokens) == 160
    assert flops(create_pooling("cls"), tokens) == 0
    assert flops(create_pooling("token-gem", prefix=1), tokens) == 10 * (3 * 16 + 1)
    assert flops(create_pooling("cls-mean", merge="mean"), tokens) == 160 + 20
    assert flops(create_pooling("attention", dim=10), tokens) == 4 * 170 + 3 * 17
    assert flops(create_pooling("pma", dim=8, feed_forward=False), (17, 8)) == 2 * 64 * (2 * 17 + 3) + 17 * (32 + 12)
    assert flops(torch.nn.Identity(), shape) is None  # type: ignore[arg-type]
    assert parameters(create_pooling("gem")) == 1
    assert parameters(create_pooling("gem-channel", dim=10)) == 10


def test_time_is_that_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    class Slow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            time.sleep(0.003)
            return x

    assert 3000 <= microseconds(Slow(), torch.zeros(1)) < 30000


def test_one_thread_while_it_is_open() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_method_is_the_pooling_of_a_specification() -> None:
    method = make_method("spp:mode=gem,p=4,levels=(1,2)", MAPS)
    assert isinstance(method, Method)
    assert method.pooling == {"name": "spp", "mode": "gem", "p": 4, "levels": (1, 2)}
    assert method.label == "spp:mode=gem,p=4,levels=(1,2)"
    assert make_method("mac", MAPS).label == "max"


def test_exponents_that_mean_nothing_are_refused() -> None:
    for wrong in (0, -1, math.nan):
        with pytest.raises(UsageError, match="p must be at least"):
            choose_methods(MAPS, (2, wrong), ("gem",))
    with pytest.raises(UsageError, match=r"none of these methods takes exponents: avg, gem:p=2\. Add gem"):
        choose_methods(MAPS, (2,), ("avg", "gem:p=2"))
    assert [m.label for m in choose_methods(MAPS, None, ("avg",))[0]] == ["avg"]
    assert len(choose_methods(MAPS, None, ("gem",))[0]) == 10


def test_what_a_pooling_is_untrained_is_told_once() -> None:
    """Poolings that have weights of their own are those that say what they are without training."""
    for info in list_poolings():
        made = create_pooling(info.name, dim=8)
        learned = [name for name, p in made.named_parameters() if p.numel() > 1]
        assert bool(learned) == bool(info.untrained), info.name

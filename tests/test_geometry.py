"""Spatial verification on images with a known homography, on made-up points, and on real photos."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import UsageError
from retrieval.ranking.geometry import (
    LocalFeatures,
    local_features,
    match,
    pack,
    rerank,
    similarity,
    unpack,
    verify,
)
from retrieval.ranking.sift import sift

cv2 = pytest.importorskip("cv2")


def texture(seed, height=360, width=480):
    """Blurred noise at several scales: many corners and blobs, no two places alike."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for sigma in (1.5, 4, 12):
        layer = cv2.GaussianBlur(rng.standard_normal((height, width, 3)), (0, 0), sigma)
        image += layer / layer.std()
    return np.clip(128 + 40 * image, 0, 255).astype(np.uint8)


def mapped(homography, points):
    projected = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ homography.T
    return projected[:, :2] / projected[:, 2:]


WARP = np.array([[0.8, -0.15, 60.0], [0.2, 0.9, -20.0], [2e-4, 1e-4, 1.0]])


@pytest.fixture(scope="module")
def plain():
    return texture(0)


@pytest.fixture(scope="module")
def warped(plain):
    return cv2.warpPerspective(plain, WARP, (480, 360), borderValue=(90, 90, 90))


def test_a_known_homography_is_found_and_others_are_not(plain, warped):
    query = local_features(plain)
    assert len(query.points) >= 300
    others = [local_features(texture(seed)) for seed in range(1, 5)]
    same, *different = verify(query, [local_features(warped), *others])
    assert same.inliers > 100
    corners = np.array([[100.0, 80], [350, 80], [350, 300], [100, 300]])
    np.testing.assert_allclose(mapped(same.homography, corners), mapped(WARP, corners), atol=1.0)
    assert all(v.inliers < 8 for v in different)


def test_points_and_homography_are_in_pixels_of_the_image_given(plain, warped):
    large = cv2.resize(warped, (1920, 1440), interpolation=cv2.INTER_CUBIC)  # features are sought at a third of that
    found = local_features(large)
    assert found.size == (1920, 1440)
    assert found.points.max() > 1200
    (result,) = verify(local_features(plain), [found])
    assert result.inliers > 60
    corners = np.array([[100.0, 80], [350, 80], [350, 300], [100, 300]])
    np.testing.assert_allclose(mapped(result.homography, corners), 4 * mapped(WARP, corners) + 1.5, atol=4.0)
    few = local_features(plain, max_points=50)
    assert len(few.points) <= 55


def test_descriptors_are_root_sift(plain):
    features = local_features(plain, longest_side=480)
    found = sift(cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY), 1000)
    root = np.sqrt(found.descriptors / found.descriptors.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(features.points, found.place, atol=1e-4)
    np.testing.assert_allclose(features.shapes, np.stack([2 * found.scale, found.angle], axis=1), rtol=1e-5)
    np.testing.assert_allclose(features.descriptors / 512, root, atol=0.5 / 512 + 1e-6)
    assert features.descriptors.dtype == np.uint8


def test_points_of_an_enlarged_picture_lie_where_they_do_in_the_picture(plain):
    grey = np.repeat(cv2.cvtColor(plain, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    large = cv2.resize(grey, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)
    enlarged, seen = local_features(grey, 300, 960), local_features(large, 300, 960)
    np.testing.assert_allclose(2 * enlarged.points + 0.5, seen.points, atol=1e-3)
    np.testing.assert_allclose(2 * enlarged.shapes[:, 0], seen.shapes[:, 0], rtol=1e-5)
    np.testing.assert_array_equal(enlarged.descriptors, seen.descriptors)


def test_the_same_in_every_run_and_with_any_threads(plain, warped):
    threads = cv2.getNumThreads()
    results = []
    try:
        for run in range(3):
            cv2.setRNGSeed(run + 1)
            cv2.setNumThreads(1 + run % 2)
            query, candidate = local_features(plain), local_features(warped)
            (result,) = verify(query, [candidate])
            results.append((pack(query), pack(candidate), result.inliers, result.homography.tobytes()))
    finally:
        cv2.setNumThreads(threads)
    assert results[0] == results[1] == results[2]


def test_packing_keeps_everything(plain):
    features = local_features(plain)
    data = pack(features)
    assert len(data) == 16 + 136 * len(features.points)
    back = unpack(data)
    assert np.array_equal(back.points, features.points)
    assert np.array_equal(back.descriptors, features.descriptors)
    assert (back.size, back.points.dtype, back.descriptors.dtype) == (features.size, np.float32, np.uint8)
    for wrong in (b"", data[:-1], data + b"0", b"xxxx" + data[4:], data[:10]):
        with pytest.raises(UsageError, match="not packed"):
            unpack(wrong)


def test_flat_and_tiny_images_have_no_points():
    flat = local_features(np.full((50, 60, 3), 99, np.uint8))
    assert flat.points.shape == (0, 2)
    assert flat.descriptors.shape == (0, 128)
    assert unpack(pack(flat)).size == (60, 50)
    tiny = local_features(np.zeros((1, 2000, 3), np.uint8))
    some = local_features(texture(3))
    assert [v.inliers for v in verify(flat, [some, flat])] == [0, 0]
    assert [v.inliers for v in verify(some, [flat, tiny, some])][:2] == [0, 0]
    assert verify(some, []) == []
    for wrong in (
        np.zeros((5, 5), np.uint8),
        np.zeros((5, 5, 4), np.uint8),
        np.zeros((5, 5, 3)),
        np.zeros((0, 5, 3), np.uint8),
    ):
        with pytest.raises(UsageError):
            local_features(wrong)


def made_up(rng, points, descriptors=None):
    if descriptors is None:
        root = np.sqrt(rng.dirichlet(np.full(128, 0.5), len(points)))
        descriptors = np.minimum(np.rint(512 * root), 255).astype(np.uint8)
    return LocalFeatures(np.asarray(points, np.float32), descriptors, (640, 480))


def naive_match(query, candidate, ratio):
    best = {}
    for i, a in enumerate(query.descriptors.astype(int)):
        distances = np.sqrt(((candidate.descriptors.astype(int) - a) ** 2).sum(axis=1))
        order = np.argsort(distances, kind="stable")
        if len(order) > 1 and distances[order[0]] < ratio * distances[order[1]]:
            j = int(order[0])
            if j not in best or distances[j] < best[j][0]:
                best[j] = (distances[j], i)
    return sorted([i, j] for j, (_, i) in best.items())


def test_matches_by_brute_force_in_one_batch_or_many():
    rng = np.random.default_rng(0)
    query = made_up(rng, rng.random((120, 2)) * 400)
    candidates = []
    for count in (80, 1, 0, 3000, 5000, 4000, 120):
        noisy = query.descriptors[rng.integers(0, 120, count)] + rng.normal(0, 8, (count, 128))
        candidates.append(made_up(rng, rng.random((count, 2)), np.clip(np.rint(noisy), 0, 255).astype(np.uint8)))
    candidates[-1] = query
    for ratio in (0.8, 0.95):
        together = list(match(query, candidates, ratio))
        for candidate, pairs in zip(candidates, together, strict=True):
            assert pairs.tolist() == naive_match(query, candidate, ratio)
    assert together[-1].tolist() == [[i, i] for i in range(120)]
    assert 0 < len(together[0]) < 80


def test_mirrored_and_collapsed_views_do_not_count():
    rng = np.random.default_rng(1)
    points = rng.random((60, 2)) * [600, 400] + 20
    query = made_up(rng, points)
    turned = points @ [[0.6, 0.8], [-0.8, 0.6]] + 300
    mirrored = points * [-1, 1] + [640, 0]
    collapsed = points * 0.05
    line = np.stack([points[:, 0], points[:, 0] * 0.5], axis=1)
    views = [made_up(rng, p, query.descriptors) for p in (turned, mirrored, collapsed, line)]
    found = verify(query, views)
    assert [v.inliers for v in found] == [60, 0, 0, 0]
    assert [v.homography is None for v in found] == [False, True, True, True]


def test_inliers_are_counted_among_wrong_matches():
    rng = np.random.default_rng(2)
    points = rng.random((100, 2)) * [600, 400]
    query = made_up(rng, points)
    target = mapped(WARP, points)
    target[60:] = rng.random((40, 2)) * [600, 400]
    (result,) = verify(query, [made_up(rng, target, query.descriptors)])
    assert 58 <= result.inliers <= 64
    np.testing.assert_allclose(mapped(result.homography, points[:60]), target[:60], atol=0.5)


def test_only_verified_answers_move():
    assert rerank(np.array([3, 9, 0, 7]), minimum=10).tolist() == [0, 1, 2, 3]
    assert rerank(np.array([3, 9, 10, 7, 40, 10])).tolist() == [4, 2, 5, 0, 1, 3]
    assert rerank(np.array([12, 9, 10])).tolist() == [0, 2, 1]
    assert rerank(np.array([], int)).tolist() == []
    for order in itertools.permutations([0, 11, 30]):
        assert rerank(np.array(order)).tolist() == sorted(range(3), key=lambda i, o=order: -o[i])
    with pytest.raises(UsageError):
        rerank(np.zeros((2, 2), int))


@pytest.mark.realdata
def test_photos_of_paintings_agree_with_the_right_painting_alone(shared_data: Path):
    from PIL import Image

    folder = shared_data / "paintings"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    truth = json.loads((folder / "qsd2_w2.json").read_text())

    def features(path):
        return local_features(np.asarray(Image.open(folder / path).convert("RGB")))

    queries = truth["queries"][4:8]
    right = [(q["easy"] + q.get("hard", []))[0] for q in queries]
    gallery = [features(path) for path in right]
    counts = np.array([[v.inliers for v in verify(features(q["image"]), gallery)] for q in queries])
    same = np.equal.outer(right, right)
    assert counts[same].min() >= 30
    assert counts[~same].max() < 10


def test_a_similarity_is_found_with_few_points_and_many_wrong_ones():
    """Points with descriptors drawn at random: six lie where one similarity takes them, fourteen anywhere."""
    rng = np.random.default_rng(3)
    angle, scale, shift = np.radians(25), 0.6, np.array([30.0, -12.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = rng.uniform(20, 280, (20, 2))
    moved = points @ turn.T + shift
    moved[6:] = rng.uniform(0, 300, (14, 2))
    looks = rng.integers(0, 90, (20, 128)).astype(np.uint8)
    query, candidate = (LocalFeatures(p.astype(np.float32), looks, (300, 300)) for p in (points, moved))
    found = similarity(query, candidate)
    assert found.inliers == 6
    np.testing.assert_allclose(found.homography, np.vstack([np.column_stack([turn, shift]), [0, 0, 1]]), atol=1e-2)
    assert similarity(query, LocalFeatures(candidate.points[:3], looks[:3], (300, 300))).homography is None
    others = rng.integers(0, 90, (20, 128)).astype(np.uint8)
    assert similarity(query, LocalFeatures(candidate.points, others, (300, 300))).inliers == 0

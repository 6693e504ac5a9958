"""Points of interest: against closed forms, loops over single pixels, turned pictures, and OpenCV's own implementation."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest

from retrieval.errors import UsageError
from retrieval.ranking.geometry import local_features
from retrieval.ranking.sift import MOST_SIDE, extrema, sift
from retrieval.ranking.sift.scale_space import FINEST, STEPS, build_scale_space


def textured(seed: int, height: int, width: int) -> np.ndarray:
    """Blobs of many sizes, uint8 (height, width)."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width), np.float32)
    for spread in (1.5, 3.0, 6.0, 12.0):
        layer = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), spread)
        image += layer / layer.std()
    return np.clip(128 + 30 * image, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("x", "y", "spread"), [(60.3, 40.8, 2.5), (51.0, 47.5, 4.0), (64.25, 48.6, 7.0)])
def test_a_blob_is_found_at_its_place_and_size(x: float, y: float, spread: float) -> None:
    rows, columns = np.mgrid[:96, :128]
    blob = 20 + 200 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * spread**2))
    found = sift(np.rint(blob).astype(np.uint8), 400)
    # The difference of Gaussians at the centre, s^2 / (s^2 + t) - s^2 / (s^2 + k^2 t) at blur t = sigma^2, is greatest at
    # s^2 / k; s^2 is less by the blur of 0.5 that the image is assumed to have.
    scale = ((spread**2 - 0.25) / 2 ** (1 / STEPS)) ** 0.5
    np.testing.assert_allclose(found.place[0], (x, y), atol=0.06)
    assert found.scale[0] == pytest.approx(scale, rel=0.05)


def test_candidates_equal_loops() -> None:
    space = build_scale_space(textured(1, 70, 61))
    fast = extrema._candidates(space, 10**6)
    slow = []
    for number, octave in enumerate(space.octaves):
        images = [space.image(octave, i).astype(np.float64) for i in range(STEPS + 3)]
        steps = [b - a for a, b in itertools.pairwise(images)]
        for step, y, x in itertools.product(
            range(1, STEPS + 1), range(5, octave.height - 5), range(5, octave.width - 5)
        ):
            cube = np.stack([s[y - 1 : y + 2, x - 1 : x + 2] for s in steps[step - 1 : step + 2]])
            value = cube[1, 1, 1]
            if abs(value) >= 0.7 * extrema.CONTRAST and value == (cube.max() if value > 0 else cube.min()):
                slow.append((number, step, y, x))
    assert len(slow) > 30
    assert sorted(map(tuple, fast.T.tolist())) == slow


def test_the_strongest_come_first_and_no_more_than_asked() -> None:
    image = textured(2, 200, 240)
    many, few = sift(image, 500), sift(image, 60)
    assert len(many) > 150
    assert len(few) == 60
    assert {tuple(p) for p in few.place.tolist()} <= {tuple(p) for p in many.place[:120].tolist()}


def test_a_turned_picture_has_the_same_points_turned() -> None:
    image = textured(3, 193, 257)  # of which every second pixel is every second one from either end
    plain, turned = sift(image, 200), sift(np.rot90(image).copy(), 200)
    x, y = turned.place.T
    back = np.stack([256 - y, x], axis=1)
    distance = np.linalg.norm(plain.place[:, None] - back[None], axis=2)
    turn = np.abs((plain.angle[:, None] - (turned.angle[None] + 90) + 180) % 360 - 180)
    partner = np.argmin(distance + turn, axis=1)
    rows = np.arange(len(plain))
    good = (distance[rows, partner] < 0.02) & (turn[rows, partner] < 1)
    assert good.mean() > 0.95
    cosine = (plain.descriptors * turned.descriptors[partner]).sum(axis=1)
    assert cosine[good].min() > 0.99


def test_opencv_finds_the_same() -> None:
    image = textured(4, 240, 320)
    ours = sift(image, 80)
    found, looks = cv2.SIFT.create(sigma=FINEST, contrastThreshold=0.02).detectAndCompute(image, None)
    place, scale = np.array([p.pt for p in found]), np.array([p.size / 2 for p in found])
    angle = np.array([p.angle for p in found])
    unit = looks / np.linalg.norm(looks, axis=1, keepdims=True)
    unit = unit.reshape(-1, 16, 8)[:, :, -np.arange(8) % 8].reshape(-1, 128)  # its directions go the other way round
    seen, alike = [], []
    for i in np.flatnonzero(ours.scale > 1.3 * FINEST):
        apart = np.linalg.norm(place - ours.place[i], axis=1)
        turn = np.abs((angle - ours.angle[i] + 180) % 360 - 180)
        same = (apart < 0.5 * ours.scale[i]) & (np.abs(np.log2(scale / ours.scale[i])) < 0.25)
        seen.append(bool(same.any()))
        if (same := same & (turn < 15)).any():
            alike.append(float((unit[same] @ ours.descriptors[i]).max()))
    assert np.mean(seen) > 0.8
    assert np.median(alike) > 0.97


def test_pictures_without_room_for_a_point() -> None:
    for shape in ((1, 1, 3), (1, 900, 3), (900, 1, 3), (11, 11, 3)):
        assert len(local_features(np.full(shape, 90, np.uint8)).points) == 0
    noise = np.random.default_rng(0).integers(0, 256, (300, 1, 3), dtype=np.uint8)
    assert len(local_features(noise, 300, 512).points) == 0


def test_angles_are_below_a_whole_turn() -> None:
    half = textured(29, 60, 120)  # one of few by which a direction is a turn less next to nothing
    found = sift(np.vstack([half, half[::-1]]), 400)
    assert len(found) > 50
    assert found.angle.min() >= 0
    assert found.angle.max() < 360


@pytest.mark.parametrize(("points", "side"), [(0, 640), (-3, 640), (2.5, 640), (100, 0), (100, float("nan"))])
def test_numbers_that_are_none(points: int, side: int) -> None:
    with pytest.raises(UsageError, match="must be a whole number"):
        local_features(np.zeros((20, 20, 3), np.uint8), points, side)


def test_more_points_than_opencv_counts() -> None:
    image = np.random.default_rng(5).integers(0, 256, (MOST_SIDE, 1200, 3), dtype=np.uint8)
    assert len(local_features(cv2.GaussianBlur(image, (0, 0), 1.0) // 2 * 2, 50_000, MOST_SIDE).points) > 16_384
    with pytest.raises(UsageError, match=f"at most at {MOST_SIDE} pixels, not at 4000"):
        local_features(image, 100, 4000)

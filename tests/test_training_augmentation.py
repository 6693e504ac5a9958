"""Augmentation: decided by the seed alone, and each range does what it says."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from retrieval.errors import UsageError
from retrieval.training.data import augmentation
from retrieval.training.data.augmentation import PRESETS, Preset, augment, view_seed

PICTURE = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


def with_preset(monkeypatch: pytest.MonkeyPatch, **ranges: float) -> str:
    monkeypatch.setitem(augmentation.PRESETS, "mine", Preset(**ranges))
    return "mine"


def test_a_seed_gives_one_picture_whatever_else_happens() -> None:
    for preset in PRESETS:
        first = [augment(PICTURE, preset, seed) for seed in range(12)]
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)
        with ThreadPoolExecutor(4) as pool:
            again = list(pool.map(partial(augment, PICTURE, preset), range(12)))
        for a, b in zip(first, again, strict=True):
            assert a.dtype == np.uint8
            assert a.flags.c_contiguous
            np.testing.assert_array_equal(a, b)


def test_no_global_random_state_is_moved() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    for preset in PRESETS:
        augment(PICTURE, preset, 5)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])
    assert before[2] == random.getstate()


def test_none_changes_nothing_and_others_do() -> None:
    np.testing.assert_array_equal(augment(PICTURE, "none", 3), PICTURE)
    for preset in ("light", "views"):
        made = [augment(PICTURE, preset, seed).tobytes() for seed in range(10)]
        assert len(set(made)) == 10
        assert PICTURE.tobytes() not in made


@pytest.mark.filterwarnings("error")
def test_the_picture_given_is_left_alone_and_may_be_any_view_of_memory() -> None:
    kept = PICTURE.copy()
    turned = PICTURE[::-1, :, ::-1]
    turned.flags.writeable = False
    result = augment(turned, "views", 4)
    np.testing.assert_array_equal(PICTURE, kept)
    np.testing.assert_array_equal(result, augment(turned.copy(), "views", 4))


@pytest.mark.parametrize("shape", [(60, 90), (90, 60), (80, 80), (1, 1), (3, 200)])
@pytest.mark.parametrize("preset", ["light", "views"])
def test_the_longest_side_stays(shape: tuple[int, int], preset: str) -> None:
    array = np.full((*shape, 3), 77, np.uint8)
    chosen = PRESETS[preset]
    for seed in range(30):
        made = augment(array, preset, seed)
        assert max(made.shape[:2]) == max(shape)
        if min(shape) >= 60:
            change = (made.shape[1] / made.shape[0]) / (shape[1] / shape[0])
            assert 1 / chosen.aspect / 1.06 <= change <= chosen.aspect * 1.06


def test_a_crop_keeps_its_share_and_lies_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    name = with_preset(monkeypatch, area=0.25)
    height, width = 120, 200
    y, x = np.mgrid[:height, :width]
    ramp = np.stack([x, y, 0 * x], axis=2).astype(np.uint8)
    shares, places = [], []
    for seed in range(200):
        made = augment(ramp, name, seed).astype(float)
        assert max(made.shape) == 200
        wide, high = (made[..., 0].max() - made[..., 0].min()), (made[..., 1].max() - made[..., 1].min())
        shares.append((wide + 1) * (high + 1) / (height * width))
        places.append((made[..., 0].mean() / (width - 1), made[..., 1].mean() / (height - 1)))
        assert abs(wide / high - width / height) < 0.12
        # The ramp stays a ramp: nothing is turned or mirrored.
        assert (np.diff(made[made.shape[0] // 2, :, 0]) >= 0).all()
    assert 0.22 < min(shares) < 0.35
    assert 0.9 < max(shares) <= 1
    assert np.mean(shares) == pytest.approx(0.625, abs=0.06)
    assert np.mean(places, axis=0) == pytest.approx([0.5, 0.5], abs=0.04)
    assert np.ptp(places, axis=0).min() > 0.3


def test_aspect_ratios_change_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    name = with_preset(monkeypatch, area=0.5, aspect=1.5)
    ratios = [made.shape[1] / made.shape[0] for made in (augment(PICTURE, name, seed) for seed in range(100))]
    assert min(ratios) < 1.5 / 1.3
    assert max(ratios) > 1.5 * 1.3


def test_a_mirrored_picture_is_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    np.testing.assert_array_equal(augment(PICTURE, with_preset(monkeypatch, mirror=1.0), 0), PICTURE[:, ::-1])
    name = with_preset(monkeypatch, mirror=0.5)
    mirrored = sum((augment(PICTURE, name, seed) != PICTURE).any() for seed in range(200))
    assert 70 < mirrored < 130


def test_a_rotation_leaves_no_empty_corners_and_turns_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    name = with_preset(monkeypatch, degrees=25.0)
    white = np.full((80, 120, 3), 255, np.uint8)
    half = white.copy()
    half[:40] = 0  # a level edge
    slopes = []
    for seed in range(40):
        assert augment(white, name, seed).min() >= 250
        turned = augment(half, name, seed)[..., 0] > 127
        edge = turned.shape[0] - turned.sum(axis=0)  # where each column turns white
        slopes.append(np.degrees(np.arctan(np.polyfit(np.arange(len(edge)), edge, 1)[0])))
    assert -27 < min(slopes) < -15
    assert 15 < max(slopes) < 27


def test_light_and_colour_stay_in_range(monkeypatch: pytest.MonkeyPatch) -> None:
    name = with_preset(monkeypatch, light=0.3)
    grey = np.full((20, 20, 3), 100, np.uint8)
    values = [int(augment(grey, name, seed).mean()) for seed in range(100)]
    assert 66 <= min(values) < 80
    assert 120 < max(values) <= 131
    colour = np.full((20, 20, 3), (180, 60, 60), np.uint8)
    assert all(np.ptp(augment(colour, with_preset(monkeypatch, grey=1.0), seed)) <= 1 for seed in range(3))
    turned = [augment(colour, with_preset(monkeypatch, hue=0.1), seed)[0, 0].astype(int) for seed in range(40)]
    assert all(made[0] >= made.max() - 1 for made in turned)  # still a red
    assert any(made[1] - made[2] > 20 for made in turned)
    assert any(made[2] - made[1] > 20 for made in turned)


def test_blur_smooths(monkeypatch: pytest.MonkeyPatch) -> None:
    name = with_preset(monkeypatch, blur=1.0)
    rough = [augment(PICTURE, name, seed).std() for seed in range(10)]
    assert max(rough) < PICTURE.std()
    assert np.ptp(rough) > 5
    assert augment(PICTURE, name, 0).shape == PICTURE.shape


def test_seeds_of_views_differ() -> None:
    seeds = {view_seed(s, e, p, v) for s in (0, 1) for e in range(4) for p in range(30) for v in range(7)}
    assert len(seeds) == 2 * 4 * 30 * 7
    assert view_seed(1, 2, 3, 4) == view_seed(1, 2, 3, 4)
    augment(PICTURE, "light", max(seeds))


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no augmentation is called 'strong'.*none, light, views"):
        augment(PICTURE, "strong", 0)
    for wrong in (PICTURE[..., 0], PICTURE.astype(np.float32), PICTURE[:0]):
        with pytest.raises(UsageError, match="must be uint8"):
            augment(wrong, "light", 0)

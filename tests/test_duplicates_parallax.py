"""Two photos of one facade from nearly one place are no copies of each other, whatever agrees; an altered copy is one."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from fakes import fake_gallery
from PIL import Image, ImageOps

from retrieval.gallery.duplicates import verification
from retrieval.gallery.duplicates.parallax import has_parallax
from retrieval.ranking.geometry import LocalFeatures, Verification

WIDTH, HEIGHT, SKY = 640, 480, 130


def photo(seed: int, step: float, evening: bool) -> Image.Image:
    """A front of stones under a sky. ``step``: pixels by which bays that stand forth move, for a camera a step aside; in the
    ``evening`` sky and light are others."""
    rng = np.random.default_rng(seed)
    front = np.full((HEIGHT, WIDTH), 130, np.uint8)
    for _ in range(900):
        x, y, w, h = rng.integers((0, 0, 5, 5), (WIDTH, HEIGHT, 50, 50))
        cv2.rectangle(front, (x, y), (x + w, y + h), int(rng.integers(30, 230)), -1)
    front = cv2.GaussianBlur(front, (0, 0), 1.0)
    forth = np.repeat(np.repeat(rng.uniform(-1, 1, (4, 6)), 120, axis=0), 107, axis=1)[:HEIGHT, :WIDTH]
    forth = cv2.GaussianBlur(forth, (0, 0), 6)
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    seen = cv2.remap(front, np.asarray(x + step * forth, np.float32), y, cv2.INTER_CUBIC).astype(np.float32)
    if evening:
        seen = seen * (0.75 + 0.2 * x / WIDTH) + 15
    seen[:SKY] = (y * 0.3 + 190 if evening else x * 0.15 + 60 + 25 * np.sin(x / 60))[:SKY]
    return Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8)).convert("RGB")


def part(image: Image.Image, share: float = 0.8) -> Image.Image:
    width, height = round(share * image.width), round(share * image.height)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def compressed(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def verdict(folder: Path, one: Image.Image, two: Image.Image) -> str:
    """The kind of the group that both are in, if any."""
    album = folder / "album"
    album.mkdir(parents=True)
    one.save(album / "one.png")
    two.save(album / "two.png")
    gallery = fake_gallery(folder / "g")
    gallery.index([album])
    return "".join(group.kind for group in gallery.duplicates("scenes").groups)


@pytest.mark.parametrize("seed", range(3))
def test_a_front_photographed_again_a_step_aside_is_a_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    one, two = photo(seed, 0, evening=False), part(photo(seed, 4, evening=True))
    assert verdict(tmp_path / "judged", one, two) == "scenes"
    monkeypatch.setattr(verification, "has_parallax", lambda *_: False)
    assert verdict(tmp_path / "by windows alone", one, two) == "copies"  # or nothing was asked


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_picture_on_a_wall_photographed_twice_is_a_scene(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirrored: bool
) -> None:
    """The whole of one lies on that of the other, slanted a little: the lower corners are six pixels further apart. Mirrored it
    is found by its outline alone."""
    one = photo(3, 0, evening=False)
    corners = np.array([[0, 0], [WIDTH, 0], [WIDTH, HEIGHT], [0, HEIGHT]], np.float32)
    slant = cv2.getPerspectiveTransform(corners, corners + np.array([[0, 0], [0, 0], [3, 0], [-3, 0]], np.float32))
    seen = cv2.warpPerspective(
        np.asarray(one), slant, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    )
    noise = np.random.default_rng(0).normal(0, 16, seen.shape)
    two = Image.fromarray(np.clip(0.8 * seen + 20 + noise, 0, 255).astype(np.uint8))
    same = compressed(Image.fromarray(np.clip(0.8 * np.asarray(one) + 20 + noise, 0, 255).astype(np.uint8)), 60)
    if mirrored:
        two, same = ImageOps.mirror(two), ImageOps.mirror(same)
    assert verdict(tmp_path / "judged", one, two) == "scenes"
    assert verdict(tmp_path / "copy", one, same) == "copies"
    monkeypatch.setattr(verification, "has_parallax", lambda *_: False)
    assert verdict(tmp_path / "by windows alone", one, two) == "copies"


@pytest.mark.parametrize("seed", range(3))
def test_its_copies_are_copies(tmp_path: Path, seed: int) -> None:
    one = photo(seed, 0, evening=False)
    lighter = part(one).point([round(255 * (v / 255) ** 0.6) for v in range(256)] * 3)
    small = part(one).resize((256, 192), Image.Resampling.LANCZOS)
    patched = part(one)
    patched.paste("white", (60, 150, 260, 330))
    for name, copy in (
        ("tone", compressed(lighter, 40)),
        ("small", compressed(small, 35)),
        ("patch", compressed(patched, 60)),
        ("turned", part(one).rotate(4, Image.Resampling.BICUBIC)),
    ):
        assert verdict(tmp_path / name, one, copy) == "copies", name


def features(points: npt.NDArray[np.float64]) -> LocalFeatures:
    """Points of which each looks like none other, as its namesake in another picture does."""
    looks = np.random.default_rng(0).integers(0, 120, (len(points), 128)).astype(np.uint8)
    return LocalFeatures(points.astype(np.float32), looks, (640, 640))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_rest_that_neighbours_share_is_parallax_and_noise_is_none(scale: float) -> None:
    """``scale``: of the second picture's pixels; the measure is the coarser one's pixel."""
    rng = np.random.default_rng(7)
    points = rng.uniform(0, 640, (200, 2))
    affine = np.array([[0.9, 0.1], [-0.1, 0.95]]) * scale
    laid = points @ affine.T + 20
    found = Verification(200, np.block([[affine, np.full((2, 1), 20.0)], [np.zeros((1, 2)), np.ones((1, 1))]]))
    waves = np.column_stack([np.sin(points[:, 1] / 60), np.cos(points[:, 0] / 70)])

    def moved(rest: npt.NDArray[np.float64]) -> bool:
        return has_parallax(features(points), features(laid + scale * rest), found)

    assert not moved(np.zeros_like(points))
    assert not moved(rng.normal(0, 0.5, points.shape))
    assert moved(0.5 * waves)
    assert moved(0.5 * waves + rng.normal(0, 0.3, points.shape))
    assert not moved(0.05 * waves)
    wrong = np.where(rng.uniform(size=(200, 1)) < 0.1, 5.0, 0.05 * waves)  # a tenth of the matches are none
    assert not moved(wrong)
    assert not has_parallax(features(points[:11]), features((laid + scale * waves)[:11]), found)  # too few to say
    assert not has_parallax(features(points), features(laid), Verification(0, None))


@pytest.mark.realdata
def test_photos_of_paintings_are_no_copies(shared_data: Path, tmp_path: Path) -> None:
    """Two photos of each painting, by hand from the front; found by points, and as wholes."""
    pairs = {
        "qsd2_w2/00005": 215,
        "qsd2_w2/00013": 76,
        "qsd1_w1/00018": 286,
        "qsd1_w1/00022": 257,
        "qsd1_w3/00017": 104,
    }
    for name, painting in pairs.items():
        one = Image.open(shared_data / "paintings" / f"{name}.jpg").convert("RGB")
        two = Image.open(shared_data / "paintings" / "gallery" / f"bbdd_{painting:05d}.jpg").convert("RGB")
        assert verdict(tmp_path / name, one, two) == "scenes", name
        assert verdict(tmp_path / f"{name} copy", two, compressed(two, 30)) == "copies", name


@pytest.mark.realdata
def test_two_photos_of_a_church_are_a_scene_and_their_parts_copies(shared_data: Path, tmp_path: Path) -> None:
    """From nearly one place, on two days. Their windows' median correlation is 0.94."""
    church = [shared_data / "sacre-coeur" / f"{name}.jpg" for name in ("71295362_4051449754", "93341989_396310999")]
    one, other = (Image.open(path).convert("RGB") for path in church)
    for share in (0.8, 0.7):
        again = compressed(part(other, share), 90)
        assert verdict(tmp_path / f"scene {share}", one, again) == "scenes"
        assert verdict(tmp_path / f"copy {share}", other, again) == "copies"
        assert verdict(tmp_path / f"part {share}", one, compressed(part(one, share), 40)) == "copies"

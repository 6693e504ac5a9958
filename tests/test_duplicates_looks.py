"""What is looked at of copies, found in less time than by the plain way, is what the plain way finds."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from fakes import fake_gallery
from PIL import Image

from retrieval.gallery.duplicates import closeness, lanczos
from retrieval.gallery.duplicates.edits import worth_keeping
from retrieval.gallery.duplicates.header import header_of
from retrieval.gallery.duplicates.keep import reasons_to_keep, superfluous
from retrieval.gallery.duplicates.look import Look, same_pixels
from retrieval.gallery.duplicates.thumbnails import inner_box
from retrieval.gallery.duplicates.traces import lost_colours, middle_of
from retrieval.pictures import imaging

RNG = np.random.default_rng(5)


def noise(height: int, width: int, *channels: int) -> npt.NDArray[np.uint8]:
    return RNG.integers(0, 256, (height, width, *channels), dtype=np.uint8)


@pytest.mark.parametrize("size", [(150, 200), (511, 700), (300, 333), (411, 401), (300, 401), (7, 9), (1, 1)])
def test_bands_are_the_picture_as_pillow_resizes_it(size: tuple[int, int]) -> None:
    pixels = noise(300, 401)
    wanted = np.asarray(Image.fromarray(pixels.astype(np.float32)).resize(size[::-1], Image.Resampling.LANCZOS))
    found = lanczos.resized(pixels, size[1], size[0])
    assert found.shape == size
    assert np.abs(found - wanted).max() < 1e-3
    narrow = lanczos.resized(pixels[:3, :2], 90, 70)
    wanted = np.asarray(Image.fromarray(pixels[:3, :2].astype(np.float32)).resize((90, 70), Image.Resampling.LANCZOS))
    assert np.abs(narrow - wanted).max() < 1e-3


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_closeness_is_that_of_the_plain_formulas(kind: type) -> None:
    import cv2

    one = cv2.GaussianBlur(noise(307, 411), (0, 0), 1.5)
    one[:100, :100] = 128 + one[:100, :100] // 64
    two = np.clip(one.astype(np.float32) + RNG.normal(0, 5, one.shape), 0, 255).astype(kind)
    two[200:212, 300:312] += np.asarray(60, kind)
    a, b = one.astype(np.float64), two.astype(np.float64)
    laplacians = [cv2.Laplacian(grey, cv2.CV_64F) for grey in (a, b)]
    detail, apart, smooth = [], [], []
    for top in range(0, 307 - 25 + 1, 25):
        for left in range(0, 411 - 25 + 1, 25):
            window = np.s_[top : top + 25, left : left + 25]
            apart.append(np.sqrt(np.square(a[window] - b[window]).mean()))
            if min(a[window].std(), b[window].std()) > 4:
                rough = [np.sqrt(np.square(laplacian[window]).mean()) + 0.5 for laplacian in laplacians]
                detail.append(rough[0] / rough[1])
            elif a[window].std() <= 4:
                smooth.append(b[window].std() - a[window].std())
    found = closeness.windows(one, two)
    assert smooth
    for some, wanted in zip(found, (detail, apart, smooth), strict=True):
        np.testing.assert_allclose(some, wanted, rtol=1e-4, atol=1e-4)
    assert closeness.mean_square(one, two) == pytest.approx(np.square(a - b).mean(), rel=1e-5)
    most = np.sqrt(cv2.blur(np.square(a - b), (12, 12)).max())
    assert closeness.has_spot(one, two, most - 0.01)
    assert not closeness.has_spot(one, two, most + 0.01)


def test_what_a_larger_picture_has_beyond_a_smaller_one() -> None:
    larger, smaller = noise(600, 411), noise(300, 205).astype(np.float32)
    laid = np.asarray(Image.fromarray(smaller).resize((411, 600), Image.Resampling.LANCZOS))
    assert closeness.detail_beyond(larger, smaller) == pytest.approx((larger - laid).std(), rel=1e-4)


def test_borders_are_found_wherever_they_end() -> None:
    for top, left in ((0, 0), (1, 2), (90, 7), (250, 200)):
        grey = np.full((1000, 700), 200, np.uint8)
        grey[top : 1000 - top, left : 700 - left] = noise(1000 - 2 * top, 700 - 2 * left)
        assert inner_box(grey) == (left, top, 700 - left, 1000 - top)
    assert inner_box(np.full((400, 300), 7, np.uint8)) == (0, 0, 300, 400)


def test_lost_colours_are_counted_on_all_lines() -> None:
    few = (noise(200, 300, 3) // 64) * 64  # 64 colours
    assert lost_colours(few)
    many = few.copy()
    many[1] = noise(300, 3)
    assert not lost_colours(many)


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_middle_is_that_of_the_stored_picture(tmp_path: Path, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    for name in ("a.jpg", "a.png", "a.webp", "a.tif"):
        path = str(tmp_path / name)
        Image.fromarray(noise(1105, 1330, 3)).save(path, exif=exif, **({"lossless": True} if "webp" in name else {}))
        assert np.array_equal(Look(path).middle, middle_of(path)), name


def test_exif_data_behind_the_pixels_of_a_png_are_read(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(noise(40, 50, 3)).save(file, "PNG")
    plain = file.getvalue()
    exif = Image.Exif()
    exif[0x010E] = "grandmother, left, 1931"
    exif[0x0112] = 6
    data = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(data)) + b"eXIf" + data + struct.pack(">I", zlib.crc32(b"eXIf" + data))
    (tmp_path / "late.png").write_bytes(plain[:-12] + chunk + plain[-12:])
    (tmp_path / "early.png").write_bytes(plain[:33] + chunk + plain[33:])
    (tmp_path / "none.png").write_bytes(plain)
    late, early = (header_of(str(tmp_path / name)) for name in ("late.png", "early.png"))
    assert late == early
    assert (late.told, late.turn) == (frozenset({0x010E}), 6)
    assert header_of(str(tmp_path / "none.png")).told == frozenset()
    assert worth_keeping(Look(str(tmp_path / "late.png")), Look(str(tmp_path / "none.png"))) == "its EXIF data say more"


def test_equal_pixels_say_nothing_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = noise(300, 400, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.webp", lossless=True)
    pixels[299, 399, 2] ^= 1
    Image.fromarray(pixels).save(tmp_path / "c.png")
    a, b, c = (Look(str(tmp_path / name)) for name in ("a.png", "b.webp", "c.png"))
    assert same_pixels(a, b)
    assert not same_pixels(a, c)
    opened = []
    load = imaging.load_picture
    monkeypatch.setattr(imaging, "load_picture", lambda path, **options: opened.append(path) or load(path, **options))
    best = Look(a.path)
    assert [worth_keeping(Look(other.path), best) for other in (b, c)] == [None, None]
    assert sorted(opened) == sorted([a.path, b.path, c.path])  # each once


def test_pictures_are_counted_while_they_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETRIEVE_PICTURE_MEMORY", "1")  # one at a time
    (tmp_path / "album").mkdir()
    for i in range(3):
        picture = Image.fromarray(noise(30, 40, 3)).resize((160, 120), Image.Resampling.BICUBIC)
        for suffix in ("png", "bmp", "tif"):
            picture.save(tmp_path / "album" / f"{i}.{suffix}")
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
        found = gallery.duplicates()
    seen: list[tuple[int, int]] = []
    listed = superfluous(found, update=lambda done, total: seen.append((done, total)))
    assert seen == [(i + 1, 6) for i in range(6)]
    assert listed == [member.path for group in found.groups for member in group.members[1:]]
    assert reasons_to_keep(found) == {}

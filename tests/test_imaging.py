"""Pictures in: orientation, colour, geometry and boxes against arrays made by hand; hostile files of every kind."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import socket
import struct
import sys
import threading
import time
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, features

from retrieval.errors import ImageError, UsageError
from retrieval.pictures import apart, decoding
from retrieval.pictures.imaging import (
    SUFFIXES,
    Limits,
    Picture,
    fitted_size,
    is_picture_name,
    load_picture,
    picture_from_array,
    picture_size,
)

HAS_AVIF = "avif" in features.modules and features.check("avif")


def scene(width: int, height: int, seed: int = 0) -> np.ndarray:
    """uint8 (height, width, 3) without any symmetry: slopes, an edge, and noise that resampling cannot keep."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    noise = np.random.default_rng(seed).uniform(-40, 40, (height, width, 1))
    slopes = np.stack([40 + 150 * x, 60 + 120 * y, 50 + 70 * x + 70 * y * y], axis=2)
    return np.clip(slopes + noise + 60 * (x > 2 * y)[..., None], 0, 255).astype(np.uint8)


def encoded(image: Any, kind: str = "PNG", *, orientation: int | None = None, **options: Any) -> bytes:
    """The bytes of a picture's file; ``image`` is an array or a PIL image."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the tags of a TIFF that it writes itself
        image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: Any, **options: Any) -> np.ndarray:
    return load_picture(data, **({"size": None} | options)).array


def reason(data: Any, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        load_picture(data, **options)
    text = str(caught.value)
    assert "\n" not in text
    assert "object at 0x" not in text
    assert 0 < len(text) < 200
    return caught.value.message


# ------------------------------------------------------------------------------------------------ orientation

# What is stored so that 1 2 3 / 4 5 6 is seen: from the table of the EXIF standard, which says where row 0 and
# column 0 lie (6: row 0 is the right-hand side, column 0 the top).
SEEN = [[1, 2, 3], [4, 5, 6]]
STORED = {
    1: [[1, 2, 3], [4, 5, 6]],
    2: [[3, 2, 1], [6, 5, 4]],
    3: [[6, 5, 4], [3, 2, 1]],
    4: [[4, 5, 6], [1, 2, 3]],
    5: [[1, 4], [2, 5], [3, 6]],
    6: [[3, 6], [2, 5], [1, 4]],
    7: [[6, 3], [5, 2], [4, 1]],
    8: [[4, 1], [5, 2], [6, 3]],
}
COLOURS = np.random.default_rng(5).integers(0, 256, (7, 3)).astype(np.uint8)
LOSSLESS = {
    "PNG": {},
    "TIFF": {},
    "TIFF-LZW": {"compression": "tiff_lzw"},
    "WEBP": {"lossless": True, "exact": True},
}


def stored_for(seen: np.ndarray, orientation: int) -> np.ndarray:
    """The stored pixels of a larger picture, by looking up where the 2 x 3 example puts its corners."""
    flips = (lambda a: a, lambda a: a[:, ::-1], lambda a: a[::-1], lambda a: a[::-1, ::-1])
    for swap, flip in itertools.product((False, True), flips):

        def turn(a: np.ndarray, swap: bool = swap, flip: Any = flip) -> np.ndarray:
            return flip(a.swapaxes(0, 1) if swap else a)

        if np.array_equal(turn(np.array(SEEN)), STORED[orientation]):
            return np.ascontiguousarray(turn(seen))
    raise AssertionError


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation: int, kind: str) -> None:
    seen, stored = COLOURS[np.array(SEEN)], COLOURS[np.array(STORED[orientation])]
    data = encoded(stored, kind.split("-")[0], orientation=orientation, **LOSSLESS[kind])
    upright = load_picture(data, size=None)
    assert np.array_equal(upright.array, seen)
    assert (upright.width, upright.height) == (3, 2)
    as_stored = load_picture(data, size=None, exif=False)
    assert np.array_equal(as_stored.array, stored)
    assert (as_stored.width, as_stored.height) == (stored.shape[1], stored.shape[0])


@pytest.mark.parametrize("size", [100, 24])  # 24: decoded at a fraction
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_a_jpeg(orientation: int, size: int) -> None:
    seen = np.kron(COLOURS[np.array(SEEN)], np.ones((64, 64, 1), np.uint8))
    data = encoded(stored_for(seen, orientation), "JPEG", orientation=orientation, quality=95)
    small = load_picture(data, size=size)
    assert (small.width, small.height) == (192, 128)
    height, width = small.array.shape[:2]
    assert (width, height) == (size, round(size * 2 / 3))
    centres = small.array[height // 4 :: height // 2, width // 6 :: width // 3][:2, :3].astype(int)
    assert np.abs(centres - COLOURS[np.array(SEEN)]).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_resizing_and_boxes_do_as_if_the_picture_had_been_turned_first(orientation: int, kind: str) -> None:
    seen = scene(211, 130)
    data = encoded(stored_for(seen, orientation), kind, orientation=orientation)
    for options in ({"size": 77}, {"size": 90, "bbox": (13, 20, 140, 119)}, {"size": None, "bbox": (5, 0, 9, 130)}):
        turned, plain = load_picture(data, **options), picture_from_array(seen, **options)
        assert (turned.width, turned.height) == (plain.width, plain.height) == (211, 130)
        assert turned.array.shape == plain.array.shape
        difference = np.abs(turned.array.astype(int) - plain.array)
        assert difference.max() <= 1  # mirrored filter coefficients may round otherwise, now and then
        assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_unknown_orientations_are_none(orientation: int) -> None:
    picture = scene(7, 4)
    assert np.array_equal(pixels(encoded(picture, orientation=orientation)), picture)


def test_a_resolution_that_breaks_pillow_does_not_break_the_picture() -> None:
    """XResolution as an empty text: looking for the resolution, Pillow's reader fails."""
    fields = [(0x0112, 3, 1, 6), (0x011A, 2, 1, 0), (0x0128, 3, 1, 2)]
    block = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 3)
    block += b"".join(struct.pack("<HHII", *field) for field in fields) + bytes(4)
    data = encoded(np.full((8, 16, 3), 90, np.uint8), "JPEG", exif=block).replace(b"JFIF", b"none")
    assert np.array_equal(pixels(data), np.full((16, 8, 3), 90))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_broken_exif_never_fails_a_picture(data: st.DataObject) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x0128], exif[0x011A] = 1, "a description", 2, 72.0
    block = bytearray(exif.tobytes())
    for _ in range(data.draw(st.integers(1, 6))):
        block[data.draw(st.integers(6, len(block) - 1))] = data.draw(st.integers(0, 255))
    del block[data.draw(st.integers(6, len(block))) :]
    array = np.full((4, 4, 3), 90, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind, options in (("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
            # Without JFIF, Pillow looks into EXIF for the resolution.
            file = encoded(array, kind, exif=bytes(block), **options).replace(b"JFIF", b"none")
            assert np.array_equal(pixels(file), array)


# ------------------------------------------------------------------------------------------------ colour

RGB = scene(31, 20, seed=1)
GREY = RGB[..., 1]


def same(got: np.ndarray, want: np.ndarray, tolerance: float = 0) -> None:
    if want.ndim == 2:
        want = np.stack([want] * 3, axis=2)
    assert got.dtype == np.uint8
    assert got.shape == want.shape
    assert got.flags.c_contiguous
    assert np.abs(got.astype(int) - want).max() <= tolerance


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP", "PPM", "JPEG2000"])
def test_colour_is_kept_exactly_by_lossless_formats(kind: str) -> None:
    same(pixels(encoded(RGB, kind, **({"lossless": True} if kind == "WEBP" else {}))), RGB)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "JPEG2000", "GIF"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    same(pixels(encoded(GREY, kind)), GREY)


def test_jpeg_in_grey_rgb_and_cmyk() -> None:
    smooth = np.asarray(Image.fromarray(RGB).resize((62, 40), Image.Resampling.BICUBIC).resize((124, 80)))
    same(pixels(encoded(smooth, "JPEG", quality=98, subsampling=0)), smooth, 12)
    same(pixels(encoded(smooth[..., 0], "JPEG", quality=98)), smooth[..., 0], 12)
    # CMYK as Adobe's programs and Pillow write it: inverted. Ink is 255 - light, no black.
    inks = np.concatenate([255 - smooth, np.zeros_like(smooth[..., :1])], axis=2)
    data = encoded(Image.fromarray(inks, "CMYK"), "JPEG", quality=98)
    assert b"Adobe" in data
    same(pixels(data), smooth, 12)


def test_cmyk_and_lab_tiff() -> None:
    inks = np.array([[[255, 0, 0, 0], [0, 0, 0, 255], [0, 255, 255, 0], [0, 0, 0, 0]]], np.uint8)
    light = [[[0, 255, 255], [0, 0, 0], [255, 0, 0], [255, 255, 255]]]
    same(pixels(encoded(Image.fromarray(inks, "CMYK"), "TIFF")), np.array(light))
    # L*a*b* of sRGB's red and of middle grey relative to D50 are 54.3, 80.8, 69.9 and 53.6, 0, 0.
    lab = np.array([[[138, 81, 70], [137, 0, 0], [255, 0, 0]]], np.uint8)
    got = pixels(encoded(Image.fromarray(lab, "LAB"), "TIFF"))
    same(got, np.array([[[255, 0, 0], [128, 128, 128], [255, 255, 255]]]), 5)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG2000"])
def test_sixteen_bit_grey_looks_like_its_eight_bit_twin(kind: str) -> None:
    same(pixels(encoded(GREY.astype(np.uint16) * 257, kind)), GREY)


def test_sixteen_bit_rounds_to_nearest() -> None:
    values = np.array([[0, 128, 129, 65535, 65406, 32767]], np.uint16)
    same(pixels(encoded(values)), np.array([[0, 0, 1, 255, 254, 127]]))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, data: bytes, *more: bytes) -> bytes:
    """A PNG file by hand; ``data``: rows with their filter byte."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress(data))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + rows + chunk(b"IEND", b"")


def test_sixteen_bit_colour() -> None:
    row = b"\0" + (RGB[:1].astype(">u2") * 257).astype(">u2").tobytes()
    same(pixels(png(31, 1, 16, 2, row)), RGB[:1])
    ppm = b"P6 31 20 65535\n" + (RGB.astype(">u2") * 257).astype(">u2").tobytes()
    same(pixels(ppm), RGB)
    pgm = b"P5 31 20 65535\n" + (GREY.astype(">u2") * 257).astype(">u2").tobytes()
    same(pixels(pgm), GREY)


@pytest.mark.parametrize("scale", [1 / 255, 1, 257])
def test_float_tiff_in_the_three_usual_ranges(scale: float) -> None:
    values = GREY.astype(np.float32) * np.float32(scale)
    values[0, 0] = 255 * scale
    want = GREY.copy()
    want[0, 0] = 255
    same(pixels(encoded(values, "TIFF")), want)


def test_unusual_floats_and_integers_are_stretched() -> None:
    values = np.array([[-2.0, 0.0, 2.0, np.nan]], np.float32)
    same(pixels(encoded(values, "TIFF")), np.array([[0, 128, 255, 0]]))
    same(pixels(encoded(np.full((2, 2), np.nan, np.float32), "TIFF")), np.zeros((2, 2), int))
    same(pixels(encoded(np.full((2, 2), -7, np.float32), "TIFF")), np.zeros((2, 2), int))
    same(pixels(encoded(np.array([[0.5, 1.2]], np.float32), "TIFF")), np.array([[128, 255]]))
    same(pixels(encoded(np.array([[0, 100_000, 200_000]], np.int32), "TIFF")), np.array([[0, 128, 255]]))
    same(pixels(encoded(np.array([[0, 7, 255]], np.int32), "TIFF")), np.array([[0, 7, 255]]))


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    weight = alpha[..., None] / 255
    return np.round(colour * weight + 255 * (1 - weight))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_transparent_pixels_lie_on_white(kind: str) -> None:
    alpha = np.random.default_rng(2).integers(0, 256, GREY.shape).astype(np.uint8)
    alpha[0, :3] = 0, 255, 128
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    same(pixels(encoded(np.dstack([RGB, alpha]), kind, **options)), over_white(RGB, alpha), 1)
    if kind != "WEBP":
        grey_alpha = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
        want = over_white(np.dstack([GREY] * 3), alpha)
        same(pixels(encoded(grey_alpha, kind)), want, 1)


def test_palettes_and_keyed_transparency() -> None:
    image = Image.new("P", (4, 1))
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 255, 9, 9, 9])
    image.putdata([0, 1, 2, 3])
    colours = np.array([[[10, 20, 30], [200, 100, 50], [0, 0, 255], [9, 9, 9]]])
    same(pixels(encoded(image)), colours)
    same(pixels(encoded(image, "GIF")), colours)
    keyed = colours.copy()
    keyed[0, 1] = 255
    same(pixels(encoded(image, transparency=1)), keyed)
    same(pixels(encoded(image, "GIF", transparency=1)), keyed)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = encoded(image, transparency=bytes([255, 0, 128, 255]))
        same(pixels(table), over_white(colours, np.array([[255, 0, 128, 255]])), 1)
    key = chunk(b"tRNS", struct.pack(">3H", 10, 20, 30))
    same(pixels(png(2, 1, 8, 2, b"\0" + bytes([10, 20, 30, 40, 50, 60]), key)), np.array([[[255] * 3, [40, 50, 60]]]))


def test_one_bit_pictures_are_black_and_white_and_resized_smoothly() -> None:
    dots = np.indices((40, 40)).sum(axis=0) % 2 == 0
    for kind, options in (("PNG", {}), ("TIFF", {"compression": "group4"}), ("PPM", {})):
        data = encoded(Image.fromarray(dots), kind, **options)
        same(pixels(data), dots * 255)
        assert abs(pixels(data, size=10).astype(int) - 127).max() <= 3


def test_only_the_first_frame_or_page_counts() -> None:
    frames = [Image.fromarray(np.full((6, 8), value, np.uint8)) for value in (40, 200)]
    for kind in ("GIF", "TIFF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
        same(pixels(data), np.full((6, 8), 40), 2)


@pytest.mark.skipif(not HAS_AVIF, reason="this Pillow was built without AVIF")
def test_avif() -> None:
    smooth = np.asarray(Image.fromarray(RGB[:4, :4]).resize((64, 48), Image.Resampling.BICUBIC))
    data = encoded(smooth, "AVIF", quality=95, orientation=6)
    assert np.abs(pixels(data).astype(int) - np.rot90(smooth, -1)).mean() < 4


def test_heic_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    head = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"
    assert reason(head + bytes(99)) == "HEIC pictures need pillow-heif: pip install 'retrieval[heif]'"


def test_heic_is_read_where_pillow_heif_is_installed() -> None:
    heif = pytest.importorskip("pillow_heif")
    smooth = np.asarray(Image.fromarray(RGB[:4, :4]).resize((64, 48), Image.Resampling.BICUBIC))
    buffer = io.BytesIO()
    heif.from_pillow(Image.fromarray(smooth)).save(buffer, quality=95)
    assert np.abs(pixels(buffer.getvalue()).astype(int) - smooth).mean() < 4


# ------------------------------------------------------------------------------------------------ geometry


@pytest.mark.parametrize(
    ("width", "height", "longest", "want"),
    [
        (800, 600, 1024, (800, 600)),  # never enlarged
        (1024, 768, 1024, (1024, 768)),
        (1024, 768, 512, (512, 384)),
        (768, 1024, 512, (384, 512)),
        (641, 480, 320, (320, 240)),  # 239.6
        (1000, 333, 100, (100, 33)),  # 33.3
        (333, 1000, 100, (33, 100)),
        (1000, 335, 100, (100, 34)),  # 33.5: 1000/335 = 2.985 is nearer to 100/34 = 2.94 than to 100/33 = 3.03
        (4000, 1, 100, (100, 1)),
        (1, 4000, 100, (1, 100)),
        (5, 5, 1, (1, 1)),
    ],
)
def test_fitted_size_by_hand(width: int, height: int, longest: int, want: tuple[int, int]) -> None:
    assert fitted_size(width, height, longest) == want
    if width * height < 1_000_000:
        assert pixels(np_png(width, height), size=longest).shape == (want[1], want[0], 3)


def np_png(width: int, height: int) -> bytes:
    return encoded(np.zeros((height, width), np.uint8))


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 3000))
def test_fitted_size_is_that_of_thumbnail(width: int, height: int, longest: int) -> None:
    image = Image.new("1", (width, height))
    image.thumbnail((longest, longest), Image.Resampling.NEAREST, reducing_gap=None)
    assert fitted_size(width, height, longest) == image.size


def kernel(name: str, x: np.ndarray) -> tuple[np.ndarray, int]:
    x = np.abs(x)
    if name == "lanczos":
        return np.where(x < 3, np.sinc(x) * np.sinc(x / 3), 0), 3
    if name == "bicubic":  # Keys, a = -1/2
        inner, outer = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
        return np.where(x < 1, inner, np.where(x < 2, outer, 0)), 2
    return np.maximum(1 - x, 0), 1


def resampled(array: np.ndarray, length: int, name: str) -> np.ndarray:
    """Axis 0 brought down to ``length``, in double precision: the filter stretched by the factor, normalised."""
    factor = len(array) / length
    centres = (np.arange(length) + 0.5) * factor
    weights, _ = kernel(name, (np.arange(len(array)) + 0.5 - centres[:, None]) / factor)
    return np.tensordot(weights / weights.sum(axis=1, keepdims=True), array, axes=(1, 0))


@pytest.mark.parametrize("name", ["lanczos", "bicubic", "bilinear"])
def test_filters_against_double_precision(name: str) -> None:
    picture = scene(97, 64)
    got = pixels(encoded(picture), size=40, interpolation=name)
    assert got.shape == (26, 40, 3)
    want = resampled(picture.astype(float), 26, name).swapaxes(0, 1)
    want = np.clip(resampled(want, 40, name).swapaxes(0, 1), 0, 255)
    assert np.abs(got - want).max() < 1.6  # two roundings


def jpeg_beside_a_limit(longest: int) -> bytes:
    return encoded(scene(longest, longest // 2), "JPEG", quality=95)


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_decoded_smaller_only_from_six_times_the_size_on(progressive: bool) -> None:
    picture = scene(600, 401)
    data = encoded(picture, "JPEG", quality=95, progressive=progressive)
    full = Image.open(io.BytesIO(data)).convert("RGB")
    for size in (599, 300, 101):  # 101: half of 600 is less than three times that
        exact = full.copy()
        exact.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=None)
        assert np.array_equal(pixels(data, size=size), np.asarray(exact))
    for size in (100, 50, 25, 7):
        exact = full.copy()
        exact.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=None)
        got, want = pixels(data, size=size), np.asarray(exact)
        assert got.shape == want.shape
        assert not np.array_equal(got, want)
        assert np.abs(got.astype(int) - want).mean() < 1


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_draft_is_not_shifted(orientation: int) -> None:
    """601 is no multiple of 8: what is decoded at 1/8 reaches beyond the picture, and that must not count."""
    x = np.linspace(0, 250, 601)
    ramp = np.repeat(x[None], 403, axis=0)
    data = encoded(ramp.astype(np.uint8), "JPEG", quality=98, orientation=orientation)
    got = pixels(data, size=20)[..., 0].astype(float)
    got = got.mean(axis=0) if orientation == 1 else got.mean(axis=1)
    want = resampled(x[:, None], 20, "lanczos")[:, 0]
    assert np.abs(got - want)[1:-1].max() < 1.2


@pytest.mark.realdata
def test_draft_on_photographs(shared_data: Path) -> None:
    means = []
    for path in sorted((shared_data / "sacre-coeur").glob("*.jpg")):
        full = Image.open(path).convert("RGB")
        size = max(full.size) // 6
        exact = full.copy()
        exact.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=None)
        means.append(np.abs(pixels(path, size=size).astype(int) - np.asarray(exact)).mean())
        assert 0 < means[-1] < 1
    assert len(means) == 10
    assert np.mean(means) < 0.5


@pytest.mark.realdata
def test_photographs_of_640_pixels_are_exact_at_512(shared_data: Path) -> None:
    paths = sorted((shared_data / "paintings" / "gallery").glob("*.jpg"))[:8]
    assert paths
    for path in paths:
        exact = Image.open(path).convert("RGB")
        exact.thumbnail((512, 512), Image.Resampling.LANCZOS, reducing_gap=None)
        assert np.array_equal(pixels(path, size=512), np.asarray(exact))


# ------------------------------------------------------------------------------------------------ boxes

PICTURE = scene(120, 80)


def test_a_box_is_a_cut_of_the_original() -> None:
    got = load_picture(encoded(PICTURE), size=None, bbox=(10, 20, 50, 35))
    assert np.array_equal(got.array, PICTURE[20:35, 10:50])
    assert (got.width, got.height) == (120, 80)


def test_box_corners_round_to_even_as_pillow_does() -> None:
    for box, (x1, y1, x2, y2) in {
        (10.5, 20.5, 50.5, 35.5): (10, 20, 50, 36),
        (10.49, 20.51, 50.6, 35.4): (10, 21, 51, 35),
    }.items():
        assert np.array_equal(pixels(encoded(PICTURE), bbox=box), PICTURE[y1:y2, x1:x2])


def test_a_box_beyond_the_border_is_clipped() -> None:
    assert np.array_equal(pixels(encoded(PICTURE), bbox=(-5, 60, 30, 1e9)), PICTURE[60:, :30])


@pytest.mark.parametrize(
    ("size", "box", "want"),
    [
        (60, (20, 10, 60, 30), (20, 10)),  # the whole would be halved: 40 x 20 becomes 20 x 10
        (1000, (20, 10, 60, 30), (40, 20)),  # never enlarged
        (100, (0, 0, 31, 50), (25, 41)),  # 100 * 50 / 120 = 41.67, rounded down; 31 * 41 / 50 = 25.4
        (1, (0, 0, 60, 60), (1, 1)),
    ],
)
def test_a_box_is_scaled_by_the_factor_of_the_whole(size: int, box: Any, want: tuple[int, int]) -> None:
    got = pixels(encoded(PICTURE), size=size, bbox=box)
    assert got.shape == (want[1], want[0], 3)
    x1, y1, x2, y2 = box
    cut = Image.fromarray(PICTURE[y1:y2, x1:x2])  # cut first: no pixel outside of the box has a share
    if want != cut.size:
        cut = cut.resize(want, Image.Resampling.LANCZOS)
    assert np.array_equal(got, np.asarray(cut))


@pytest.mark.parametrize("size", [300, 60, 20])
def test_a_true_box_is_cut_from_a_jpeg_decoded_in_full(size: int) -> None:
    data = encoded(scene(640, 427), "JPEG")
    full = np.asarray(Image.open(io.BytesIO(data)))
    for box in ((100, 50, 500, 400), (0, 0, 639, 427)):
        want = picture_from_array(full, size=size, bbox=box)
        assert np.array_equal(pixels(data, size=size, bbox=box), want.array)


@pytest.mark.parametrize("size", [None, 1024, 300, 90, 40])
@pytest.mark.parametrize("orientation", [1, 3, 8])
def test_the_box_of_the_whole_picture_changes_no_byte(size: int | None, orientation: int) -> None:
    stored = scene(640, 427)
    data = encoded(stored, "JPEG", orientation=orientation)
    plain = load_picture(data, size=size)
    for box in ((0, 0, plain.width, plain.height), (-3, -0.4, plain.width + 9, plain.height + 0.3)):
        assert np.array_equal(load_picture(data, size=size, bbox=box).array, plain.array)


@pytest.mark.parametrize(
    "box",
    [
        (130, 10, 150, 20),
        (-20, 0, -1, 10),
        (0, 80, 10, 90),
        (10, 10, 10, 20),
        (10.1, 10, 10.4, 20),
        (50, 10, 20, 20),
        (10, 40, 50, 30),
        (float("nan"), 0, 10, 10),
        (0, 0, float("inf"), 10),
    ],
)
def test_impossible_boxes_name_the_size_of_the_picture(box: Any) -> None:
    for call in (
        lambda: load_picture(encoded(PICTURE), bbox=box),
        lambda: load_picture(encoded(PICTURE, "JPEG"), bbox=box, size=10),
        lambda: picture_from_array(PICTURE, bbox=box),
    ):
        with pytest.raises(UsageError, match="120 x 80 pixels"):
            call()


@pytest.mark.parametrize("box", [(1, 2, 3), (1, 2, 3, 4, 5), 7, "abcd", [None] * 4, ()])
def test_a_box_is_four_numbers(box: Any) -> None:
    with pytest.raises(UsageError, match="four numbers"):
        load_picture(encoded(PICTURE), bbox=box)


@pytest.mark.parametrize("size", [0, -1, 1.5, "big", True])
def test_sizes_that_are_none(size: Any) -> None:
    with pytest.raises(UsageError, match="size must be"):
        load_picture(encoded(PICTURE), size=size)


def test_unknown_interpolation() -> None:
    with pytest.raises(UsageError, match=r"nearest.*lanczos, bicubic, bilinear"):
        load_picture(encoded(PICTURE), interpolation="nearest")
    assert pixels(encoded(PICTURE), size=np.int64(60)).shape == (40, 60, 3)


# ------------------------------------------------------------------------------------------------ sources


def test_every_kind_of_source_gives_the_same(tmp_path: Path) -> None:
    path = tmp_path / "picture with no suffix"
    for kind in ("PNG", "TIFF"):
        data = encoded(PICTURE, kind, **({"compression": "tiff_lzw"} if kind == "TIFF" else {}))
        path.write_bytes(data)
        zipped = tmp_path / "x.gz"
        zipped.write_bytes(gzip.compress(data))
        with open(path, "rb") as file, open(path, "rb", buffering=0) as raw, gzip.open(zipped) as stream:
            file.seek(7)
            sources = [path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file, raw, stream]
            for source in sources:
                assert np.array_equal(pixels(source), PICTURE), source
            assert not file.closed
            assert not raw.closed


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded(PICTURE))
    with open(tmp_path / "x.png", encoding="latin-1") as file, pytest.raises(UsageError, match="binary"):
        load_picture(file)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="int"):
        load_picture(7)  # type: ignore[arg-type]


def test_arrays_follow_the_same_rules() -> None:
    data = encoded(PICTURE)
    for options in ({}, {"size": 60}, {"size": 50, "bbox": (3, 4, 90, 61), "interpolation": "bicubic"}):
        want = load_picture(data, **options)
        for array in (PICTURE, np.asfortranarray(PICTURE), Image.fromarray(PICTURE)):
            got = picture_from_array(array, **options)
            assert np.array_equal(got.array, want.array)
            assert (got.width, got.height) == (120, 80)
            assert got.array.flags.c_contiguous
    grey = picture_from_array(PICTURE[..., 0], size=None)
    same(grey.array, PICTURE[..., 0])
    mine = PICTURE.copy()
    picture_from_array(mine, size=None).array[:] = 0
    assert np.array_equal(mine, PICTURE)


def test_pil_images_of_other_modes_and_with_orientation() -> None:
    half = Image.fromarray(np.dstack([RGB, np.full(GREY.shape, 128, np.uint8)]))
    same(picture_from_array(half, size=None).array, over_white(RGB, np.full(GREY.shape, 128)), 1)
    opened = Image.open(io.BytesIO(encoded(RGB, orientation=6)))
    assert np.array_equal(picture_from_array(opened, size=None).array, np.rot90(RGB, -1))
    assert np.array_equal(picture_from_array(opened, size=None, exif=False).array, RGB)
    cut_short = Image.open(io.BytesIO(encoded(RGB, "JPEG")[:-50]))
    with pytest.raises(ImageError, match="truncated"):
        picture_from_array(cut_short)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 1), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        "picture.jpg",
    ],
)
def test_arrays_that_are_no_pictures(array: Any) -> None:
    with pytest.raises(UsageError, match="uint8 array"):
        picture_from_array(array)


def test_names() -> None:
    for name in ("a.jpg", "B.JPEG", "/x/y.z/c.WebP", "d.tar.png", "é.heic"):
        assert is_picture_name(name)
    for name in ("a.txt", "jpg", ".jpg", "a.jpg.part", "a.mp4", "folder.jpg/x", "", "._a.jpg", "/x/._a.jpg"):
        assert not is_picture_name(name)
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in SUFFIXES)


# ------------------------------------------------------------------------------------------------ hostile files


def sizes_in_headers(width: int, height: int) -> dict[str, bytes]:
    """Small files whose headers speak of ``width`` x ``height`` pixels."""
    jpeg = bytearray(encoded(PICTURE, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    bmp = bytearray(encoded(PICTURE, "BMP"))
    bmp[18:26] = struct.pack("<ii", width, height)
    gif = bytearray(encoded(PICTURE[..., 0], "GIF"))
    gif[6:10] = struct.pack("<HH", width, height)
    tiff = encoded(PICTURE, "TIFF").replace(
        struct.pack("<HHII", 256, 4, 1, 120), struct.pack("<HHII", 256, 4, 1, width)
    )
    tiff = tiff.replace(struct.pack("<HHII", 257, 4, 1, 80), struct.pack("<HHII", 257, 4, 1, height))
    jp2 = bytearray(encoded(PICTURE, "JPEG2000"))
    box = jp2.index(b"ihdr")
    jp2[box + 4 : box + 12] = struct.pack(">II", height, width)
    return {
        "png": png(width, height, 8, 2, bytes(1000)),
        "jpeg": bytes(jpeg),
        "bmp": bytes(bmp),
        "gif": bytes(gif),
        "tiff": tiff,
        "jp2": bytes(jp2),
        "ppm": b"P6 %d %d 255\n" % (width, height) + bytes(99),
    }


@pytest.mark.parametrize("kind", sizes_in_headers(1, 1))
def test_bombs_are_refused_by_their_headers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("its pixels were asked for")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with monkeypatch.context() as patch:
            patch.setattr(ImageFile.ImageFile, "load", decoded)
            patch.setattr(apart, "inside", True)  # here, where that would be seen
            message = reason(sizes_in_headers(50000, 50000)[kind], size=64)
        assert message == "50000 x 50000 pixels exceed the limit of 179 megapixels"
        # Below the limit there are only too few data, and no warning of Pillow's, which begin at 89 megapixels.
        # (JPEG and GIF have end marks; what stands before them counts as the picture.)
        if kind in ("jpeg", "gif"):
            load_picture(sizes_in_headers(12000, 12000)[kind], size=64)
        else:
            assert reason(sizes_in_headers(12000, 12000)[kind]).startswith(("truncated", "damaged"))


def test_the_limit_can_be_set() -> None:
    data = encoded(PICTURE)
    assert reason(data, max_pixels=9599) == "120 x 80 pixels exceed the limit of 0.0096 megapixels"
    assert pixels(data, max_pixels=9600).shape == PICTURE.shape


def test_text_and_palette_bombs() -> None:
    rows = b"\0" + bytes(12)
    for kind, head in ((b"zTXt", b"Comment\0\0"), (b"iTXt", b"c\0\1\0\0\0"), (b"iCCP", b"p\0\0")):
        much = chunk(kind, head + zlib.compress(bytes(80_000_000)))
        assert np.array_equal(pixels(png(4, 1, 8, 2, rows, much)), np.zeros((1, 4, 3)))  # it is not pixels
    palette = chunk(b"PLTE", bytes(3 * 100_000))
    assert "damaged PNG" in reason(png(4, 1, 8, 3, b"\0" + bytes(4), palette))
    more = png(4, 1, 8, 2, rows + bytes(50_000_000))  # far more pixels in the stream than in the header
    assert pixels(more).shape == (1, 4, 3)


def test_files_that_hold_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    for content, expected in {
        b"": "empty file",
        b"hello, this is not a picture at all\n" * 9: "text, not a picture",
        "größe".encode(): "text, not a picture",
        b"\n<!DOCTYPE html><html><body>404</body></html>": "an HTML page, not a picture",
        b'<?xml version="1.0"?>\n<svg xmlns="x"/>': "an SVG drawing, not a picture of pixels",
        b"version https://git-lfs.github.com/spec/v1\noid": "a Git LFS pointer, not the picture itself",
        b"%PDF-1.7\n": "a PDF document, not a picture",
        b"\0\0\0\x18ftypmp42\0\0\0\0": "a film or a camera's raw file, which cannot be read",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n": "text, not a picture",
        b"\xff\xd8\xff": "truncated: the file ends early",
        b"\x89PNG\r\n\x1a\n": "truncated: the file ends early",
        bytes(500): "not a picture that can be read",
        os.urandom(4) + b"\0\1\2" * 50: "not a picture that can be read",
    }.items():
        path.write_bytes(content)
        assert reason(path) == expected
        assert reason(content) == expected


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    good = tmp_path / "good.png"
    good.write_bytes(encoded(PICTURE))
    link, nowhere, loop = tmp_path / "link.png", tmp_path / "nowhere.png", tmp_path / "loop.png"
    link.symlink_to(good)
    nowhere.symlink_to(tmp_path / "absent")
    loop.symlink_to(loop)
    assert np.array_equal(pixels(link), PICTURE)
    assert reason(tmp_path) == "a directory, not a picture"
    assert reason(nowhere) == "a symbolic link to nothing"
    assert reason(loop) == "a symbolic link that leads to itself"
    assert reason(tmp_path / "absent.jpg") == "No such file or directory"
    assert reason("/dev/null") == "not a regular file (device)"
    assert reason("a\0b.jpg").startswith("not a file name")
    assert reason("x" * 5000) == "File name too long"
    place = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place)[-100:] if len(str(place)) < 100 else place.name)
        if place.exists():
            assert reason(place) == "not a regular file (socket)"


def test_a_fifo_does_not_block(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo.jpg"
    os.mkfifo(fifo)
    said: list[str] = []
    thread = threading.Thread(target=lambda: said.append(reason(fifo)), daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert said == ["not a regular file (FIFO)"]


def test_troubles_outside_of_the_file_are_transient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded(PICTURE))
    content = ImageError("")
    for error, message in {
        PermissionError(13, "Permission denied"): "permission denied",
        OSError(5, "Input/output error"): "Input/output error",
        OSError(24, "Too many open files"): "Too many open files",
    }.items():

        def refuse(*_: Any, error: OSError = error) -> Any:
            raise error

        monkeypatch.setattr("builtins.open", refuse)
        with pytest.raises(ImageError, match=message) as caught:
            load_picture(path)
        monkeypatch.undo()
        assert caught.value.transient
        assert str(path) not in str(caught.value)
    for data in (b"", b"text", encoded(PICTURE)[:90]):
        with pytest.raises(ImageError) as caught:
            load_picture(data)
        assert not caught.value.transient
    assert not content.transient

    class Failing(io.BytesIO):
        def read(self, *args: Any) -> bytes:
            if self.tell() > 1000:
                raise OSError(5, "Input/output error")
            return super().read(*args)

    with pytest.raises(ImageError, match="Input/output error") as caught:
        load_picture(Failing(encoded(scene(300, 300))))
    assert caught.value.transient

    def no_memory(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(decoding, "load_pixels", no_memory)
    with pytest.raises(ImageError, match="memory") as caught:
        load_picture(path)
    assert caught.value.transient


def test_a_huge_file_of_a_format_that_is_read_whole_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "x.webp"
    with open(path, "wb") as file:
        file.write(encoded(PICTURE, "WEBP"))
        file.truncate(20_000_000_000)  # sparse
    assert reason(path) == "20.0 GB in one file are more than a picture needs"


# ------------------------------------------------------------------------------------------------ truncated files


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "PPM", "TIFF", "WEBP"])
def test_truncated_files_are_refused(kind: str) -> None:
    data = encoded(PICTURE if kind != "GIF" else PICTURE[..., 0], kind)
    for share in (0.5, 0.9):
        assert reason(data[: int(len(data) * share)]) == "truncated: the file ends early"


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg_on_request_as_pillow_reads_it(progressive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(scene(160, 160), "JPEG", progressive=progressive)
    cut = data[: len(data) * 2 // 3]
    got = pixels(cut, allow_truncated=True)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    assert np.array_equal(pixels(data, allow_truncated=True), pixels(data))
    if not progressive:
        assert np.array_equal(got[:64], pixels(data)[:64])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert np.array_equal(got, np.asarray(Image.open(io.BytesIO(cut)).convert("RGB")))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("kind", ["PNG", "BMP", "PPM", "TIFF"])
def test_other_truncated_files_on_request(kind: str) -> None:
    picture = scene(100, 80)
    data = encoded(picture, kind, **({"orientation": 6} if kind == "TIFF" else {}))
    got = pixels(data[: len(data) // 2], allow_truncated=True)
    whole = np.rot90(picture, -1) if kind == "TIFF" else picture
    assert got.shape == whole.shape
    small = load_picture(data[: len(data) // 2], size=50, allow_truncated=True)
    assert (small.height, small.width) == whole.shape[:2]
    assert max(small.array.shape) == 50
    kept = (got == whole).all(axis=2).mean()
    assert 0.35 < kept < 0.65
    assert reason(data[:12], allow_truncated=True).startswith(("truncated", "damaged", "not a picture"))


def test_leave_for_truncated_files_does_not_leak_to_other_threads() -> None:
    data = encoded(scene(200, 200), "JPEG")
    cut = data[: len(data) // 2]

    def attempt(index: int) -> bool:
        try:
            load_picture(cut, size=32, allow_truncated=index % 2 == 0)
            return True
        except ImageError:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(attempt, range(200))) == [index % 2 == 0 for index in range(200)]


# ------------------------------------------------------------------------------------------------ threads


def test_many_threads_get_what_one_gets() -> None:
    files = [
        encoded(scene(200 + 10 * index, 150, seed=index), kind, orientation=1 + index)
        for index, kind in enumerate(["JPEG", "PNG", "TIFF", "WEBP", "JPEG", "PNG", "TIFF", "JPEG"])
    ]
    options: list[dict[str, Any]] = [{"size": 64}, {"size": 24}, {"size": None}, {"size": 90, "bbox": (9, 9, 99, 99)}]
    jobs = list(itertools.product(files, options)) * 3
    want = [load_picture(data, **option).array for data, option in jobs]

    def load(job: tuple[bytes, dict[str, Any]]) -> Picture:
        return load_picture(job[0], **job[1])

    with ThreadPoolExecutor(8) as pool:
        for got, expected in zip(pool.map(load, jobs), want, strict=True):
            assert np.array_equal(got.array, expected)


@pytest.mark.parametrize(
    ("memory", "options", "at_once"),
    [
        (400_000, {}, False),
        (10**9, {}, True),
        (400_000, {"size": 10}, True),  # decoded at 1/8 of its side: 600 pixels
        (250_000, {"size": 10, "bbox": (0, 0, 99, 99)}, False),
        (400_000, {"size": 10, "progressive": True}, True),
        (150_000, {"size": 10, "progressive": True}, False),  # its coefficients are held for all 38,400 pixels
    ],
)
def test_big_pictures_are_decoded_one_at_a_time(
    memory: int, options: dict[str, Any], at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = [0, 0]
    guard = threading.Lock()
    decode = decoding.load_pixels

    def watched(*args: Any) -> int:
        with guard:
            inside[0] += 1
            inside[1] = max(inside)
        time.sleep(0.03)
        turn = decode(*args)
        with guard:
            inside[0] -= 1
        return turn

    monkeypatch.setattr(decoding, "load_pixels", watched)
    options = dict(options)
    data = encoded(scene(240, 160), "JPEG", progressive=options.pop("progressive", False))
    limits = Limits(memory=memory)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: load_picture(data, limits=limits, **options), range(8)))
    assert (inside[1] > 1) is at_once


def test_nothing_is_changed_for_the_rest_of_the_process() -> None:
    def state() -> tuple[Any, ...]:
        return Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters), sorted(Image.ID)

    before = state()
    load_picture(encoded(PICTURE))
    load_picture(encoded(PICTURE, "JPEG")[:-300], allow_truncated=True)
    reason(sizes_in_headers(50000, 50000)["png"])
    reason(encoded(PICTURE, "JPEG")[:900])
    assert state() == before


# ------------------------------------------------------------------------------------------------ fuzz

TINY = scene(24, 16)
SEEDS = {
    "jpeg": encoded(TINY, "JPEG", orientation=6),
    "jpeg-progressive": encoded(TINY, "JPEG", progressive=True),
    "jpeg-cmyk": encoded(Image.fromarray(TINY).convert("CMYK"), "JPEG"),
    "png": encoded(TINY, orientation=3),
    "png-palette": encoded(Image.fromarray(TINY).quantize(16), transparency=3),
    "gif": encoded(Image.fromarray(TINY).quantize(16), "GIF", transparency=2),
    "tiff": encoded(TINY, "TIFF", orientation=6),
    "tiff-lzw": encoded(TINY, "TIFF", compression="tiff_lzw", orientation=8),
    "tiff-float": encoded(TINY[..., 0].astype(np.float32), "TIFF"),
    "webp": encoded(TINY, "WEBP", orientation=5),
    "bmp": encoded(TINY, "BMP"),
    "ppm": encoded(TINY, "PPM"),
    "jp2": encoded(TINY, "JPEG2000"),
}


@pytest.mark.parametrize("name", SEEDS)
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_damaged_files_raise_image_errors_and_nothing_else(name: str, data: st.DataObject) -> None:
    file = bytearray(SEEDS[name])
    if data.draw(st.booleans()):
        del file[data.draw(st.integers(0, len(file))) :]
    for _ in range(data.draw(st.integers(0, 6)) if file else 0):
        last = len(file) - 1 if data.draw(st.booleans()) else min(len(file) - 1, 150)
        file[data.draw(st.integers(0, last))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        size, leave = data.draw(st.sampled_from([None, 3, 10])), data.draw(st.booleans())
        try:
            array = load_picture(bytes(file), size=size, allow_truncated=leave, max_pixels=1_000_000).array
        except ImageError as error:
            text = str(error)
        else:
            text = "a picture"
            assert array.dtype == np.uint8
            assert array.ndim == 3
            assert array.shape[2] == 3
    assert 0 < len(text) < 200
    assert "\n" not in text


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_the_size_of_a_picture_needs_its_header_alone(turn: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / "turned.jpg"
    Image.effect_noise((300, 200), 60).save(path, exif=exif)
    seen = load_picture(path, size=None)
    assert picture_size(path) == (seen.width, seen.height)
    assert picture_size(path, exif=False) == (300, 200)
    cut = path.read_bytes()[: path.stat().st_size // 2]
    assert picture_size(cut) == picture_size(path)
    with pytest.raises(ImageError, match="empty"):
        picture_size(b"")

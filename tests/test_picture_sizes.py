"""What a header says is what decoding gives, for every format, orientation and mode; transparency lies on white in every PNG."""

from __future__ import annotations

import io
import itertools
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from retrieval.pictures.imaging import load_picture, picture_from_array, picture_size

WIDTH, HEIGHT = 13, 7


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    samples: np.ndarray, bits: int, colour: int, *before: bytes, after: tuple[bytes, ...] = (), laced: bool = False
) -> bytes:
    """A PNG by hand; ``samples``: (H, W, samples of a pixel) in the depth of the file."""
    height, width, _ = samples.shape
    passes = [(0, 0, 1, 1)]
    if laced:  # Adam7: first row, first column, steps
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = b""
    for top, left, down, right in passes:
        for row in samples[top::down, left::right]:
            if row.size:
                rows += b"\0" + packed(row.ravel(), bits)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, laced)
    parts = [chunk(b"IHDR", header), *before, chunk(b"IDAT", zlib.compress(rows)), *after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def packed(values: np.ndarray, bits: int) -> bytes:
    text = "".join(f"{value:0{bits}b}" for value in values.tolist())
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """``colour`` and ``alpha`` in 0..1."""
    return np.broadcast_to(255 * (colour * alpha + 1 - alpha), (*alpha.shape[:2], 3))


PNG_KINDS = [(bits, 0) for bits in (1, 2, 4, 8, 16)] + [(8, 2), (16, 2), (8, 4), (16, 4), (8, 6), (16, 6)]
PNG_KINDS += [(bits, 3) for bits in (1, 2, 4, 8)]


@pytest.mark.parametrize("laced", [False, True])
@pytest.mark.parametrize(("bits", "colour"), PNG_KINDS)
def test_transparency_becomes_white_in_every_mode_and_depth_of_png(bits: int, colour: int, laced: bool) -> None:
    rng = np.random.default_rng(bits * 10 + colour)
    count = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    most = (1 << bits) - 1
    samples = rng.integers(0, most + 1, (HEIGHT, WIDTH, count))
    if colour == 3:
        table = rng.integers(0, 256, (most + 1, 3)).astype(np.uint8)
        alphas = rng.integers(0, 256, most + 1).astype(np.uint8)
        before = [chunk(b"PLTE", table.tobytes()), chunk(b"tRNS", alphas.tobytes())]
        want = over_white(table[samples[..., 0]] / 255, alphas[samples] / 255)
    elif colour in (4, 6):
        before = []
        want = over_white(samples[..., :-1] / most, samples[..., -1:] / most)
    else:
        # One colour is transparent; its neighbours, which differ in the last bit alone, are not.
        key = samples[3, 5]
        samples[0, 0] = key
        samples[0, 1] = key
        samples[0, 1, -1] ^= 1
        before = [chunk(b"tRNS", struct.pack(f">{count}H", *key.tolist()))]
        clear = (samples == key).all(axis=2, keepdims=True)
        assert clear.any()
        want = over_white(samples / most, 1.0 - clear)
    got = load_picture(png(samples, bits, colour, *before, laced=laced), size=None).array
    assert np.abs(got - want).max() <= 2  # 16 bits are cut to 8 by some readers, and the mixture rounds once


def test_a_key_that_no_pixel_can_have_changes_nothing() -> None:
    samples = np.arange(12).reshape(3, 4, 1) % 4
    plain = load_picture(png(samples, 2, 0), size=None).array
    assert np.array_equal(plain[..., 0], samples[..., 0] * 85)
    keyed = load_picture(png(samples, 2, 0, chunk(b"tRNS", b"\0\4")), size=None).array
    assert np.array_equal(keyed, plain)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.save(buffer, kind, **options)
    return buffer.getvalue()


MODES = {
    "JPEG": ("L", "RGB", "CMYK"),
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "GIF": ("1", "L", "P"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "LAB", "YCbCr"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I", "F"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA", "I;16"),
    "AVIF": ("RGB", "RGBA"),
}
ORIENTED = ("JPEG", "PNG", "WEBP", "TIFF", "AVIF")


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_the_header_says_the_size_that_decoding_gives(kind: str, mode: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    image = Image.new(mode, (WIDTH * 4, HEIGHT * 4))
    for orientation in range(1, 9) if kind in ORIENTED else (1,):
        options: dict[str, Any] = {}
        if orientation > 1:
            exif = Image.Exif()
            exif[0x0112] = orientation
            options["exif"] = exif
        data = saved(image, kind, **options)
        for use in (True, False):
            picture = load_picture(data, size=None, exif=use)
            seen = (picture.array.shape[1], picture.array.shape[0])
            swapped = use and orientation >= 5
            assert seen == ((HEIGHT * 4, WIDTH * 4) if swapped else (WIDTH * 4, HEIGHT * 4))
            assert (picture.width, picture.height) == seen
            assert picture_size(data, exif=use) == seen
            small = load_picture(data, size=8, exif=use)
            assert (small.width, small.height) == seen


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_told_after_the_pixels_counts_as_well(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    samples = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3))
    block = chunk(b"eXIf", exif.tobytes()[6:])
    first, last = png(samples, 8, 2, block), png(samples, 8, 2, after=(block,))
    assert np.array_equal(load_picture(first, size=None).array, load_picture(last, size=None).array)
    assert picture_size(first) == picture_size(last) == ((HEIGHT, WIDTH) if orientation >= 5 else (WIDTH, HEIGHT))


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_of_several_frames_gives_the_size(kind: str) -> None:
    frames = [Image.new("L", (WIDTH, HEIGHT), value) for value in (9, 99, 199)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:])
    assert picture_size(data) == (WIDTH, HEIGHT)
    assert load_picture(data, size=None).array.shape == (HEIGHT, WIDTH, 3)


def test_a_gif_whose_frame_is_larger_than_its_screen() -> None:
    data = bytearray(saved(Image.new("L", (40, 30)), "GIF"))
    data[6:10] = struct.pack("<HH", 10, 10)
    picture = load_picture(bytes(data), size=None)
    assert picture_size(bytes(data)) == (picture.width, picture.height) == (40, 30)
    assert picture.array.shape == (30, 40, 3)


@pytest.mark.parametrize("turn", range(1, 9))
def test_large_pictures_are_converted_in_strips_to_the_same_bytes(turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strips of a few rows against all at once: transparency, palettes, floats, boxes, both directions."""
    rng = np.random.default_rng(turn)
    array = rng.integers(0, 256, (61, 83, 4)).astype(np.uint8)
    images = [
        Image.fromarray(array),
        Image.fromarray(array[..., 0].astype(np.float32) * 3 - 20),
        Image.fromarray(array[..., :3]).quantize(9),
        Image.fromarray(array[..., 1]),
        Image.fromarray(array, "CMYK"),
    ]
    images[2].info["transparency"] = 3
    for image, size, box in itertools.product(images, (None, 40, 60), (None, (5, 3, 50, 47))):
        image.getexif()[0x0112] = turn
        want = picture_from_array(image, size=size, bbox=box).array
        monkeypatch.setattr("retrieval.pictures.colour.STRIP", 300)
        monkeypatch.setattr("retrieval.pictures.colour.FEWEST_ROWS", 8 if size == 40 else 1)
        got = picture_from_array(image, size=size, bbox=box).array
        monkeypatch.undo()
        assert np.array_equal(got, want)

"""Damaged pictures of every format and mode: a uint8 array or an ImageError, quickly, and headers that keep their word."""

from __future__ import annotations

import functools
import io
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

from retrieval.errors import ImageError
from retrieval.pictures.imaging import load_picture, picture_size
from torture_phases.base import Outcome, Phase, damaged

SAVED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("JPEG", "RGB", {}),
    "jpeg progressive": ("JPEG", "RGB", {"progressive": True}),
    "jpeg grey": ("JPEG", "L", {"restart_marker_blocks": 2}),
    "jpeg cmyk": ("JPEG", "CMYK", {"progressive": True}),
    "png": ("PNG", "RGB", {}),
    "png alpha": ("PNG", "RGBA", {}),
    "png palette": ("PNG", "P", {"transparency": 3, "bits": 4}),
    "png 16 bits": ("PNG", "I;16", {}),
    "png 1 bit": ("PNG", "1", {}),
    "png animated": ("PNG", "RGB", {"save_all": True}),
    "gif": ("GIF", "P", {"transparency": 2}),
    "gif animated": ("GIF", "P", {"save_all": True, "comment": b"a comment"}),
    "webp": ("WEBP", "RGB", {}),
    "webp lossless": ("WEBP", "RGBA", {"lossless": True}),
    "webp animated": ("WEBP", "RGB", {"save_all": True}),
    "tiff": ("TIFF", "RGB", {}),
    "tiff lzw": ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
    "tiff deflate": ("TIFF", "I;16", {"compression": "tiff_adobe_deflate"}),
    "tiff jpeg": ("TIFF", "RGB", {"compression": "jpeg"}),
    "tiff fax": ("TIFF", "1", {"compression": "group4"}),
    "tiff float": ("TIFF", "F", {}),
    "tiff big": ("TIFF", "L", {"big_tiff": True}),
    "bmp": ("BMP", "RGB", {}),
    "bmp palette": ("BMP", "P", {}),
    "ppm": ("PPM", "RGB", {}),
    "pgm 16 bits": ("PPM", "I", {}),
    "pfm": ("PPM", "F", {}),
    "jpeg 2000": ("JPEG2000", "RGB", {}),
    "jpeg 2000 codes": ("JPEG2000", "RGBA", {"no_jp2": True, "irreversible": True}),
    "jpeg 2000 tiles": ("JPEG2000", "L", {"tile_size": (16, 16), "codeblock_size": (16, 16)}),
} | (
    {"avif": ("AVIF", "RGB", {"speed": 10}), "avif alpha": ("AVIF", "RGBA", {"speed": 10})}
    if features.check("avif")
    else {}
)


@functools.cache
def originals() -> dict[str, bytes]:
    rng = np.random.default_rng(99)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 4)).astype(np.uint8))
    scene = coarse.resize((40, 30), Image.Resampling.BICUBIC)
    files = {}
    for name, (kind, mode, options) in SAVED.items():
        image = (
            scene.convert("L").convert(mode) if mode in ("I;16", "I", "F", "1") else scene.convert("RGB").convert(mode)
        )
        if mode == "RGBA":
            image = scene
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a description"
        more = dict(options)
        if kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") and "save_all" not in more:
            more["exif"] = exif
        if "save_all" in more:
            more["append_images"] = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image]
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.save(buffer, kind, **more)
        files[name] = buffer.getvalue()
    return files


def giant(data: bytes, rng: np.random.Generator) -> bytes:
    """The same file, whose header speaks of another size: somewhat larger, or as large as numbers can be."""
    width, height = (int(2 ** rng.uniform(0, 17)) for _ in range(2))
    place, form = 0, ""
    if data[:4] == b"\x89PNG":
        place, form = 16, ">II"
    elif data[:2] == b"\xff\xd8":
        frame = re.search(rb"\xff[\xc0-\xc2]..\x08", data, re.DOTALL)
        place, form, (width, height) = (frame.end() if frame else 0), ">HH", (height % 65536, width % 65536)
    elif data[:4] == b"GIF8":
        place, form, (width, height) = 6, "<HH", (width % 65536, height % 65536)
    elif data[:2] == b"BM":
        place, form = 18, "<ii"
    elif data[12:16] == b"VP8X":
        size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return data[:24] + size + data[30:]
    elif data[:4] in (b"II*\0", b"II+\0"):  # two of its numbers, wherever they are
        for _ in range(2):
            place = int(rng.integers(8, len(data) - 4))
            data = data[:place] + struct.pack("<I", width) + data[place + 4 :]
        return data
    elif (codes := data.find(b"\xff\x4f\xff\x51")) >= 0:
        place, form = codes + 8, ">II"
        if rng.random() < 0.5:  # and one tile for all of it
            data = data[: codes + 24] + struct.pack(">II", width, height) + data[codes + 32 :]
    elif (box := data.find(b"ispe")) >= 0:
        place, form = box + 8, ">II"
    size = struct.pack(form, width, height) if form else b""
    return data[:place] + size + data[place + len(size) :]


def mended(data: bytes) -> bytes:
    """A PNG whose chunks have the checksums that belong to them, so that what is in them gets read."""
    if data[:4] != b"\x89PNG":
        return data
    out, place = bytearray(data), 8
    while place + 12 <= len(data):
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(out)


def trial(rng: np.random.Generator, folder: Path) -> Outcome:
    files = originals()
    name, other = (str(rng.choice(list(files))) for _ in range(2))
    data, damages = files[name], "size"
    if large := rng.random() < 0.25:
        data = giant(data, rng)
    if not large or rng.random() < 0.5:
        data, damages = damaged(data, rng, files[other])
    if rng.random() < 0.7:
        data = mended(data)
    size = [None, 5, 20, 64][int(rng.integers(0, 4))]
    exif, truncated = bool(rng.integers(0, 2)), bool(rng.random() < 0.25)
    source: Any = data
    if rng.random() < 0.3:
        source = folder / "picture"
        source.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = load_picture(source, size=size, exif=exif, allow_truncated=truncated)
        except ImageError as error:
            text = str(error)
            if not 0 < len(text) < 300 or "\n" in text or "object at 0x" in text:
                return Outcome("failed", name, f"{damages}: an error that says {text!r:.200}")
            return Outcome("refused", name)
        told = picture_size(source, exif=exif)
    array = picture.array
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.flags.c_contiguous:
        return Outcome("failed", name, f"{damages}: an array {array.dtype} {array.shape}")
    if told != (picture.width, picture.height):
        return Outcome(
            "failed", name, f"{damages}: its header says {told}, decoding gives {picture.width, picture.height}"
        )
    longest = max(picture.width, picture.height)
    if max(array.shape[:2]) != (longest if size is None else min(size, longest)):
        return Outcome("failed", name, f"{damages}: {array.shape} of {picture.width} x {picture.height} at {size}")
    return Outcome("read", name)


PHASE = Phase("pictures", f"pictures of {len(SAVED)} kinds", 300, trial)

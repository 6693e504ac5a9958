"""What a picture will cost, told by its header alone, format by format.

The figures are measured (Pillow 13, 24 megapixels each) and rounded up.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import BinaryIO

from retrieval.errors import ImageError
from retrieval.pictures import jpeg, png
from retrieval.pictures.blocks import Blocks
from retrieval.pictures.cost import Cost, check_pixels
from retrieval.pictures.limits import Limits
from retrieval.pictures.splice import Span, Spliced
from retrieval.pictures.tiff import tags_of

_LONG_FILE = 64 << 20
_HEAD = 1 << 20
_MOST_GIF_BLOCKS = 200_000
_SCAN_SECONDS = 25e-9  # of a block of 64 coefficients in one scan, measured
_OFTEN_ENOUGH = 1.0  # seconds of scans that need no process of their own
_PLAIN_TIFF = frozenset({1, 2, 3, 4, 5, 8, 32773, 32946})  # raw, fax, LZW, deflate, PackBits


def examine(stream: BinaryIO, name: str, limits: Limits) -> Cost:
    """What the picture of the format ``name`` costs. Raises ImageError where its header alone says that it is too much."""
    stream.seek(0, 2)
    length = stream.tell()
    cost = _EXAMINERS[name](stream, length, limits)
    cost.stream.seek(0)
    check_pixels(cost.width, cost.height, limits)
    if length > _LONG_FILE:
        cost = replace(cost, apart=True)
    return cost


def _jpeg(stream: BinaryIO, length: int, limits: Limits) -> Cost:
    header, stream = jpeg.examine(stream, limits.scans)
    if header is None:
        return Cost(stream)
    if header.scans > limits.scans:
        raise ImageError(f"a JPEG of more than {limits.scans} scans, which would take too long to decode")
    blocks = header.width * header.height * header.coefficients / 64
    seconds = header.scans * blocks * _SCAN_SECONDS if header.buffered else 0
    if seconds > limits.seconds:
        raise ImageError(
            f"a JPEG of {header.scans} scans, which would take longer than the limit of {limits.seconds:g} s",
            limited=True,
        )
    return Cost(
        stream,
        header.width,
        header.height,
        held=1 if header.components == 1 else 4,
        passing=2.1 * header.coefficients if header.buffered else 0,
        apart=seconds > _OFTEN_ENOUGH,
    )


def _png(stream: BinaryIO, length: int, limits: Limits) -> Cost:
    header, stream = png.pixels_alone(stream)
    if header is None:
        return Cost(stream)
    twice = 10 if header.key is not None and header.bits == 16 and header.colour == 2 else 0
    return Cost(stream, header.width, header.height, held=header.pixel_bytes, passing=twice, header=header)


def _gif(stream: BinaryIO, length: int, limits: Limits) -> Cost:
    """Comments and programs' own blocks before the picture are left out: Pillow reads each in Python."""
    stream.seek(0)
    head = stream.read(13)
    if len(head) < 13:
        return Cost(stream)
    width, height, flags = struct.unpack("<HHB", head[6:11])
    place = 13 + (3 << ((flags & 7) + 1) if flags & 128 else 0)
    kept: list[Span] = [(0, place)]
    count, left_out = 0, 0
    window = Blocks(stream)
    while True:
        kind = window.at(place, 2)
        if kind[:1] == b"," or not kind or kind[:1] == b";":
            break
        if kind[:1] != b"!":  # whatever it is, Pillow passes over it
            place += 1
            count += 1
        else:
            begin, place = place, place + 2
            while (size := (window.at(place, 1) or b"\0")[0]) and count <= _MOST_GIF_BLOCKS:
                place += 1 + size
                count += 1
            place += 1
            if kind[1:] == b"\xf9":
                kept.append((begin, place))
            else:
                left_out += place - begin
        if count > _MOST_GIF_BLOCKS:
            raise ImageError(f"more than {_MOST_GIF_BLOCKS:,} blocks of text before its first pixel")
    frame = window.at(place, 9)
    if len(frame) == 9 and frame[:1] == b",":
        left, top, wide, high = struct.unpack("<HHHH", frame[1:])
        width, height = max(width, left + wide), max(height, top + high)
    kept.append((place, length))
    spliced: BinaryIO = Spliced(stream, kept) if left_out else stream  # type: ignore[assignment]
    return Cost(spliced, width, height, held=1, passing=2)


def _webp(stream: BinaryIO, length: int, limits: Limits) -> Cost:
    """libwebp's canvas twice, Pillow's copy and the picture; the canvas is taken as soon as the file is opened."""
    stream.seek(0)
    head = stream.read(30)
    width = height = 0
    if head[12:16] == b"VP8 ":
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    elif head[12:16] == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
    elif head[12:16] == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return Cost(stream, width, height, held=4, passing=13, fixed=2 * length)


def _bmp(stream: BinaryIO, length: int, limits: Limits) -> Cost:
    stream.seek(0)
    head = stream.read(34)
    if len(head) < 34:
        return Cost(stream)
    if head[14] == 12:
        width, height, _, bits = struct.unpack("<HHHH", head[18:26])
        packing = 0
    else:
        width, height, _, bits, packing = struct.unpack("<iiHHI", head[18:34])
    packed = packing in (1, 2)  # Pillow unpacks these in Python
    return Cost(
        stream,
        abs(width),
        abs(height),
        held=1 if bits <= 8 else 4,
        passing=3 if packed else 0,
        apart=packed and length > 1 << 20,
    )


def _ppm(stream: BinaryIO, length: int, limits: Limits) -> Cost:
    """Numbers as text, and depths other than 8 bits, are read by Pillow in Python."""
    stream.seek(0)
    gap = rb"(?:\s|#[^\n\r]*[\n\r])+"
    number = rb"([-+.\deE]{1,20})"
    found = re.match(
        rb"P([1-6f])" + gap + number + gap + number + rb"(?:" + gap + number + rb")?", stream.read(1 << 16)
    )
    if found is None:
        raise ImageError("damaged PPM: its header makes no sense")
    kind, width, height, most = found.groups()
    try:
        wide, high = int(width), int(height)
    except ValueError:
        raise ImageError("damaged PPM: its header makes no sense") from None
    quick = kind in (b"4", b"f") or (kind in (b"5", b"6") and most in (b"255", b"65535"))
    samples = max(wide, 0) * max(high, 0) * (3 if kind in (b"3", b"6") else 1)
    return Cost(
        stream,
        max(wide, 0),
        max(high, 0),
        held=1 if kind in (b"1", b"2", b"4", b"5") and most in (None, b"255") else 4,
        passing=0 if quick else 8,
        apart=not quick and samples > 2_000_000,
    )


def _jpeg2000(stream: BinaryIO, length: int, limits: Limits) -> Cost:
    """OpenJPEG holds 4 bytes a sample of a whole tile, and a structure for every tile, code block and precinct."""
    stream.seek(0)
    head = stream.read(_HEAD)
    place = head.find(b"\xff\x4f\xff\x51")
    if place < 0 or len(head) < place + 44:
        return Cost(stream, apart=True)
    place += 8
    x1, y1, x0, y0, tx, ty = struct.unpack(">6I", head[place : place + 24])
    (count,) = struct.unpack(">H", head[place + 32 : place + 34])
    depths = [(depth & 127) + 1 for depth in head[place + 34 : place + 34 + 3 * count : 3]]
    width, height = max(x1 - x0, 0), max(y1 - y0, 0)
    tiles = max(1, -(-x1 // max(tx, 1))) * max(1, -(-y1 // max(ty, 1)))
    tile = min(tx, width) * min(ty, height)
    fixed = tile * sum(4 + -(-depth // 8) for depth in depths) + min(tiles, 65535) * (6000 + 1100 * count) + 2 * length
    styles = head.find(b"\xff\x52", place)
    if 0 <= styles <= len(head) - 14:
        own, levels, wide, high = head[styles + 4], head[styles + 9], head[styles + 10] & 15, head[styles + 11] & 15
        fixed += int(tile * count / 2 ** (wide + high + 4) * 400)
        if own & 1:
            sizes = head[styles + 14 : styles + 15 + min(levels, 32)]
            fixed += int(max((tile * count / 2 ** ((size & 15) + (size >> 4)) for size in sizes), default=0) * 600)
    return Cost(stream, width, height, held=1 if count == 1 and depths[:1] <= [8] else 4, fixed=fixed, apart=True)


def _avif(stream: BinaryIO, length: int, limits: Limits) -> Cost:
    stream.seek(0)
    head = stream.read(_HEAD)
    place = head.find(b"av1C")
    deep = 0 <= place < len(head) - 7 and head[place + 6] & 0x40
    return replace(_boxed(stream, head, length), passing=12 if deep else 8)


def _heic(stream: BinaryIO, length: int, limits: Limits) -> Cost:
    stream.seek(0)
    return replace(_boxed(stream, stream.read(_HEAD), length), passing=8)


def _boxed(stream: BinaryIO, head: bytes, length: int) -> Cost:
    """The largest of the sizes that an ISO base media file speaks of."""
    sizes = [
        struct.unpack(">II", found.group(1)) for found in re.finditer(rb"\0\0\0\x14ispe.{4}(.{8})", head, re.DOTALL)
    ]
    width, height = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    return Cost(stream, width, height, held=4, fixed=2 * length, apart=True)


def _tiff(stream: BinaryIO, length: int, limits: Limits) -> Cost:
    """A strip or tile is unpacked whole, and Pillow makes an object of each that is raw."""
    try:
        tags = {tag: (kind, count, values) for tag, kind, count, values in tags_of(stream)}
    except (struct.error, ValueError):
        return Cost(stream, apart=True)

    def value(tag: int, default: int = 0) -> int:
        values = tags.get(tag, (0, 0, (default,)))[2]
        return int(values[0]) if values else default

    width, height = value(256), value(257)
    samples = tags.get(258, (0, 1, ()))[1]
    sample = max((bits for bits in tags.get(258, (0, 0, (1,)))[2]), default=1)
    depth = sample / 8 * max(samples, value(277, 1))
    held = 1 if depth <= 1 else 2 if depth <= 2 and samples == 1 else 4
    across, down = value(322, width), value(323, value(278, height))
    piece = min(across, 1 << 30) * min(down, height, 1 << 30) * max(depth, 4)
    entries = sum(count for kind, count, _ in tags.values() if kind not in (1, 2, 6, 7))
    raw = value(259, 1) == 1
    return Cost(
        stream,
        width,
        height,
        held=held,
        passing=4 if value(262) == 6 else 0,
        fixed=int(entries * (400 if raw else 64) + (0 if raw else piece)),
        apart=value(259, 1) not in _PLAIN_TIFF or entries > 200_000,
    )


_EXAMINERS: dict[str, Callable[[BinaryIO, int, Limits], Cost]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WebP": _webp,
    "TIFF": _tiff,
    "BMP": _bmp,
    "PPM": _ppm,
    "JPEG 2000": _jpeg2000,
    "AVIF": _avif,
    "HEIC": _heic,
}

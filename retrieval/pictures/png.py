"""PNG files as their chunks: what is not pixels is left out before a reader sees it, and transparency is read exactly."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from retrieval.errors import ImageError
from retrieval.pictures.splice import Span, Spliced

_MOST_CHUNKS = 200_000  # each costs a reader microseconds; a picture written in pieces of 8 KB has fewer
_MOST_EXIF = 4 << 20
_MOST_TEXT = 1 << 16  # of a text that may tell the orientation
_SPEAKING = (b"Raw profile type exif", b"XML:com.adobe.xmp")
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # colour type -> samples a pixel


@dataclass(frozen=True)
class PngHeader:
    """What IHDR says, and the one transparent colour of a picture without alpha (``key``, in its own depth)."""

    width: int
    height: int
    bits: int
    colour: int
    key: tuple[int, ...] | None = None

    @property
    def pixel_bytes(self) -> int:
        """Bytes that Pillow holds for a pixel."""
        if self.colour in (0, 3):
            return 2 if self.bits == 16 else 1
        return 4


def pixels_alone(stream: BinaryIO) -> tuple[PngHeader | None, BinaryIO]:
    """The header, and the file without text, profiles, further frames and chunks that nobody knows.

    What tells the orientation is kept, and comes before the pixels wherever it stood. None for a header that makes no
    sense; the reader that comes next will say so. Raises ImageError for far too many chunks.
    """
    stream.seek(0, 2)
    length = stream.tell()
    stream.seek(8)
    header: PngHeader | None = None
    first: list[Span] = [(0, 8)]
    rest: list[Span] = []
    spoken: set[bytes] = set()
    place, count = 8, 0
    while place + 8 <= length:
        stream.seek(place)
        size, kind = struct.unpack(">I4s", stream.read(8))
        end = place + 12 + size
        count += 1
        if count > _MOST_CHUNKS:
            raise ImageError(f"more than {_MOST_CHUNKS:,} pieces in one PNG")
        if kind == b"IHDR" and header is None and size >= 13:
            width, height, bits, colour = struct.unpack(">IIBB", stream.read(10))
            header = PngHeader(width, height, bits, colour)
            first.append((place, min(end, length)))
        elif kind == b"tRNS" and header is not None and size in (2, 6) and header.colour in (0, 2):
            values = struct.unpack(f">{size // 2}H", stream.read(size))
            if len(values) == _SAMPLES[header.colour]:  # Pillow compares it in another depth: see with_alpha
                header = PngHeader(header.width, header.height, header.bits, header.colour, values)
        elif kind in (b"PLTE", b"tRNS"):
            first.append((place, min(end, length)))
        elif kind == b"eXIf":
            if size <= _MOST_EXIF and end <= length and kind not in spoken:
                first.append((place, end))
                spoken.add(kind)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            word = _speaking(stream, kind, size) if end <= length else None
            if word is not None and word not in spoken:
                first.append((place, end))
                spoken.add(word)
        elif kind in (b"IDAT", b"IEND") or not kind.isalpha() or (kind[0] & 32 == 0 and kind != b"CgBI"):
            rest.append((place, min(end, length)))  # what is unknown and critical is the reader's to refuse
        elif kind == b"CgBI":
            raise ImageError("Apple's own kind of PNG, which cannot be read")
        place = end
        if kind == b"IEND":
            break
        if size > length:  # it ends early: the reader will say so
            break
    if place < length and place + 8 > length:
        rest.append((place, length))
    return header, Spliced(stream, first + rest)  # type: ignore[return-value]


def tells_later(stream: BinaryIO) -> bool:
    """Whether text or EXIF data stand behind the pixels, which a reader meets when it has decoded them."""
    place, count, pixels = 8, 0, False
    while count < _MOST_CHUNKS:
        stream.seek(place)
        head = stream.read(8)
        if len(head) < 8:
            return False
        size, kind = struct.unpack(">I4s", head)
        if pixels and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            return True
        if kind == b"IEND":
            return False
        pixels = pixels or kind == b"IDAT"
        place += 12 + size
        count += 1
    return True


def _speaking(stream: BinaryIO, kind: bytes, size: int) -> bytes | None:
    """The keyword of a text that may tell the orientation and unpacks to no more than is reasonable."""
    if size > 1 << 20:
        return None
    data = stream.read(size)
    word, _, body = data.partition(b"\0")
    if word not in _SPEAKING:
        return None
    packed: bytes | None = None
    if kind == b"zTXt":
        packed = body[1:]
    elif kind == b"iTXt" and body[:1] == b"\1":
        packed = body[2:].split(b"\0", 2)[-1]
    if packed is None:
        return word
    try:
        unpacker = zlib.decompressobj()
        unpacker.decompress(packed, _MOST_TEXT)
    except zlib.error:
        return None
    return None if unpacker.unconsumed_tail else word


def with_alpha(image: Image.Image, header: PngHeader, again: Callable[[str], Image.Image]) -> Image.Image:
    """A decoded picture whose one transparent colour has become an alpha channel, compared in the file's own depth.

    ``again``: decodes the picture once more by another of Pillow's raw modes (16 bits a sample need a second look).
    """
    if header.key is None:
        return image
    key = header.key
    if header.bits == 16 and header.colour == 2:
        low = again("RGB;16L")  # of each pair of bytes the second, which Pillow drops
        mask = Image.new("L", image.size, 255)
        for top in range(0, image.height, 256):
            box = (0, top, image.width, min(top + 256, image.height))
            high = np.asarray(image.crop(box)).astype(np.uint16)
            values = high * 256 + np.asarray(low.crop(box))
            clear = (values == np.array(key, np.uint16)).all(axis=2)
            mask.paste(Image.fromarray(np.where(clear, np.uint8(0), np.uint8(255))), box)
        image.putalpha(mask)
        return image
    most = (1 << header.bits) - 1
    if any(value > most for value in key):
        return image
    if header.colour == 2:
        image.info["transparency"] = key
    elif header.bits == 16:
        image.info["transparency"] = key[0]
    else:
        image = image.convert("L") if image.mode == "1" else image
        image.info["transparency"] = key[0] * 255 // most
    return image

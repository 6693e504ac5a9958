"""JPEG files as their markers: size, components, number of scans; heaps of metadata are left out before a reader sees them."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from retrieval.errors import ImageError
from retrieval.pictures.blocks import Blocks
from retrieval.pictures.splice import Span, Spliced

_MOST_SEGMENTS = 20_000  # before the first scan
_MUCH_METADATA = 1 << 20  # bytes before the first scan; more is left out, but for what is needed
_MOST_FILLING = 1 << 20  # bytes between two segments, where there should be none
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_BLOCK = 1 << 20


@dataclass(frozen=True)
class JpegHeader:
    """What the frame says, and how many scans follow. ``coefficients``: samples held for a pixel, where all are held."""

    width: int
    height: int
    components: int
    coefficients: float
    progressive: bool
    scans: int

    @property
    def buffered(self) -> bool:
        """Whether the decoder holds every coefficient, however small the picture is decoded."""
        return self.progressive or self.scans > 1


def examine(stream: BinaryIO, most_scans: int) -> tuple[JpegHeader | None, BinaryIO]:
    """The header, and the file, without heaps of metadata where there are any.

    No more than ``most_scans`` + 1 scans are counted. None for a header that makes no sense; the reader that comes next
    will say so. Raises ImageError for far too many segments.
    """
    stream.seek(0, 2)
    length = stream.tell()
    kept: list[Span] = [(0, 2)]
    frame: tuple[int, bytes] | None = None
    place, count, seen = 2, 0, {"Exif": 0, "xmp": 0, "other": 0}
    reader = _Markers(stream)
    while True:
        begin = reader.next_marker(place, _MOST_FILLING + 1)
        if begin is None:
            if length - place > _MOST_FILLING:
                raise ImageError("damaged JPEG: no segment where one should be")
            return _header(frame, 0), stream
        marker_at, marker = begin
        if marker_at - place > _MOST_FILLING:
            raise ImageError("damaged JPEG: no segment where one should be")
        if marker == 0xDA:
            kept.append((marker_at, length))
            break
        count += 1
        if count > _MOST_SEGMENTS:
            raise ImageError(f"more than {_MOST_SEGMENTS:,} segments before its first pixel")
        head = reader.at(marker_at + 2, 2)
        if marker in (0x01, 0xD8, 0xD9) or len(head) < 2:
            return _header(frame, 0), stream
        size = int.from_bytes(head, "big")
        end = marker_at + 2 + size
        if marker in _FRAMES and frame is None:
            frame = (marker, reader.at(marker_at + 4, 6 + 3 * 255)[: max(0, size - 2)])
        if _needed(marker, reader.at(marker_at + 4, 12), seen):
            kept.append((marker_at, end))
        place = end
    scans = reader.scans(marker_at, most_scans + 1)
    if place - sum(end - begin for begin, end in kept[:-1]) > _MUCH_METADATA:
        return _header(frame, scans), Spliced(stream, kept)  # type: ignore[return-value]
    return _header(frame, scans), stream


def _needed(marker: int, data: bytes, seen: dict[str, int]) -> bool:
    """Whether a segment says how to decode or to turn the picture."""
    if marker == 0xFE:
        return False
    if not 0xE0 <= marker <= 0xEF:
        return True
    if marker == 0xE1:
        kind = "Exif" if data.startswith(b"Exif\0\0") else "xmp"
        seen[kind] += 1
        return seen[kind] <= (4 if kind == "Exif" else 1)
    if marker in (0xE0, 0xEE):
        seen["other"] += 1
        return seen["other"] <= 8 and data.startswith((b"JFIF", b"Adobe"))
    return False


def _header(frame: tuple[int, bytes] | None, scans: int) -> JpegHeader | None:
    if frame is None or len(frame[1]) < 6:
        return None
    marker, data = frame
    _, height, width, count = struct.unpack(">BHHB", data[:6])
    factors = [(data[at] >> 4, data[at] & 15) for at in range(7, min(len(data), 6 + 3 * count), 3)]
    if len(factors) != count or not all(0 < n < 5 for pair in factors for n in pair):
        return None
    most = max(h for h, _ in factors) * max(v for _, v in factors)
    return JpegHeader(width, height, count, sum(h * v for h, v in factors) / most, marker in _PROGRESSIVE, scans)


class _Markers(Blocks):
    """A file searched for its markers."""

    def next_marker(self, place: int, within: int | None = None) -> tuple[int, int] | None:
        """Where the next marker after ``place`` stands (its last 0xFF), and which it is; None where none comes ``within``
        so many bytes."""
        step = 4096  # the next one is mostly near
        last = None if within is None else place + within
        while last is None or place <= last:
            self._stream.seek(place)
            data = self._stream.read(step)
            if len(data) < 2:
                return None
            found = _MARKER.search(data)
            if found is not None:
                return place + found.start(), data[found.end() - 1]
            if len(data) < step:
                return None
            place += len(data) - 1
            step = _BLOCK
        return None

    def scans(self, place: int, most: int) -> int:
        """How many scans there are from the one at ``place`` on; no more than ``most`` are counted."""
        scans = 0
        while scans < most:
            found = self.next_marker(place)
            if found is None or found[1] == 0xD9:
                break
            at, marker = found
            scans += marker == 0xDA
            place = at + 2 + int.from_bytes(self.at(at + 2, 2), "big")
        return scans

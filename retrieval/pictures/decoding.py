"""From an open file to pixels: memory taken, reduced scales, what a file that ends early still holds, orientation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from PIL import Image

from retrieval.pictures.colour import FEWEST_ROWS, STRIP
from retrieval.pictures.cost import Cost, check_memory, check_pixels
from retrieval.pictures.geometry import Picture, Rule, fitted_size
from retrieval.pictures.limits import Limits
from retrieval.pictures.png import with_alpha
from retrieval.pictures.readers import open_header

ORIENTATION = 0x0112  # EXIF's tag


def memory_needed(cost: Cost, reader: str, rule: Rule) -> float:
    """Bytes that are held at one time: what is decoded, what it is decoded from, and what it becomes."""
    width, height = cost.width, cost.height
    if not width or not height:
        return cost.fixed
    whole = width * height
    decoded = whole
    ready = reader == "JPEG" or _is_ready(cost)
    if reader == "JPEG" and rule.bbox is None:
        decoded //= rule.draft(max(width, height)) ** 2
    target = (width, height) if rule.size is None else fitted_size(width, height, rule.size)
    result = 7 * target[0] * target[1]
    between = 4 * target[0] * height * decoded / whole
    if target == (width, height):
        between = 0
        if ready:
            result = 3 * whole
    if target != (width, height):  # a filter reaches 3 steps to both sides, 8 bytes for each pixel that it covers
        between += 48 * max(width, height)
        if not ready and STRIP // max(width, height) < FEWEST_ROWS:
            between += 4 * whole
    strip = 0 if ready else 12 * min(whole, STRIP)
    return cost.fixed + cost.passing * whole + cost.held * decoded + strip + between + result


def _is_ready(cost: Cost) -> bool:
    """Whether a PNG is RGB or grey of 8 bits as it is decoded, and nothing is converted."""
    header = cost.header
    return header is not None and header.bits == 8 and header.colour in (0, 2) and header.key is None


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or it cannot be read."""
    try:
        return told_orientation(image.getexif())
    except Exception:
        return 1


def told_orientation(exif: Image.Exif) -> int:
    """1..8; 1 where there is none or it is no such number."""
    value = exif.get(ORIENTATION, 1)
    return int(value) if value in range(1, 9) else 1


def stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before turning; some of Pillow's versions turn the size of a TIFF that is not loaded yet."""
    tags = getattr(image, "tag_v2", None)
    return image.size if tags is None else (tags[256], tags[257])


def decode(reader: str, cost: Cost, rule: Rule, exif: bool, limits: Limits, allow_truncated: bool) -> Picture:
    image = open_header(cost.stream, reader)
    width, height = image.size
    check_pixels(width, height, limits)
    if width * height != cost.width * cost.height:  # the header is more than what was looked at
        check_memory(memory_needed(replace(cost, width=width, height=height), reader, rule), limits)
    jpeg = reader == "JPEG"
    shrink = rule.draft(max(width, height)) if jpeg else 1
    extent = None
    if shrink > 1:
        seen = (width, height) if not exif or orientation(image) < 5 else (height, width)
        if rule.crop(seen) is None:
            drafted = image.draft(None, (max(1, width // shrink), max(1, height // shrink)))
            extent = None if drafted is None else drafted[1][2:]
    turn = load_pixels(image, exif, allow_truncated)
    if cost.header is not None:

        def again(rawmode: str) -> Image.Image:
            second: Any = open_header(cost.stream, reader)
            second.tile = [tile._replace(args=rawmode) for tile in second.tile]
            load_pixels(second, False, allow_truncated)
            return second

        image = with_alpha(image, cost.header, again)
    return rule.apply(image, turn, (width, height) if jpeg else image.size, extent)


def load_pixels(image: Image.Image, exif: bool, allow_truncated: bool) -> int:
    """Decode the pixels; returns the orientation that remains to be applied."""
    told = orientation(image) if image.format == "TIFF" else 1  # Pillow turns a TIFF while it loads it
    if not allow_truncated:
        image.load()
    else:
        if image.format == "JPEG" and getattr(image, "fp", None) is not None:
            image.fp = _EndMarked(image.fp)  # type: ignore[attr-defined]
        try:
            image.load()
        except OSError as error:
            if "truncated" not in str(error):
                raise
            image.tile = []  # type: ignore[attr-defined]  # no more to decode: what is there stays
            image.load()
            if image.format == "TIFF":
                image.load_end()  # type: ignore[attr-defined]  # what load() does in the end: turning it
    left = orientation(image)
    if told != 1 and left == 1:
        return 1 if exif else {6: 8, 8: 6}.get(told, told)
    return left if exif else 1


class _EndMarked:
    """A JPEG file that ends with an end marker, whatever it ends with: the decoder then gives what it has.

    Pillow's own switch for this (``LOAD_TRUNCATED_IMAGES``) holds for the whole process.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._marked = False

    def read(self, count: int = -1) -> bytes:
        data = self._stream.read(count)
        if data or self._marked:
            return data
        self._marked = True
        return b"\xff\xd9"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

"""Pictures are opened here and nowhere else: a path, bytes or an array in, a uint8 RGB array out.

What happens to a picture, in this order:

- The file is looked at before it is opened, its signature before it is decoded, its cost before memory is
  taken (``cost.py``, ``limits.py``); what may take long or much is decoded in a process of its own
  (``apart.py``). Formats: JPEG, PNG, GIF (first frame), WebP, TIFF (first page), BMP, PPM/PGM/PBM, JPEG 2000, AVIF,
  and HEIC with ``pillow-heif``. Pillow's other readers are never reached: one of them runs a program, some
  accept anything.
- Colour becomes RGB or grey of 8 bits. Transparent pixels lie on white. 16-bit samples are divided by 257, so
  a 16-bit picture looks like its 8-bit twin. 32-bit integers and floats are taken to lie in 0..1 (floats; up
  to 1.5 is clipped), 0..255 or 0..65535, the narrowest that holds them all; beyond that, or below 0, their
  own range is stretched to 0..255. NaN is black. CMYK is converted by Pillow's formula (it understands
  Adobe's inverted JPEGs), LAB by its white point D50; other colour profiles are not applied.
- A box is cut out of the original pixels; then the longest side of the *whole* picture is brought down to
  ``size`` and the cut is scaled by the same factor. Nothing is ever enlarged. The shorter side is rounded as
  :meth:`PIL.Image.Image.thumbnail` rounds it. Filters are exact (no reducing gap).
- A much too large JPEG is decoded at 1/2, 1/4 or 1/8, as long as what is decoded keeps at least 3 times the
  target's side. Measured against exact Lanczos after full decoding on 100 photographs (1/2: mean absolute
  difference 0.32 grey levels, worst picture 0.82, worst pixel 14; 1/4: 0.45, 1.2, 15; 1/8, on 10 of them:
  0.51, 0.78, 22; with 2 in place of 3 the means are 0.57, 0.77 and 1.0). Descriptors of EfficientNet-Lite0
  with GeM keep a mean cosine of 0.9993 at 1/2, on 39 of them (bicubic in place of Lanczos: 0.995).
- Orientation is applied last, when the picture is small; the result is that of turning it first.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from PIL import Image

from retrieval.errors import RetrievalError, UsageError
from retrieval.pictures import apart, colour
from retrieval.pictures.cost import Cost, check_memory, check_pixels, examine, is_much
from retrieval.pictures.gate import Gate
from retrieval.pictures.limits import Limits
from retrieval.pictures.png import with_alpha
from retrieval.pictures.readers import explained, identify, open_header, open_stream

SUFFIXES = frozenset(
    f".{name}"
    for names in (
        "jpg jpeg jpe jfif jif mpo png apng webp gif tif tiff bmp dib ppm pgm pbm pnm pfm",
        "jp2 j2k j2c jpc jpf jpx avif heic heif hif",
    )
    for name in names.split()
)
INTERPOLATIONS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
}

_DRAFT = 3  # a JPEG decoded at a fraction keeps at least this many times the target's longest side
_gate = Gate()

_Box: TypeAlias = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Picture:
    """``array``: uint8 (H, W, 3), RGB, C-contiguous; ``width``, ``height``: the whole original's, as seen."""

    array: np.ndarray
    width: int
    height: int


def is_picture_name(name: str) -> bool:
    """Whether the suffix is one of :data:`SUFFIXES`. (``._x.jpg`` is macOS's side file to a picture,
    none.)"""
    base = os.path.basename(name)
    return os.path.splitext(base)[1].lower() in SUFFIXES and not base.startswith("._")


def fitted_size(width: int, height: int, longest: int) -> tuple[int, int]:
    """Size of a ``width`` x ``height`` picture with its longest side brought down to ``longest`` (never up).

    The shorter side is the neighbouring integer that keeps width / height best, as ``Image.thumbnail`` has
    it, and at least 1.
    """
    if longest >= max(width, height):
        return width, height
    aspect = width / height
    if width <= height:
        exact = longest * aspect
        short = min((math.floor(exact), math.ceil(exact)), key=lambda n: abs(aspect - n / longest))
        return max(short, 1), longest
    exact = longest / aspect
    short = min((math.floor(exact), math.ceil(exact)), key=lambda n: abs(aspect - longest / n) if n else 0)
    return longest, max(short, 1)


def load_picture(
    source: str | os.PathLike[str] | bytes | BinaryIO,
    *,
    size: int | None = 1024,
    interpolation: str = "lanczos",
    exif: bool = True,
    bbox: Sequence[float] | None = None,
    max_pixels: int | None = None,
    limits: Limits | None = None,
    allow_truncated: bool = False,
) -> Picture:
    """A picture from a path, from its file's bytes, or from an open binary file (rewound, and left open).

    ``size``: longest side in pixels, downscale only; None keeps every pixel. ``interpolation``:
    ``"lanczos"``, ``"bicubic"`` or ``"bilinear"``. ``exif``: apply the orientation that the file asks for (a
    broken one is none). ``bbox``: (x1, y1, x2, y2) in pixels of the whole picture as it is seen, rounded to
    integers and clipped to the picture. ``limits``: what one picture may cost, by default as the environment
    says (:class:`retrieval.pictures.limits.Limits`); ``max_pixels``: its width x height alone.
    ``allow_truncated``: take what a file that ends early still holds; the rest stays grey, black or white.
    May be called from several threads at once.

    Raises ImageError with the reason alone (no path) for a picture that cannot be used, and UsageError for a
    wrong ``size``, ``interpolation`` or ``bbox`` (outside the picture, empty, not finite, not four numbers).
    """
    rule = _Rule(size, interpolation, bbox)
    limits = limits or Limits.from_environment()
    if max_pixels is not None:
        limits = replace(limits, pixels=max_pixels)
    with _examined(source, limits) as (stream, reader, cost):
        need = _need(cost, reader, rule)
        check_memory(need, limits)
        with _gate.room(need, limits.memory):
            if (cost.apart or is_much(need)) and not apart.inside:
                options = {
                    "size": rule.size,
                    "interpolation": interpolation,
                    "exif": exif,
                    "bbox": rule.bbox,
                    "allow_truncated": allow_truncated,
                }
                found = apart.load(_whole(source, stream), options, limits)
                if found is not None:
                    return Picture(*found)
            return _decode(reader, cost, rule, exif, limits, allow_truncated)


def picture_size(
    source: str | os.PathLike[str] | bytes | BinaryIO, *, exif: bool = True, limits: Limits | None = None
) -> tuple[int, int]:
    """Width and height of a picture, its header alone read; as it is seen, or with ``exif`` off as it is stored.

    Raises ImageError as :func:`load_picture` does.
    """
    limits = limits or Limits.from_environment()
    with _examined(source, limits) as (stream, reader, cost):
        if cost.apart and not apart.inside:
            found = apart.size(_whole(source, stream), {"exif": exif}, limits)
            if found is not None:
                return found
        image = open_header(cost.stream, reader)
        check_pixels(*image.size, limits)
        width, height = _stored_size(image)
        return (height, width) if exif and _orientation(image) >= 5 else (width, height)


@contextmanager
def _examined(
    source: str | os.PathLike[str] | bytes | BinaryIO, limits: Limits
) -> Iterator[tuple[BinaryIO, str, Cost]]:
    """The file, its format and what it will cost; whatever a reader raises while this is open becomes an ImageError."""
    stream, ours = open_stream(source)
    reader = "picture"
    try:
        reader = identify(stream, limits)
        yield stream, reader, examine(stream, reader, limits)
    except RetrievalError:
        raise
    except Exception as error:  # readers raise almost anything on damaged files
        raise explained(error, reader, stream) from error
    finally:
        if ours:
            stream.close()


def _whole(source: Any, stream: BinaryIO) -> str | bytes:
    """The picture as another process can get it: its path, or its bytes."""
    if isinstance(source, str | os.PathLike):
        return os.path.abspath(os.fspath(source))
    if isinstance(source, bytes):
        return source
    stream.seek(0)
    return stream.read()


def _need(cost: Cost, reader: str, rule: _Rule) -> float:
    """Bytes that are held at one time: what is decoded, what it is decoded from, and what it becomes."""
    width, height = cost.width, cost.height
    if not width or not height:
        return cost.fixed
    whole = width * height
    decoded = whole
    if reader == "JPEG" and rule.bbox is None:
        decoded //= rule.draft(max(width, height)) ** 2
    target = (width, height) if rule.size is None else fitted_size(width, height, rule.size)
    result = 7 * target[0] * target[1]
    between = 4 * target[0] * height * decoded / whole
    if target == (width, height):
        between = 0
        if reader == "JPEG":
            result = 3 * whole
    return cost.fixed + cost.passing * whole + cost.held * decoded + between + result


def picture_from_array(
    array: np.ndarray | Image.Image,
    *,
    size: int | None = 1024,
    interpolation: str = "lanczos",
    bbox: Sequence[float] | None = None,
    exif: bool = True,
) -> Picture:
    """A picture that is in memory: uint8 (H, W, 3) RGB or (H, W) grey, or a PIL image of any mode.

    Sizes and boxes as in :func:`load_picture`. ``exif`` matters for a PIL image that carries an orientation.
    Raises UsageError for another shape or type, ImageError for a PIL image whose file cannot be decoded.
    """
    rule = _Rule(size, interpolation, bbox)
    if isinstance(array, Image.Image):
        try:
            turn = _load(array, exif, False)
            return rule.apply(array, turn, array.size)
        except RetrievalError:
            raise
        except Exception as error:
            raise explained(error, array.format or "picture", None) from error
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.shape[2:] not in ((), (3,)) or array.ndim < 2 or array.size == 0:
        raise UsageError(
            f"a picture must be a uint8 array (height, width, 3) or (height, width), "
            f"not {array.dtype} {tuple(array.shape)}"
        )
    return rule.apply(Image.fromarray(np.ascontiguousarray(array)), 1, (array.shape[1], array.shape[0]))


class _Rule:
    """What is asked of the picture's geometry; checked at once, applied when the pixels are there."""

    def __init__(self, size: int | None, interpolation: str, bbox: Sequence[float] | None) -> None:
        try:
            self.size = None if size is None else operator.index(size)
        except TypeError:
            raise UsageError(f"size must be a whole number of pixels, not {size!r}") from None
        if self.size is not None and (self.size < 1 or isinstance(size, bool)):
            raise UsageError(f"size must be at least 1 pixel, not {size!r}")
        if interpolation not in INTERPOLATIONS:
            choice = ", ".join(INTERPOLATIONS)
            raise UsageError(f"unknown interpolation {interpolation!r}", f"Choose one of {choice}.")
        self.filter = INTERPOLATIONS[interpolation]
        try:
            self.bbox = None if bbox is None else tuple(float(v) for v in bbox)
        except (TypeError, ValueError, OverflowError):
            raise UsageError(f"a box is four numbers x1, y1, x2, y2, not {bbox!r}") from None
        if self.bbox is not None and len(self.bbox) != 4:
            raise UsageError(f"a box is four numbers x1, y1, x2, y2, not {len(self.bbox)}")

    def crop(self, whole: tuple[int, int]) -> _Box | None:
        """The box in whole pixels inside the picture; None for the whole picture."""
        if self.bbox is None:
            return None
        width, height = whole
        box = "({:g}, {:g}, {:g}, {:g})".format(*self.bbox)
        have = f"the picture has {width} x {height} pixels"
        if not all(map(math.isfinite, self.bbox)):
            raise UsageError(f"the box {box} is not four finite numbers; {have}")
        x1, y1, x2, y2 = map(round, self.bbox)
        if x1 >= x2 or y1 >= y2:
            raise UsageError(f"the box {box} is empty; {have}", "Give x1 < x2 and y1 < y2.")
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
        if x1 >= x2 or y1 >= y2:
            raise UsageError(f"the box {box} lies outside the picture; {have}")
        return None if (x1, y1, x2, y2) == (0, 0, width, height) else (x1, y1, x2, y2)

    def draft(self, longest: int) -> int:
        """By which power of two a JPEG may be decoded smaller (1, 2, 4 or 8)."""
        if self.size is None:
            return 1
        return next((s for s in (8, 4, 2) if longest // s >= _DRAFT * self.size), 1)

    def apply(
        self,
        image: Image.Image,
        turn: int,
        stored: tuple[int, int],
        extent: tuple[float, float] | None = None,
    ) -> Picture:
        """Decoded pixels to the result.

        ``turn``: orientation still to be applied; ``stored``: the original's size before that; ``extent``:
        how much of the decoded pixels the picture fills, where it was decoded smaller.
        """
        width, height = stored if turn < 5 else stored[::-1]
        box = self.crop((width, height))
        shape = (width, height)
        longest = self.size
        cut = None
        if box is not None:
            shape = (box[2] - box[0], box[3] - box[1])
            cut = _stored_box(box, turn, width, height)
            if longest is not None:
                longest = max(1, longest * max(shape) // max(width, height))
        target = shape if longest is None else fitted_size(*shape, longest)
        if target == shape:
            extent = None
        # A turned picture's rows are what is seen as columns: in the order in which the turned one would be resized.
        size = target if turn < 5 else target[::-1]
        image = colour.resized(image, cut, size, self.filter, rows_first=turn >= 5, extent=extent)
        return Picture(colour.pixels(image, turn), width, height)


def _stored_box(box: _Box, turn: int, width: int, height: int) -> _Box:
    """A box in the picture as it is seen (``width`` x ``height``) -> the same pixels before turning."""
    x1, y1, x2, y2 = box
    if turn in (2, 3, 6, 7):
        x1, x2 = width - x2, width - x1
    if turn in (3, 4, 7, 8):
        y1, y2 = height - y2, height - y1
    return (x1, y1, x2, y2) if turn < 5 else (y1, x1, y2, x2)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or it cannot be read."""
    try:
        value = image.getexif().get(0x0112, 1)
        return int(value) if value in range(1, 9) else 1
    except Exception:
        return 1


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """Width and height before turning; some of Pillow's versions turn the size of a TIFF that is not loaded yet."""
    tags = getattr(image, "tag_v2", None)
    return image.size if tags is None else (tags[256], tags[257])


def _decode(reader: str, cost: Cost, rule: _Rule, exif: bool, limits: Limits, allow_truncated: bool) -> Picture:
    image = open_header(cost.stream, reader)
    width, height = image.size
    check_pixels(width, height, limits)
    if width * height != cost.width * cost.height:  # the header is more than what was looked at
        check_memory(_need(replace(cost, width=width, height=height), reader, rule), limits)
    jpeg = reader == "JPEG"
    shrink = rule.draft(max(width, height)) if jpeg else 1
    extent = None
    if shrink > 1:
        seen = (width, height) if not exif or _orientation(image) < 5 else (height, width)
        if rule.crop(seen) is None:
            drafted = image.draft(None, (max(1, width // shrink), max(1, height // shrink)))
            extent = None if drafted is None else drafted[1][2:]
    turn = _load(image, exif, allow_truncated)
    if cost.header is not None:

        def again(rawmode: str) -> Image.Image:
            second: Any = open_header(cost.stream, reader)
            second.tile = [tile._replace(args=rawmode) for tile in second.tile]
            _load(second, False, allow_truncated)
            return second

        image = with_alpha(image, cost.header, again)
    return rule.apply(image, turn, (width, height) if jpeg else image.size, extent)


def _load(image: Image.Image, exif: bool, allow_truncated: bool) -> int:
    """Decode the pixels; returns the orientation that remains to be applied."""
    told = _orientation(image) if image.format == "TIFF" else 1  # Pillow turns a TIFF while it loads it
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
    left = _orientation(image)
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

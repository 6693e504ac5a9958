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

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from retrieval.errors import RetrievalError, UsageError
from retrieval.pictures import apart
from retrieval.pictures.cost import Cost, check_memory, check_pixels, is_much
from retrieval.pictures.decoding import decode, load_pixels, memory_needed, orientation, stored_size
from retrieval.pictures.gate import Gate
from retrieval.pictures.geometry import INTERPOLATIONS, Picture, Rule, fitted_size
from retrieval.pictures.headers import examine
from retrieval.pictures.limits import Limits
from retrieval.pictures.readers import explained, identify, open_header, open_stream

__all__ = [
    "INTERPOLATIONS",
    "SUFFIXES",
    "Limits",
    "Picture",
    "fitted_size",
    "is_picture_name",
    "load_picture",
    "picture_from_array",
    "picture_size",
]

SUFFIXES = frozenset(
    f".{name}"
    for names in (
        "jpg jpeg jpe jfif jif mpo png apng webp gif tif tiff bmp dib ppm pgm pbm pnm pfm",
        "jp2 j2k j2c jpc jpf jpx avif heic heif hif",
    )
    for name in names.split()
)
_gate = Gate()


def is_picture_name(name: str) -> bool:
    """Whether the suffix is one of :data:`SUFFIXES`. (``._x.jpg`` is macOS's side file to a picture,
    none.)"""
    base = name.rpartition(os.sep)[2]
    stem, _, suffix = base.rpartition(".")
    return f".{suffix}".lower() in SUFFIXES and stem.strip(".") != "" and not base.startswith("._")


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
    rule = Rule(size, interpolation, bbox)
    limits = limits or Limits.from_environment()
    if max_pixels is not None:
        limits = replace(limits, pixels=max_pixels)
    with _examined(source, limits) as (stream, reader, cost):
        need = memory_needed(cost, reader, rule)
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
            return decode(reader, cost, rule, exif, limits, allow_truncated)


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
        width, height = stored_size(image)
        return (height, width) if exif and orientation(image) >= 5 else (width, height)


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


def picture_of(
    source: Any,
    *,
    size: int | None = 1024,
    interpolation: str = "lanczos",
    exif: bool = True,
    bbox: Sequence[float] | None = None,
) -> Picture:
    """Of whatever a picture may be given by: as :func:`load_picture` for a path, bytes or a binary file, else as
    :func:`picture_from_array`."""
    if isinstance(source, str | bytes | os.PathLike) or hasattr(source, "read"):
        return load_picture(source, size=size, interpolation=interpolation, exif=exif, bbox=bbox)
    return picture_from_array(source, size=size, interpolation=interpolation, exif=exif, bbox=bbox)


def meaning_of(picture: np.ndarray | Image.Image) -> str:
    """What else than its values a picture in memory looks like: nothing for an array, and for a PIL image that is like one."""
    if not isinstance(picture, Image.Image):
        return ""
    turned, clear = orientation(picture), picture.info.get("transparency")
    if picture.mode in ("RGB", "L") and turned == 1 and clear is None:
        return ""
    return f"{picture.mode} {turned} {clear} {picture.getpalette(None)}"


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
    rule = Rule(size, interpolation, bbox)
    if isinstance(array, Image.Image):
        try:
            turn = load_pixels(array, exif, False)
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

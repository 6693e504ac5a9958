"""Any of Pillow's modes to 8-bit RGB or grey, a strip at a time, so that no second copy of a large picture is held.

Rules as told in ``imaging.py``: transparent pixels lie on white, 16 bits are divided by 257, wider samples by what they hold.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

STRIP = 1 << 22  # pixels; Pillow computes its filter anew for each, which for very wide ones takes longer than using it
_COPIED = 1 << 17  # pixels that are copied out of Pillow at a time: Pillow copies them twice, which the cache holds
FEWEST_ROWS = 8  # of a strip; wider pictures are converted as a whole first
_ALPHA = frozenset({"RGBA", "LA", "PA", "RGBa", "La"})


def resized(
    image: Image.Image,
    cut: tuple[int, int, int, int] | None,
    target: tuple[int, int],
    filter: Image.Resampling,
    *,
    rows_first: bool,
    extent: tuple[float, float] | None = None,
) -> Image.Image:
    """The part ``cut`` of a decoded picture (None: all), in RGB or grey, brought to ``target`` (width, height).

    The same bytes as converting all of it, cutting and ``Image.resize``: that works on columns first, with 8 bits in
    between, or with ``rows_first`` on rows. ``extent``: how much of the cut counts, where it is less than all.
    """
    left, top, right, bottom = cut or (0, 0, *image.size)
    width, height = right - left, bottom - top
    x, y = extent or (width, height)
    same = target == (width, height) and extent is None
    convert = _converter(image)
    if convert is None and (same or cut is None):
        if same:
            return image if cut is None else _part(image, cut)
        return _two_passes(image, target, filter, rows_first, x, y)
    if not same and STRIP // (height if rows_first else width) < FEWEST_ROWS:
        whole = resized(image, cut, (width, height), filter, rows_first=rows_first)
        return _two_passes(whole, target, filter, rows_first, x, y)
    # One direction in strips, as they are converted, and the other one when all of it is there.
    result: Image.Image | None = None
    middle = target if same else ((width, target[1]) if rows_first else (target[0], height))
    for begin, end in _strips(width, height, rows_first):
        if rows_first:
            strip = _part(image, (left + begin, top, left + end, bottom))
            box: tuple[float, float, float, float] = (0, 0, end - begin, y)
            place = (begin, 0, end, middle[1])
        else:
            strip = _part(image, (left, top + begin, right, top + end))
            box = (0, 0, x, end - begin)
            place = (0, begin, middle[0], end)
        strip = strip if convert is None else convert(strip)
        if not same:
            strip = strip.resize((place[2] - place[0], place[3] - place[1]), filter, box=box)
        if result is None:
            result = strip if strip.size == middle else Image.new(strip.mode, middle)
        if result is not strip:
            result.paste(strip, place)
    assert result is not None
    if same:
        return result
    return result.resize(target, filter, box=(0, 0, x, result.height) if rows_first else (0, 0, result.width, y))


def pixels(image: Image.Image, turn: int = 1) -> np.ndarray:
    """uint8 (H, W, 3) of a picture in RGB or grey, turned by an EXIF orientation; C-contiguous, in memory of its own."""
    width, height = image.size
    out = np.empty((height, width, 3) if turn < 5 else (width, height, 3), np.uint8)
    stored = as_stored(out, turn)
    for top, bottom in _strips(width, height, False, _COPIED):
        values = np.asarray(_part(image, (0, top, width, bottom)))
        stored[top:bottom] = values if values.ndim == 3 else values[..., None]
    return out


def as_stored(seen: np.ndarray, turn: int) -> np.ndarray:
    """The array of a picture as it is seen, viewed as its file has it."""
    if turn in (2, 3, 6, 7):
        seen = seen[:, ::-1]
    if turn in (3, 4, 7, 8):
        seen = seen[::-1]
    return seen if turn < 5 else seen.swapaxes(0, 1)


def _two_passes(
    image: Image.Image, target: tuple[int, int], filter: Image.Resampling, rows_first: bool, x: float, y: float
) -> Image.Image:
    if not rows_first:
        return image.resize(target, filter, box=(0, 0, x, y))
    image = image.resize((image.width, target[1]), filter, box=(0, 0, image.width, y))
    return image.resize(target, filter, box=(0, 0, x, image.height))


def _strips(width: int, height: int, columns: bool, most: int = STRIP) -> Iterator[tuple[int, int]]:
    length, across = (width, height) if columns else (height, width)
    step = max(1, most // across)
    for begin in range(0, length, step):
        yield begin, min(begin + step, length)


def _part(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    # resize() with an integer box of the same size is a crop; Pillow's crop() warns when it is large.
    if box == (0, 0, *image.size):
        return image
    part = image.resize((box[2] - box[0], box[3] - box[1]), Image.Resampling.NEAREST, box=box)
    part.info = image.info
    return part


def _converter(image: Image.Image) -> Any:
    """What makes a strip of the picture RGB or grey; None where it is."""
    mode = image.mode
    key = image.info.get("transparency")
    if mode.startswith("I") or mode == "F":
        return functools.partial(_numbers, span=_span(image), key=key if isinstance(key, int) else None)
    if mode == "LAB":
        from PIL import ImageCms

        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(lab, rgb, "LAB", "RGB").apply
    if key is not None or mode in _ALPHA:
        return _on_white
    if mode in ("RGB", "L"):
        return None
    return lambda strip: strip.convert("L" if mode == "1" else "RGB")


def _on_white(strip: Image.Image) -> Image.Image:
    if strip.mode == "La":
        strip = strip.convert("LA")
    if strip.mode != "RGBA":
        strip = strip.convert("RGBA")
    alpha = strip.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return strip.convert("RGB")
    white = Image.new("RGB", strip.size, "white")
    white.paste(strip, mask=alpha)
    return white


def _numbers(strip: Image.Image, span: tuple[float, float], key: int | None) -> Image.Image:
    low, high = span
    values = np.asarray(strip)
    known = np.clip(np.nan_to_num(values.astype(np.float64), nan=low), low, high)
    out = np.floor((known - low) / (high - low) * 255 + 0.5).astype(np.uint8)
    if key is not None:
        out[values == key] = 255
    return Image.fromarray(out)


def _span(image: Image.Image) -> tuple[float, float]:
    """Which values of 16 or 32 bits are black and white."""
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    least, most = math.inf, -math.inf
    for top, bottom in _strips(image.width, image.height, False):
        values = np.asarray(_part(image, (0, top, image.width, bottom)))
        finite = values[np.isfinite(values)]
        if finite.size:
            least, most = min(least, float(finite.min())), max(most, float(finite.max()))
    if least > most:
        return 0.0, 255.0
    if least < 0 or most > 65535:
        return least, max(most, math.nextafter(least, math.inf))
    if most <= 255:
        return 0.0, 1.0 if image.mode == "F" and most < 1.5 else 255.0
    return 0.0, 65535.0

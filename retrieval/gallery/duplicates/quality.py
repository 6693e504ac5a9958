"""Which of several copies to keep: the one with most of the picture in most pixels, then the least damaged, then the sharpest,
then the better format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retrieval.errors import ImageError
from retrieval.gallery.duplicates.edits import AS_LARGE
from retrieval.gallery.duplicates.items import Item
from retrieval.gallery.duplicates.thumbnails import Thumbnail
from retrieval.gallery.duplicates.traces import blockiness, is_colourful, lost_colours, middle_of
from retrieval.pictures import imaging
from retrieval.pictures.limits import Limits
from retrieval.pictures.readers import identify, open_file

_SIDE = 1024
_BLOCKS = 12  # along the longer side
_TEXTURE = 4.0  # grey levels
_AS_SHARP = 0.75  # of the most: no worth telling apart
_SHARP = 0.6  # most photos are, few that were blurred or enlarged: what is more comes of sharpening, dithering, writing
_BLOCKY = 1.5  # times as much from block to block as within: JPEG of quality 30 and less
_LOSSLESS, _PALETTES = {"PNG", "TIFF", "BMP", "PPM"}, {"GIF"}


@dataclass(frozen=True)
class Quality:
    """``pixels`` within plain borders; ``sharpness``: how much neighbouring pixels differ, of how much the picture varies;
    ``lossless`` format; ``bytes`` of the file; ``inner_share``: how much lies within borders; ``damage``: whether it has few
    colours, whether it was a JPEG of low quality (both of lossless formats alone), whether it is grey."""

    readable: bool
    pixels: float
    sharpness: float
    lossless: bool
    bytes: int
    inner_share: float = 1.0
    damage: tuple[bool, bool, bool] = (False, False, False)


UNKNOWN = Quality(False, 0.0, 0.0, False, 0)


def quality(item: Item, thumbnail: Thumbnail | None, exif: bool) -> Quality:
    """Of a file; :data:`UNKNOWN` where there is none or it cannot be read."""
    if not item.path or thumbnail is None:
        return UNKNOWN
    try:
        with open_file(item.path) as file:
            reader = identify(file, Limits.from_environment())
        picture = imaging.load_picture(item.path, size=_SIDE, exif=exif)
        size = os.path.getsize(item.path)
        few = blocky = False
        if reader in _LOSSLESS or reader in _PALETTES:
            middle = middle_of(item.path)
            few, blocky = lost_colours(middle), blockiness(middle) > _BLOCKY
    except (ImageError, OSError):
        return UNKNOWN
    pixels = picture.width * picture.height * thumbnail.inner_share
    inner, damage = round(thumbnail.inner_share, 2), (few, blocky, not is_colourful(picture.array))
    return Quality(True, pixels, sharpness(picture.array), reader in _LOSSLESS, size, inner, damage)


def sharpness(pixels: npt.NDArray[np.uint8]) -> float:
    """Of an RGB picture, uint8 (H, W, 3): the median over its blocks of the Laplacian's root mean square by the deviation.

    Brightness and contrast do not change it, an enlarged picture has less, text on a part of it counts for that part."""
    import cv2

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    laplacian = cv2.Laplacian(grey, cv2.CV_32F)
    side = max(8, max(grey.shape) // _BLOCKS)
    found = []
    for top in range(0, max(1, grey.shape[0] - side + 1), side):
        for left in range(0, max(1, grey.shape[1] - side + 1), side):
            deviation = float(grey[top : top + side, left : left + side].std())
            if deviation >= _TEXTURE:
                block = laplacian[top : top + side, left : left + side]
                found.append(float(np.sqrt((block * block).mean())) / deviation)
    return float(np.median(found)) if found else 0.0


def best_first(qualities: Sequence[Quality]) -> list[int]:
    """Positions, the one to keep first. Sizes within a tenth and sharpness within a quarter of the most, or more than most photos
    have, are not told apart."""
    left = sorted(range(len(qualities)), key=lambda i: (not qualities[i].readable, -qualities[i].pixels, i))
    order: list[int] = []
    while left:
        most = qualities[left[0]]
        large = [i for i in left if _alike(qualities[i], most)]
        while large:
            least = min(qualities[i].damage for i in large)
            whole = [i for i in large if qualities[i].damage == least]
            sharpest = min(_SHARP, max(qualities[i].sharpness for i in whole))
            sharp = [i for i in whole if qualities[i].sharpness >= _AS_SHARP * sharpest]
            order += sorted(sharp, key=lambda i: _rest(qualities[i], i))
            large = [i for i in large if i not in sharp]
        chosen = set(order)
        left = [i for i in left if i not in chosen]
    return order


def _rest(one: Quality, place: int) -> tuple[bool, float, int, int]:
    return not one.lossless, -one.inner_share, -one.bytes, place


def _alike(one: Quality, most: Quality) -> bool:
    return one.readable == most.readable and one.pixels >= AS_LARGE * most.pixels

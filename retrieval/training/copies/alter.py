"""Altered copies of a picture: cropped, turned, seen at an angle, darkened, overlaid; decided by a seed alone.

Each change is a function of its own over uint8 (H, W, 3) RGB and a random generator that it is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from retrieval.errors import UsageError


@dataclass(frozen=True)
class CopyPreset:
    """Ranges and probabilities. ``area``: the least share of the picture that a copy shows; ``aspect``: by what factor its
    proportions may change; ``degrees``: of a turn to either side; ``quarter``: probability of a quarter turn or two;
    ``tilt``: how far corners move, as a share of the sides; the rest are probabilities of what they name, ``dark`` with
    lamps and noise, ``overlay`` of a part of another photo, ``text``, ``border`` or a ``screen``'s margins."""

    area: float = 0.2
    aspect: float = 1.33
    degrees: float = 15.0
    quarter: float = 0.08
    tilt: float = 0.15
    mirror: float = 0.3
    colour: float = 0.8
    dark: float = 0.25
    blur: float = 0.25
    jpeg: float = 0.3
    grey: float = 0.1
    overlay: float = 0.12
    text: float = 0.1
    border: float = 0.08
    screen: float = 0.06


def altered(
    picture: np.ndarray, size: int, seed: int, *, other: np.ndarray | None = None, preset: CopyPreset | None = None
) -> np.ndarray:
    """A copy of ``picture``, uint8 (H, W, 3) RGB -> uint8 (H', W', 3): longest side ``size``, the other a multiple of 32 (or
    ``size``), so that copies have few shapes. ``other``: a photo to combine it with (None: none); how often is for the caller
    to decide, who has to read it.

    The same arguments give the same bytes. Raises UsageError for another kind of array.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise UsageError(f"a picture must be uint8 (H, W, 3), not {picture.dtype} {picture.shape}")
    chosen = preset or CopyPreset()
    rng = np.random.default_rng(seed)
    # One generator for each change, so that one probability does not alter what another change draws.
    parts = dict(zip(_CHANGES, rng.spawn(len(_CHANGES)), strict=True))
    copy = _seen(picture, size, chosen, parts["seen"])
    if parts["mirror"].random() < chosen.mirror:
        copy = copy[:, ::-1]
    if parts["colour"].random() < chosen.colour:
        copy = _recoloured(copy, parts["colour"])
    if parts["grey"].random() < chosen.grey:
        copy = np.repeat(_luminance(copy)[..., None], 3, axis=2).astype(np.uint8)
    if other is not None:
        copy = _overlaid(copy, other, parts["overlay"])
    if parts["dark"].random() < chosen.dark:
        copy = _darkened(copy, parts["dark"])
    if parts["blur"].random() < chosen.blur:
        copy = _blurred(copy, parts["blur"])
    if parts["text"].random() < chosen.text:
        copy = _lettered(copy, parts["text"])
    if parts["border"].random() < chosen.border:
        copy = _bordered(copy, parts["border"])
    if parts["screen"].random() < chosen.screen:
        copy = _on_screen(copy, parts["screen"])
    if parts["jpeg"].random() < chosen.jpeg:
        copy = _compressed(copy, parts["jpeg"])
    return np.ascontiguousarray(copy)


_CHANGES = ("seen", "mirror", "colour", "grey", "overlay", "dark", "blur", "text", "border", "screen", "jpeg")


_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def bucket(width: float, height: float, size: int) -> tuple[int, int]:
    """(width, height) of a copy with about these proportions: longest side ``size``, the other a multiple of 32 or ``size``."""
    short = size * min(width, height) / max(width, height)
    steps = [*range(32, size, 32), size]
    fitted = min(steps, key=lambda side: abs(side - short))
    return (size, fitted) if width >= height else (fitted, size)


def _seen(picture: np.ndarray, size: int, preset: CopyPreset, rng: np.random.Generator) -> np.ndarray:
    """Crop, turn, tilt and resize in one mapping, so that pixels are interpolated once."""
    import cv2

    height, width = picture.shape[:2]
    share, stretch = rng.uniform(preset.area, 1), preset.aspect ** rng.uniform(-1, 1)
    wide = min(float(width), max(2.0, width * math.sqrt(share * stretch)))
    high = min(float(height), max(2.0, height * math.sqrt(share / stretch)))
    left, top = rng.uniform(0, width - wide), rng.uniform(0, height - high)
    angle = math.radians(preset.degrees) * rng.normal() / 2
    quarter = int(rng.integers(1, 4)) if rng.random() < preset.quarter else 0
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64) / 2
    corners += rng.uniform(-1, 1, (4, 2)) * preset.tilt / 2 * (rng.random() < 0.5)
    corners *= [wide, high]
    cosine, sine = math.cos(angle), math.sin(angle)
    corners = corners @ np.array([[cosine, sine], [-sine, cosine]]) + [left + wide / 2, top + high / 2]
    corners = np.roll(corners, quarter, axis=0)
    if quarter % 2:
        wide, high = high, wide
    out_width, out_height = bucket(wide, high, size)
    # Fewer pixels first, by averages, where the mapping would skip some.
    shrink = min(wide / out_width, high / out_height)
    if shrink > 1.25:
        small = (max(2, round(width / shrink)), max(2, round(height / shrink)))
        picture = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
        corners *= [small[0] / width, small[1] / height]
    target = np.array([[0, 0], [out_width, 0], [out_width, out_height], [0, out_height]], np.float32)
    mapping = cv2.getPerspectiveTransform((corners - 0.5).astype(np.float32), target - np.float32(0.5))
    outside = cv2.BORDER_REFLECT_101 if rng.random() < 0.5 else cv2.BORDER_CONSTANT
    fill = tuple(int(v) for v in rng.integers(0, 256, 3))
    return np.asarray(
        cv2.warpPerspective(
            picture, mapping, (out_width, out_height), flags=cv2.INTER_LINEAR, borderMode=outside, borderValue=fill
        )
    )


def _luminance(picture: np.ndarray) -> np.ndarray:
    return np.asarray(picture.astype(np.float32) @ _LUMA)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def _recoloured(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation, white balance, gamma."""
    values: np.ndarray = picture.astype(np.float32)
    values *= np.float32(rng.uniform(0.6, 1.4)) * rng.uniform(0.85, 1.15, 3).astype(np.float32)
    mean = np.float32(values.mean())
    values = mean + (values - mean) * np.float32(rng.uniform(0.6, 1.4))
    grey = (values @ _LUMA)[..., None]
    values = grey + (values - grey) * np.float32(rng.uniform(0.3, 1.7))
    return _bytes(255 * np.clip(values / 255, 0, 1) ** np.float32(2 ** rng.uniform(-0.5, 0.5)))


def _darkened(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Night: little light, bluish or warm, lamps with halos, and a sensor's noise."""
    height, width = picture.shape[:2]
    values = (picture.astype(np.float32) / 255) ** np.float32(rng.uniform(1, 2.2))
    values *= np.float32(rng.uniform(0.08, 0.5)) * rng.uniform(0.7, 1.2, 3).astype(np.float32)
    rows, columns = np.ogrid[:height, :width]
    for _ in range(int(rng.integers(0, 4))):
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        radius = max(height, width) * rng.uniform(0.02, 0.25)
        glow = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * radius**2)).astype(np.float32)
        tint = np.array([1, rng.uniform(0.7, 1), rng.uniform(0.4, 1)], np.float32)
        lit = (picture.astype(np.float32) / 255) * np.float32(rng.uniform(0.2, 1.2)) + np.float32(rng.uniform(0, 0.4))
        values += glow[..., None] * tint * lit
    values += rng.normal(0, 1, values.shape).astype(np.float32) * np.float32(rng.uniform(0, 0.06))
    return _bytes(255 * values)


def _blurred(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    import cv2

    if rng.random() < 0.3 and min(picture.shape[:2]) > 8:  # few pixels, enlarged
        factor = rng.uniform(0.3, 0.7)
        size = (picture.shape[1], picture.shape[0])
        small = (max(2, round(size[0] * factor)), max(2, round(size[1] * factor)))
        return np.asarray(cv2.resize(cv2.resize(picture, small, interpolation=cv2.INTER_AREA), size))
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 2.0)))


def _compressed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    import cv2

    done, data = cv2.imencode(
        ".jpg", np.ascontiguousarray(picture), [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 75))]
    )
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR)) if done else picture


def _overlaid(picture: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A rectangle of another photo over a part of this one, or this one pasted onto the other."""
    import cv2

    height, width = picture.shape[:2]
    back, front = picture.copy(), other
    if rng.random() < 0.4:
        back, front = cv2.resize(other, (width, height), interpolation=cv2.INTER_AREA), picture
        side = rng.uniform(0.5, 0.85)
    else:
        side = rng.uniform(0.2, 0.5)
    wide, high = max(2, round(width * side)), max(2, round(height * side))
    left, top = int(rng.integers(width - wide + 1)), int(rng.integers(height - high + 1))
    back[top : top + high, left : left + wide] = cv2.resize(front, (wide, high), interpolation=cv2.INTER_AREA)
    return np.asarray(back)


def _lettered(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    import cv2

    copy = np.ascontiguousarray(picture).copy()
    height, width = copy.shape[:2]
    for _ in range(int(rng.integers(1, 4))):
        letters = "".join(chr(int(c)) for c in rng.integers(48, 123, int(rng.integers(3, 14))))
        place = (int(rng.integers(-width // 4, width // 2 + 1)), int(rng.integers(0, height + 1)))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        scale = max(height, width) / 160 * rng.uniform(0.4, 1.6)
        cv2.putText(copy, letters, place, int(rng.integers(0, 8)), scale, colour, int(rng.integers(1, 4)), cv2.LINE_AA)
    return copy


def _within(picture: np.ndarray, margins: tuple[int, int, int, int], ground: np.ndarray) -> np.ndarray:
    """The picture shrunk onto ``ground`` (H, W, 3), inside margins (left, top, right, bottom) in pixels."""
    import cv2

    height, width = picture.shape[:2]
    left, top, right, bottom = margins
    size = (max(2, width - left - right), max(2, height - top - bottom))
    small = cv2.resize(np.ascontiguousarray(picture), size, interpolation=cv2.INTER_AREA)
    ground[top : top + size[1], left : left + size[0]] = small
    return ground


def _bordered(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = picture.shape[:2]
    across, down = int(width * rng.uniform(0.02, 0.15)), int(height * rng.uniform(0.02, 0.15))
    ground = np.empty_like(picture, order="C")
    ground[:] = rng.choice([0, 255]) if rng.random() < 0.5 else rng.integers(0, 256, 3)
    return _within(picture, (across, down, across, down), ground)


def _on_screen(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A screenshot: bars with short lines above and below."""
    height, width = picture.shape[:2]
    top, bottom = int(height * rng.uniform(0.05, 0.25)), int(height * rng.uniform(0, 0.25))
    light = rng.random() < 0.5
    ground = np.full(picture.shape, 245 if light else 20, np.uint8)
    for _ in range(int(rng.integers(2, 9))):
        y = int(rng.integers(0, height))
        x, length = int(rng.integers(0, width)), int(rng.integers(2, max(3, width // 2)))
        ground[y : y + max(1, height // 50), x : x + length] = 90 if light else 180
    return _within(picture, (0, top, 0, bottom), ground)

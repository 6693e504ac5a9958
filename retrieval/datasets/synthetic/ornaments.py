"""What the made-up house fronts are built and painted with: palettes, walls, patterns, pictures, lettering."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Rect = tuple[float, float, float, float]
# wall, second wall, trim, three accents, dark. Far fewer than objects on purpose.
PALETTES: tuple[tuple[Colour, ...], ...] = (
    ((206, 162, 116), (222, 186, 146), (246, 234, 210), (182, 40, 34), (36, 88, 146), (234, 176, 44), (42, 36, 38)),
    ((178, 70, 52), (204, 108, 82), (242, 226, 200), (26, 100, 72), (238, 190, 76), (62, 98, 166), (50, 30, 28)),
    ((222, 206, 150), (190, 168, 110), (250, 244, 226), (150, 32, 54), (46, 130, 112), (230, 132, 36), (52, 46, 42)),
    ((112, 124, 136), (160, 168, 172), (238, 238, 232), (204, 60, 36), (30, 74, 142), (224, 182, 72), (34, 38, 46)),
    ((232, 182, 84), (204, 146, 62), (248, 236, 206), (40, 112, 86), (186, 40, 38), (46, 72, 152), (58, 42, 32)),
    ((96, 146, 104), (140, 182, 132), (240, 240, 214), (208, 92, 36), (92, 44, 116), (240, 206, 92), (30, 42, 34)),
    ((216, 142, 138), (230, 178, 168), (250, 236, 228), (100, 30, 56), (38, 112, 136), (226, 152, 48), (54, 38, 42)),
    ((86, 122, 178), (140, 168, 206), (238, 240, 240), (216, 154, 36), (158, 34, 46), (36, 112, 98), (30, 36, 52)),
)  # fmt: skip
_ALL_SYLLABLES = "BA CO DU EL FI GO HAN IS JO KA LU MI NOR OS PA QUI RE SA TO UR VEN WA XI YO ZE"
_SYLLABLES = _ALL_SYLLABLES.split()


def greyed(colour: Colour) -> Colour:
    grey = sum(colour) / 3
    r, g, b = (int(0.35 * c + 0.55 * grey + 16) for c in colour)
    return r, g, b


def dim(colour: Colour, gain: float) -> Colour:
    r, g, b = (min(255, max(0, int(c * gain))) for c in colour)
    return r, g, b


def wall_texture(kind: str, size: tuple[int, int], colour: Colour, rng: np.random.Generator) -> np.ndarray:
    """uint8 (H, W, 3): courses of brick or stone, planks, or stained plaster."""
    width, height = size
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    if kind == "plaster":
        coarse = Image.fromarray(rng.integers(90, 166, (9, 7), dtype=np.uint8))
        shade = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.float32) / 128 - 1
        shade = shade * 0.3 + (rng.random((height, width), np.float32) - 0.5) * 0.08
    else:
        tall, long, spread = {"brick": (9, 22, 0.16), "stone": (26, 52, 0.18), "planks": (4096, 15, 0.14)}[kind]
        row = y // tall
        along = x + (row % 2) * (long // 2)
        jitter = rng.uniform(-spread, spread, (height // tall + 1, (width + long) // long + 1)).astype(np.float32)
        shade = jitter[row, along // long]
        joint = ((y % tall < 2) & (tall < height)) | (along % long < 2)
        shade = np.where(joint, np.float32(-0.22), shade)
        shade = shade + (rng.random((height, width), np.float32) - 0.5) * 0.06
    return np.clip(np.asarray(colour, np.float32) * (1 + shade[..., None]), 0, 255).astype(np.uint8)


_PATTERNS: tuple[Callable[[np.ndarray, np.ndarray, int], np.ndarray], ...] = (
    lambda x, y, s: (x + 0 * y) // s % 2 == 0,
    lambda x, y, s: (x + y) // s % 2 == 0,
    lambda x, y, s: (x // s + y // s) % 2 == 0,
    lambda x, y, s: (x % s * 2 - s) ** 2 + (y % s * 2 - s) ** 2 < s * s // 2,
    lambda x, y, s: np.abs((x % (2 * s) - s) ** 2 + (y % (2 * s) - s) ** 2 - s * s // 2) < s * s // 4,
    lambda x, y, s: (y + np.abs(x % (2 * s) - s)) // s % 2 == 0,
    lambda x, y, s: x % s > y % s,
    lambda x, y, s: np.abs(x % (2 * s) - s) + np.abs(y % (2 * s) - s) < s,
    lambda x, y, s: ((x + y // s % 2 * s) % (2 * s) - s) ** 2 + (y % s) ** 2 < s * s * 3 // 4,
    lambda x, y, s: (x % s < s // 4) | (y % s < s // 4),
)


def pattern(size: tuple[int, int], colours: list[Colour], rng: np.random.Generator) -> Image.Image:
    """A field (width, height) of tiles in two of the colours."""
    x, y = np.arange(size[0])[None, :], np.arange(size[1])[:, None]
    on = _PATTERNS[int(rng.integers(len(_PATTERNS)))](x, y, int(rng.integers(10, 30)))
    first, second = (np.asarray(colours[int(i)], np.uint8) for i in rng.choice(len(colours), 2, replace=False))
    return Image.fromarray(np.where(on[..., None], first, second))


def paint(draw: ImageDraw.ImageDraw, box: Rect, colours: list[Colour], rng: np.random.Generator) -> None:
    """A poster: a ground, and some large shapes on it."""
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    picked = [colours[i] for i in rng.permutation(len(colours))]
    draw.rectangle(box, fill=picked[0], outline=picked[1], width=3)
    for i in range(int(rng.integers(3, 7))):
        colour, kind = picked[1 + i % (len(picked) - 1)], int(rng.integers(6))
        r = min(w, h) * float(rng.uniform(0.14, 0.34))
        cx, cy = float(rng.uniform(x1 + r, x2 - r)), float(rng.uniform(y1 + r, y2 - r))
        if kind == 0:
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=colour)
        elif kind == 1:
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), outline=colour, width=max(3, int(r * 0.35)))
        elif kind == 2:
            turn, n = float(rng.uniform(0, math.tau)), int(rng.integers(3, 6))
            angles = [turn + math.tau * k / n for k in range(n)]
            draw.polygon([(cx + r * math.cos(a), cy + r * math.sin(a)) for a in angles], fill=colour)
        elif kind == 3:
            draw.rectangle((x1 + 3, cy - r * 0.3, x2 - 3, cy + r * 0.3), fill=colour)
        elif kind == 4:
            points = int(rng.integers(5, 9))
            draw.polygon(star(cx, cy, r, points), fill=colour)
        else:
            word(draw, (max(x1, cx - 1.6 * r), cy - r * 0.6, min(x2, cx + 1.6 * r), cy + r * 0.6), colour, rng)


def word(draw: ImageDraw.ImageDraw, box: Rect, colour: Colour, rng: np.random.Generator) -> None:
    """A made-up word, as large as fits the box."""
    text = "".join(_SYLLABLES[int(i)] for i in rng.integers(len(_SYLLABLES), size=int(rng.integers(2, 4))))
    x1, y1, x2, y2 = box
    size = max(6, int(min((y2 - y1) * 0.9, (x2 - x1) / (0.72 * len(text)))))
    draw.text(((x1 + x2) / 2, (y1 + y2) / 2), text, fill=colour, font=ImageFont.load_default(size), anchor="mm")


def mural(size: tuple[int, int], colours: list[Colour], rng: np.random.Generator) -> Image.Image:
    """A large wall painting (width, height): a patterned ground, and icons in a row, on discs or squares."""
    canvas = pattern(size, colours, rng)
    draw = ImageDraw.Draw(canvas)
    width, height = size
    many = int(rng.integers(1, max(2, min(5, round(2 * width / height)) + 1)))
    icons = rng.integers(len(_ICONS), size=2)
    backing = int(rng.integers(2))
    ink, ground, other = (colours[int(i)] for i in rng.choice(len(colours), 3, replace=False))
    r = min(height * 0.42, width / many * 0.42)
    for k in range(many):
        cx, cy = width * (k + 0.5) / many, height / 2
        if backing == 0:
            draw.ellipse((cx - r * 1.1, cy - r * 1.1, cx + r * 1.1, cy + r * 1.1), fill=ground)
        else:
            draw.rectangle((cx - r * 1.1, cy - r * 1.1, cx + r * 1.1, cy + r * 1.1), fill=ground)
        _ICONS[int(icons[k % 2])](draw, cx, cy, r, ink, other)
    draw.rectangle((0, 0, width - 1, height - 1), outline=ink, width=4)
    return canvas


def star(cx: float, cy: float, r: float, points: int) -> list[tuple[float, float]]:
    """Corners of a star around (cx, cy)."""
    return [
        (cx + q * math.sin(math.pi * k / points), cy - q * math.cos(math.pi * k / points))
        for k in range(2 * points)
        for q in ((r if k % 2 == 0 else r * 0.45),)
    ]


_Icon = Callable[[ImageDraw.ImageDraw, float, float, float, Colour, Colour], None]


def _fish(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, other: Colour) -> None:
    draw.ellipse((x - r, y - r * 0.5, x + r * 0.5, y + r * 0.5), fill=ink)
    draw.polygon([(x + r * 0.3, y), (x + r, y - r * 0.5), (x + r, y + r * 0.5)], fill=ink)
    for k in range(3):
        draw.arc(
            (x - r * (0.5 - 0.3 * k), y - r * 0.4, x - r * (0.1 - 0.3 * k), y + r * 0.4), 90, 270, fill=other, width=3
        )
    draw.ellipse((x - r * 0.8, y - r * 0.2, x - r * 0.62, y - r * 0.02), fill=other)


def _boat(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, other: Colour) -> None:
    draw.polygon(
        [(x - r, y + r * 0.3), (x + r, y + r * 0.3), (x + r * 0.6, y + r * 0.8), (x - r * 0.6, y + r * 0.8)], fill=ink
    )
    draw.polygon([(x - r * 0.08, y - r), (x - r * 0.08, y + r * 0.2), (x - r * 0.8, y + r * 0.2)], fill=other)
    draw.polygon([(x + r * 0.08, y - r * 0.8), (x + r * 0.08, y + r * 0.2), (x + r * 0.6, y + r * 0.2)], fill=ink)


def _cup(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, other: Colour) -> None:
    draw.ellipse((x + r * 0.2, y - r * 0.4, x + r, y + r * 0.4), outline=ink, width=max(3, int(r * 0.16)))
    draw.polygon(
        [
            (x - r * 0.8, y - r * 0.6),
            (x + r * 0.6, y - r * 0.6),
            (x + r * 0.4, y + r * 0.7),
            (x - r * 0.6, y + r * 0.7),
        ],
        fill=ink,
    )
    draw.rectangle((x - r * 0.7, y - r * 0.2, x + r * 0.5, y + r * 0.1), fill=other)


def _flower(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, other: Colour) -> None:
    for k in range(7):
        px, py = x + r * 0.62 * math.cos(math.tau * k / 7), y + r * 0.62 * math.sin(math.tau * k / 7)
        draw.ellipse((px - r * 0.3, py - r * 0.3, px + r * 0.3, py + r * 0.3), fill=ink)
    draw.ellipse((x - r * 0.35, y - r * 0.35, x + r * 0.35, y + r * 0.35), fill=other)


def _sun(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, other: Colour) -> None:
    draw.polygon(star(x, y, r, 14), fill=ink)
    draw.ellipse((x - r * 0.5, y - r * 0.5, x + r * 0.5, y + r * 0.5), fill=other)


def _cat(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, other: Colour) -> None:
    draw.ellipse((x - r * 0.7, y - r * 0.6, x + r * 0.7, y + r * 0.8), fill=ink)
    for side in (-1, 1):
        draw.polygon(
            [(x + side * r * 0.68, y - r), (x + side * r * 0.66, y), (x + side * r * 0.1, y - r * 0.5)], fill=ink
        )
        eye = x + side * r * 0.3
        draw.ellipse((eye - r * 0.14, y - r * 0.12, eye + r * 0.14, y + r * 0.16), fill=other)
        draw.line((x + side * r * 0.1, y + r * 0.35, x + side * r, y + r * 0.25), fill=other, width=3)


def _bird(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, other: Colour) -> None:
    draw.ellipse((x - r * 0.7, y - r * 0.3, x + r * 0.5, y + r * 0.6), fill=ink)
    draw.ellipse((x + r * 0.15, y - r * 0.75, x + r * 0.7, y - r * 0.15), fill=ink)
    draw.polygon([(x + r * 0.65, y - r * 0.55), (x + r, y - r * 0.42), (x + r * 0.65, y - r * 0.3)], fill=other)
    draw.polygon([(x - r * 0.5, y), (x - r, y - r * 0.6), (x - r, y + r * 0.2)], fill=ink)
    draw.pieslice((x - r * 0.5, y - r * 0.3, x + r * 0.3, y + r * 0.4), 0, 180, fill=other)
    draw.line((x - r * 0.1, y + r * 0.5, x - r * 0.1, y + r), fill=ink, width=4)


def _wheel(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, other: Colour) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), fill=other, outline=ink, width=max(4, int(r * 0.2)))
    for k in range(4):
        dx, dy = r * math.cos(math.pi * k / 4), r * math.sin(math.pi * k / 4)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=ink, width=max(3, int(r * 0.1)))


def _house(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, other: Colour) -> None:
    draw.polygon([(x - r, y - r * 0.1), (x, y - r), (x + r, y - r * 0.1)], fill=ink)
    draw.rectangle((x - r * 0.75, y - r * 0.1, x + r * 0.75, y + r * 0.8), fill=other, outline=ink, width=3)
    draw.rectangle((x - r * 0.2, y + r * 0.25, x + r * 0.2, y + r * 0.8), fill=ink)


def _target(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, ink: Colour, other: Colour) -> None:
    for k in range(4):
        q = r * (1 - k / 4)
        draw.ellipse((x - q, y - q, x + q, y + q), fill=other if k % 2 else ink)


_ICONS: tuple[_Icon, ...] = (_fish, _boat, _cup, _flower, _sun, _cat, _bird, _wheel, _house, _target)

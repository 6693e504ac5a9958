"""The parts of a made-up house front: roof, frieze, windows, the level of the street, emblems."""

from __future__ import annotations

import math

import numpy as np
from PIL import ImageDraw

from retrieval.datasets.synthetic.ornaments import (
    Colour,
    Rect,
    dim,
    paint,
    star,
    word,
)
from retrieval.datasets.synthetic.styles import Style


def draw_roof(
    draw: ImageDraw.ImageDraw,
    mask: ImageDraw.ImageDraw,
    style: Style,
    roof: int,
    order: list[Colour],
    dark: Colour,
    rng: np.random.Generator,
) -> None:
    width = style.width
    if style.roof == "flat":
        draw.rectangle((0, 0, width, roof), fill=style.palette[2], outline=dark)
        return
    if style.roof == "gable":
        outline: list[tuple[float, float]] = [(0, roof), (width / 2, 2), (width, roof)]
    elif style.roof == "hip":
        outline = [(0, roof), (width * 0.16, 2), (width * 0.84, 2), (width, roof)]
    elif style.roof == "dome":
        outline = [(0, roof), (0, roof - 8)]
        arc = [math.pi * k / 24 for k in range(25)]
        outline += [(width * (0.5 - 0.38 * math.cos(t)), roof - 8 - (roof - 12) * math.sin(t)) for t in arc]
        outline += [(width, roof - 8), (width, roof)]
    elif style.roof == "tower":
        half = [(0.0, roof), (width * 0.36, roof * 0.7), (width * 0.36, roof * 0.38), (width * 0.33, roof * 0.38)]
        outline = [*half, (width / 2, 2), *((width - x, y) for x, y in reversed(half))]
    else:
        outline = [(0.0, roof)]
        for i in range(4):
            outline += [(width * i / 9, roof * (3 - i) / 4 + 2), (width * (i + 1) / 9, roof * (3 - i) / 4 + 2)]
        outline += [(width - x, y) for x, y in reversed(outline)]
    mask.rectangle((0, 0, width, roof), fill=0)
    mask.polygon(outline, fill=255)
    draw.rectangle((0, 0, width, roof), fill=dim(order[0], 0.8))
    for y in range(4, roof, 7):
        draw.line((0, y, width, y), fill=dim(order[0], 0.62), width=2)
    draw.line([*outline, outline[0]], fill=style.palette[2], width=5)
    for x in rng.choice(np.arange(3, 8), int(rng.integers(1, 4)), replace=False):
        centre, low = width * int(x) / 10, roof - 6
        shape = int(rng.integers(3))
        box = (centre - 11, low - 24, centre + 11, low)
        if shape == 0:
            draw.ellipse(box, fill=dark, outline=style.palette[2], width=4)
        elif shape == 1:
            draw.rectangle(box, fill=order[1], outline=style.palette[2], width=4)
        else:
            draw.polygon([(box[0], low), (centre, box[1]), (box[2], low)], fill=order[2], outline=dark)


def draw_frieze(
    draw: ImageDraw.ImageDraw, box: Rect, trim: Colour, order: list[Colour], rng: np.random.Generator
) -> None:
    x1, y1, x2, y2 = box
    draw.rectangle(box, fill=trim)
    step = float(rng.choice((14, 18, 24, 32)))
    motif = [int(v) for v in rng.integers(0, 6, int(rng.integers(1, 4)))]
    for i in range(int((x2 - x1) / step)):
        a, b, mid = x1 + i * step + 2, x1 + (i + 1) * step - 2, x1 + (i + 0.5) * step
        kind, colour = motif[i % len(motif)], order[i % len(motif) % 3]
        if kind == 0:
            draw.ellipse((a, y1 + 2, b, y2 - 2), fill=colour)
        elif kind == 1:
            draw.polygon([(a, y2 - 2), (mid, y1 + 2), (b, y2 - 2)], fill=colour)
        elif kind == 2:
            draw.polygon([(a, (y1 + y2) / 2), (mid, y1 + 1), (b, (y1 + y2) / 2), (mid, y2 - 1)], fill=colour)
        elif kind == 3:
            draw.rectangle((a, y1 + 3, (a + b) / 2, y2 - 3), fill=colour)
        elif kind == 4:
            draw.line((a, y2 - 2, b, y1 + 2), fill=colour, width=4)
        else:
            draw.arc((a, y1 + 2, b, y2 + (y2 - y1)), 180, 360, fill=colour, width=4)


def shrunk(box: Rect, across: float, down: float) -> Rect:
    x1, y1, x2, y2 = box
    dx, dy = (x2 - x1) * (1 - across) / 2, (y2 - y1) * (1 - down) / 2
    return x1 + dx, y1 + dy, x2 - dx, y2 - dy


def draw_window(
    draw: ImageDraw.ImageDraw, box: Rect, state: str, style: Style, order: list[Colour], rng: np.random.Generator
) -> None:
    x1, y1, x2, y2 = box
    wall, _, trim, *_, dark = style.palette
    w, h = x2 - x1, y2 - y1
    if state == "bricked":
        draw.rectangle(box, fill=dim(wall, 0.8), outline=trim, width=3)
        for y in np.arange(y1 + 6, y2, 7):
            draw.line((x1 + 3, y, x2 - 3, y), fill=dim(wall, 0.6), width=1)
        return
    glass = (246, 214, 130) if state == "lit" else (92, 110, 126)
    if state == "arch":
        draw.pieslice((x1, y1 - w * 0.35, x2, y1 + w * 0.65), 180, 360, fill=order[0], outline=trim, width=3)
        y1 += w * 0.15
    draw.rectangle((x1, y1, x2, y2), fill=glass, outline=trim, width=4)
    for i in range(1, style.panes[0]):
        draw.line((x1 + w * i / style.panes[0], y1, x1 + w * i / style.panes[0], y2), fill=trim, width=3)
    for i in range(1, style.panes[1]):
        draw.line((x1, y1 + h * i / style.panes[1], x2, y1 + h * i / style.panes[1]), fill=trim, width=3)
    if state == "shutters":
        for a, b in ((x1 - w * 0.36, x1 - 1), (x2 + 1, x2 + w * 0.36)):
            draw.rectangle((a, y1, b, y2), fill=order[1], outline=dim(order[1], 0.6))
            for y in np.arange(y1 + 5, y2, 6):
                draw.line((a + 2, y, b - 2, y), fill=dim(order[1], 0.7), width=1)
    elif state == "closed":
        draw.rectangle((x1 + 3, y1 + 3, x2 - 3, y2 - 3), fill=order[2], outline=dark)
        draw.line(((x1 + x2) / 2, y1, (x1 + x2) / 2, y2), fill=dark, width=2)
    elif state == "balcony":
        draw.rectangle((x1 - w * 0.25, y2 - h * 0.28, x2 + w * 0.25, y2 + 4), outline=dark, width=3)
        for x in np.arange(x1 - w * 0.2, x2 + w * 0.25, 6):
            draw.line((x, y2 - h * 0.28, x, y2 + 3), fill=dark, width=2)
    elif state == "flowers":
        draw.rectangle((x1 - 3, y2 - 4, x2 + 3, y2 + 7), fill=(96, 70, 48))
        for x in np.arange(x1, x2, 7):
            draw.ellipse(
                (x, y2 - 12, x + 8, y2 - 3), fill=order[int(rng.integers(3))] if rng.random() < 0.5 else (70, 116, 62)
            )
    elif state == "blind":
        low = y1 + h * float(rng.uniform(0.3, 0.8))
        draw.rectangle((x1 + 3, y1 + 3, x2 - 3, low), fill=order[0], outline=dim(order[0], 0.6))
        for x in np.arange(x1 + 6, x2 - 4, 8):
            draw.line((x, y1 + 3, x, low), fill=trim, width=2)


def draw_ground(
    draw: ImageDraw.ImageDraw, box: Rect, style: Style, order: list[Colour], rng: np.random.Generator
) -> None:
    """Door, windows, posters and sign at the level of the street."""
    x1, y1, x2, y2 = box
    _, second, trim, *_, dark = style.palette
    width, height = x2 - x1, y2 - y1
    sign = y1 + height * 0.26
    draw.rectangle(box, fill=dim(second, 0.86))
    bays = 4 if style.ground != "arcade" else 5
    kinds = rng.integers(0, 4, bays)
    kinds[int(rng.integers(bays))] = 4  # the door
    for i, kind in enumerate(kinds):
        a, b = x1 + width * (i + 0.1) / bays, x1 + width * (i + 0.9) / bays
        top = sign + 4
        if kind == 4:
            draw.rectangle((a + 8, top, b - 8, y2), fill=order[0], outline=dark, width=3)
            draw.line(((a + b) / 2, top, (a + b) / 2, y2), fill=dark, width=2)
            draw.ellipse(((a + b) / 2 + 4, (top + y2) / 2, (a + b) / 2 + 9, (top + y2) / 2 + 5), fill=trim)
        elif kind == 3 and style.ground == "doors":
            draw.rectangle((a, top, b, y2 - 8), fill=order[2], outline=trim, width=3)
        elif kind == 2:
            paint(draw, (a, top, b, y2 - 6), [*order, trim, dark], rng)
        else:
            if style.ground == "arcade":
                draw.pieslice((a, top, b, top + (b - a)), 180, 360, fill=dark, outline=trim, width=4)
                draw.rectangle((a, top + (b - a) / 2, b, y2 - 4), fill=dark)
            else:
                draw.rectangle((a, top, b, y2 - 10), fill=(84, 100, 112), outline=trim, width=4)
            if kind == 1:  # goods on display
                for x in np.arange(a + 6, b - 8, 11):
                    tall = float(rng.uniform(8, 24))
                    draw.rectangle((x, y2 - 12 - tall, x + 8, y2 - 12), fill=order[int(rng.integers(3))])
    if style.ground == "shop" and rng.random() < 0.6:
        a = x1 + width * float(rng.uniform(0.02, 0.4))
        for i in range(int(rng.integers(5, 11))):
            left, stripe = a + i * 15, order[1] if i % 2 else trim
            draw.polygon([(left, sign), (left + 15, sign), (left + 17, sign + 22), (left - 2, sign + 22)], fill=stripe)
    a = x1 + width * float(rng.uniform(0.02, 0.3))
    b = a + width * float(rng.uniform(0.4, 0.66))
    draw.rectangle((a, y1 + 3, b, sign), fill=order[1], outline=trim, width=2)
    word(draw, (a, y1 + 3, b, sign), trim, rng)


def draw_emblem(
    draw: ImageDraw.ImageDraw,
    cells: list[list[Rect]],
    style: Style,
    order: list[Colour],
    trim: Colour,
    dark: Colour,
    rng: np.random.Generator,
) -> None:
    """A clock, shield, star or hanging sign between the windows."""
    x1, y1, _, y2 = cells[int(rng.integers(style.rows))][int(rng.integers(style.columns))]
    cx, cy, r = x1 + 4, (y1 + y2) / 2 + float(rng.uniform(-0.2, 0.2)) * (y2 - y1), float(rng.uniform(13, 22))
    cx = max(cx, r + 2)
    kind = int(rng.integers(4))
    if kind == 0:
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=trim, outline=dark, width=4)
        draw.line((cx, cy, cx, cy - r * 0.7), fill=dark, width=3)
        draw.line((cx, cy, cx + r * 0.5, cy + r * 0.2), fill=dark, width=3)
    elif kind == 1:
        shield = [(cx - r, cy - r), (cx + r, cy - r), (cx + r, cy), (cx, cy + r * 1.2), (cx - r, cy)]
        draw.polygon(shield, fill=order[0], outline=trim)
        draw.line((cx - r, cy - r, cx + r * 0.8, cy), fill=order[1], width=5)
    elif kind == 2:
        draw.polygon(star(cx, cy, r * 1.2, int(rng.integers(5, 9))), fill=order[2], outline=dark)
    else:
        draw.rectangle((cx - r * 0.6, cy - r * 1.6, cx + r * 0.6, cy + r * 1.6), fill=order[1], outline=trim)
        for k in range(3):
            top = cy - r * 1.4 + k * r
            draw.ellipse((cx - r * 0.4, top, cx + r * 0.4, top + r * 0.8), fill=order[2] if k % 2 else trim)

"""Made-up house fronts for the synthetic set: seen straight on, in even light.

Fronts come in groups of siblings. A group shares its palette, proportions, walls, window grid and ground
floor; what tells siblings apart is arrangement and detail: which window is shuttered, lit or bricked up,
where the door is, the mural, the posters, the ornament, the emblem, the lettering. Mean colour therefore says
little about identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from retrieval.datasets.synthetic.ornaments import (
    PALETTES,
    Colour,
    Rect,
    dim,
    greyed,
    mural,
    paint,
    pattern,
    star,
    wall_texture,
    word,
)

_WALLS = ("brick", "stone", "plaster", "planks")
_STATES = ("plain", "shutters", "closed", "lit", "balcony", "bricked", "flowers", "blind", "arch")


@dataclass(frozen=True)
class Facade:
    """``picture`` RGB and ``mask`` L, of one size; the mask is 0 beside the roof."""

    picture: Image.Image
    mask: Image.Image


@dataclass(frozen=True)
class Style:
    """What the siblings of a group share."""

    palette: tuple[Colour, ...]
    width: int
    height: int
    wall: str
    rows: int
    columns: int
    slim: float  # share of its cell that a window takes in width
    panes: tuple[int, int]
    roof: str
    ground: str
    mural: bool
    pilasters: bool
    plain: bool  # an ordinary house: greyer, without tiles, murals and emblems


def draw_style(rng: np.random.Generator, *, plain: bool = False) -> Style:
    """The common traits of one group."""
    palette = PALETTES[int(rng.integers(len(PALETTES)))]
    if plain:
        palette = tuple(greyed(colour) for colour in palette)
    tall = bool(rng.random() < 0.6)
    return Style(
        palette=palette,
        width=int(rng.integers(300, 350)) if tall else int(rng.integers(380, 430)),
        height=int(rng.integers(380, 430)) if tall else int(rng.integers(310, 350)),
        wall=str(rng.choice(_WALLS)),
        rows=int(rng.integers(2, 5)) if tall else int(rng.integers(2, 4)),
        columns=int(rng.integers(3, 5)) if tall else int(rng.integers(4, 6)),
        slim=float(rng.uniform(0.42, 0.6)),
        panes=(int(rng.integers(1, 4)), int(rng.integers(1, 4))),
        roof=str(rng.choice(("gable", "flat", "steps", "hip", "dome", "tower"))),
        ground=str(rng.choice(("shop", "arcade", "doors"))),
        mural=bool(rng.random() < 0.9),
        pilasters=bool(rng.random() < 0.4),
        plain=plain,
    )


def draw_facade(style: Style, rng: np.random.Generator) -> Facade:
    """One front of the group: ``rng`` decides on all that makes it itself."""
    width, height = style.width, style.height
    wall, second, trim, *accents, dark = style.palette
    order = [accents[i] for i in rng.permutation(len(accents))]
    roof = int(height * {"flat": 0.05, "dome": 0.24, "tower": 0.3}.get(style.roof, 0.16))
    ground = int(height * 0.24)
    picture = Image.new("RGB", (width, height), second)
    picture.paste(Image.fromarray(wall_texture(style.wall, (width, height - roof), wall, rng)), (0, roof))
    draw = ImageDraw.Draw(picture)
    mask = Image.new("L", (width, height), 255)
    _roof(draw, ImageDraw.Draw(mask), style, roof, order, dark, rng)

    top, bottom = roof + 6, height - ground
    frieze = (0.0, float(top), float(width), top + height * 0.05)
    _frieze(draw, frieze, trim, order, rng)
    cells = _cells((0.0, frieze[3] + 4, float(width), bottom - 6.0), style)
    if not style.plain:
        _tiles(picture, cells, [wall, second, trim, *accents, dark], rng)
    if style.pilasters:
        for column in range(style.columns + 1):
            x = min(max(cells[0][0][0] + column * width / style.columns, 5), width - 6)
            draw.rectangle((x - 5, frieze[3], x + 5, bottom), fill=trim, outline=dim(trim, 0.75))
    taken = _mural(picture, cells, style, [*order, trim, dark], rng) if style.mural and not style.plain else set()
    favourites = rng.choice(len(_STATES), 4, replace=False)
    for row in range(style.rows):
        for column in range(style.columns):
            if (row, column) in taken:
                continue
            state = _STATES[int(favourites[int(rng.choice(4, p=(0.4, 0.25, 0.2, 0.15)))])]
            _window(draw, _shrink(cells[row][column], style.slim, 0.74), state, style, order, rng)
    _ground(draw, (0.0, float(bottom), float(width), float(height)), style, order, rng)
    for _ in range(0 if style.plain else int(rng.integers(1, 4))):
        _emblem(draw, cells, style, order, trim, dark, rng)
    if style.plain:
        picture = Image.blend(picture, picture.resize((1, 1)).resize(picture.size), 0.5)
    return Facade(picture, mask)


def _tiles(picture: Image.Image, cells: list[list[Rect]], colours: list[Colour], rng: np.random.Generator) -> None:
    """Patterned tiles on one storey or more, around the windows."""
    width, height = picture.size
    bands = [pattern((width, height), colours, rng) for _ in range(2)]
    chosen = rng.integers(0, 3, len(cells))  # 0 and 1: which band, 2: the bare wall
    chosen[int(rng.integers(len(cells)))] = 0
    for row, which in zip(cells, chosen, strict=True):
        if which < 2:
            top, bottom = round(row[0][1]), round(row[0][3])
            picture.paste(bands[which].crop((0, 0, width, bottom - top)), (0, top))


def _roof(
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


def _frieze(draw: ImageDraw.ImageDraw, box: Rect, trim: Colour, order: list[Colour], rng: np.random.Generator) -> None:
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


def _cells(box: Rect, style: Style) -> list[list[Rect]]:
    x1, y1, x2, y2 = box
    wide, tall = (x2 - x1) / style.columns, (y2 - y1) / style.rows
    return [
        [(x1 + c * wide, y1 + r * tall, x1 + (c + 1) * wide, y1 + (r + 1) * tall) for c in range(style.columns)]
        for r in range(style.rows)
    ]


def _shrink(box: Rect, across: float, down: float) -> Rect:
    x1, y1, x2, y2 = box
    dx, dy = (x2 - x1) * (1 - across) / 2, (y2 - y1) * (1 - down) / 2
    return x1 + dx, y1 + dy, x2 - dx, y2 - dy


def _window(
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


def _mural(
    picture: Image.Image, cells: list[list[Rect]], style: Style, colours: list[Colour], rng: np.random.Generator
) -> set[tuple[int, int]]:
    """A painted field over some of the window cells; returns those cells."""
    rows, columns = min(style.rows, int(rng.integers(1, 4))), int(rng.integers(2, style.columns + 1))
    row, column = int(rng.integers(style.rows - rows + 1)), int(rng.integers(style.columns - columns + 1))
    first, last = cells[row][column], cells[row + rows - 1][column + columns - 1]
    x1, y1, x2, y2 = (round(v) for v in _shrink((first[0], first[1], last[2], last[3]), 0.94, 0.94))
    picture.paste(mural((x2 - x1, y2 - y1), colours, rng), (x1, y1))
    return {(r, c) for r in range(row, row + rows) for c in range(column, column + columns)}


def _ground(draw: ImageDraw.ImageDraw, box: Rect, style: Style, order: list[Colour], rng: np.random.Generator) -> None:
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


def _emblem(
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

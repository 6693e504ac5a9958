"""Made-up house fronts for the synthetic set: seen straight on, in even light.

Fronts come in groups of siblings. A group shares its palette, proportions, walls, window grid and ground
floor; what tells siblings apart is arrangement and detail: which window is shuttered, lit or bricked up,
where the door is, the mural, the posters, the ornament, the emblem, the lettering. Mean colour therefore says
little about identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from retrieval.datasets.synthetic.front_parts import (
    draw_emblem,
    draw_frieze,
    draw_ground,
    draw_roof,
    draw_window,
    shrunk,
)
from retrieval.datasets.synthetic.ornaments import (
    Colour,
    Rect,
    dim,
    mural,
    pattern,
    wall_texture,
)
from retrieval.datasets.synthetic.styles import Style

_STATES = ("plain", "shutters", "closed", "lit", "balcony", "bricked", "flowers", "blind", "arch")


@dataclass(frozen=True)
class Facade:
    """``picture`` RGB and ``mask`` L, of one size; the mask is 0 beside the roof."""

    picture: Image.Image
    mask: Image.Image


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
    draw_roof(draw, ImageDraw.Draw(mask), style, roof, order, dark, rng)

    top, bottom = roof + 6, height - ground
    frieze = (0.0, float(top), float(width), top + height * 0.05)
    draw_frieze(draw, frieze, trim, order, rng)
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
            draw_window(draw, shrunk(cells[row][column], style.slim, 0.74), state, style, order, rng)
    draw_ground(draw, (0.0, float(bottom), float(width), float(height)), style, order, rng)
    for _ in range(0 if style.plain else int(rng.integers(1, 4))):
        draw_emblem(draw, cells, style, order, trim, dark, rng)
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


def _cells(box: Rect, style: Style) -> list[list[Rect]]:
    x1, y1, x2, y2 = box
    wide, tall = (x2 - x1) / style.columns, (y2 - y1) / style.rows
    return [
        [(x1 + c * wide, y1 + r * tall, x1 + (c + 1) * wide, y1 + (r + 1) * tall) for c in range(style.columns)]
        for r in range(style.rows)
    ]


def _mural(
    picture: Image.Image, cells: list[list[Rect]], style: Style, colours: list[Colour], rng: np.random.Generator
) -> set[tuple[int, int]]:
    """A painted field over some of the window cells; returns those cells."""
    rows, columns = min(style.rows, int(rng.integers(1, 4))), int(rng.integers(2, style.columns + 1))
    row, column = int(rng.integers(style.rows - rows + 1)), int(rng.integers(style.columns - columns + 1))
    first, last = cells[row][column], cells[row + rows - 1][column + columns - 1]
    x1, y1, x2, y2 = (round(v) for v in shrunk((first[0], first[1], last[2], last[3]), 0.94, 0.94))
    picture.paste(mural((x2 - x1, y2 - y1), colours, rng), (x1, y1))
    return {(r, c) for r in range(row, row + rows) for c in range(column, column + columns)}

"""What the made-up house fronts of a group share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from retrieval.datasets.synthetic.ornaments import (
    PALETTES,
    Colour,
    greyed,
)

_WALLS = ("brick", "stone", "plaster", "planks")


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

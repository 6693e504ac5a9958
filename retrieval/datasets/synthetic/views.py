"""How a front of the synthetic set is seen: what makes a view easy, hard or junk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

Point = tuple[float, float]


@dataclass(frozen=True)
class View:
    """How a front is seen. Angles in degrees, lengths in parts of the frame unless said otherwise."""

    frame: tuple[int, int]  # pixels
    yaw: float
    pitch: float
    roll: float
    distance: float  # of the camera, in heights of the front: small is strong perspective
    extent: float  # the larger of the front's width and height; over 1 crops
    centre: Point  # where the front's middle lies
    gain: float = 1.0
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    gamma: float = 1.0
    shade: float = 0.0  # strength of a shadow across the picture
    blur: float = 0.0  # pixels
    noise: float = 0.0  # grey levels
    hidden: float = 0.0  # share of the front that things before it cover, roughly
    things: int = 2  # lesser things in the street
    quality: int = 88  # of the JPEG


def easy_view(size: int, rng: np.random.Generator) -> View:
    """A photo anyone would take: nearly from the front, most of the frame filled, daylight."""
    return View(
        frame=_frame(size, rng),
        yaw=_between(rng, -20, 20),
        pitch=_between(rng, -8, 10),
        roll=_between(rng, -3, 3),
        distance=_between(rng, 1.8, 3.0),
        extent=_between(rng, 0.8, 1.0),
        centre=(_between(rng, 0.42, 0.58), _between(rng, 0.42, 0.54)),
        gain=_between(rng, 0.9, 1.1),
        cast=_cast(rng, 0.04),
        shade=_between(rng, 0.0, 0.2),
        blur=_between(rng, 0.0, 0.5) * size / 320,
        noise=_between(rng, 1, 4),
        things=int(rng.integers(0, 2)),
        quality=int(rng.integers(80, 93)),
    )


def hard_view(size: int, rng: np.random.Generator) -> View:
    """An easy view with one or two of the things that make recognition hard."""
    view = easy_view(size, rng)
    chosen = rng.choice(len(_TROUBLES), 1 if rng.random() < 0.65 else 2, replace=False)
    for i in sorted(int(i) for i in chosen):
        view = _TROUBLES[i](view, rng)
    return view


def junk_view(size: int, rng: np.random.Generator) -> View:
    """A view in which the front is hardly seen: tiny, nearly all hidden, or a detail of it in the dark."""
    view = easy_view(size, rng)
    kind = int(rng.integers(3))
    if kind == 0:
        return replace(view, extent=_between(rng, 0.08, 0.14), things=6, blur=size / 320)
    if kind == 1:
        return replace(_from_the_side(view, rng), hidden=0.9, things=6)
    return replace(view, extent=_between(rng, 4.0, 6.0), gain=0.3, noise=14.0, quality=25)


def query_view(size: int, rng: np.random.Generator) -> View:
    """A street scene with the front in it, clearly seen, and much else beside it."""
    return replace(
        easy_view(size, rng),
        frame=(size, round(size * 0.75)),
        extent=_between(rng, 0.68, 0.86),
        centre=(_between(rng, 0.38, 0.62), _between(rng, 0.42, 0.52)),
        yaw=_between(rng, -18, 18),
        things=0,
    )


def street_view(size: int, rng: np.random.Generator) -> View:
    """A street with nothing in particular in it."""
    view = easy_view(size, rng)
    return replace(view, extent=_between(rng, 0.25, 0.6), things=int(rng.integers(2, 6)))


VIEWS: dict[str, Callable[[int, np.random.Generator], View]] = {
    "easy": easy_view,
    "hard": hard_view,
    "junk": junk_view,
    "query": query_view,
    "street": street_view,
}


def _from_the_side(view: View, rng: np.random.Generator) -> View:
    side = -1 if rng.random() < 0.5 else 1
    yaw, pitch = side * _between(rng, 28, 46), _between(rng, -14, 16)
    return replace(view, yaw=yaw, pitch=pitch, roll=_between(rng, -9, 9))


def _far_away(view: View, rng: np.random.Generator) -> View:
    centre = (_between(rng, 0.25, 0.75), _between(rng, 0.35, 0.6))
    return replace(view, extent=_between(rng, 0.58, 0.74), centre=centre, things=2)


def _cropped(view: View, rng: np.random.Generator) -> View:
    centre = (_between(rng, 0.1, 0.9), _between(rng, 0.2, 0.8))
    return replace(view, extent=_between(rng, 1.2, 1.6), centre=centre)


def _bad_light(view: View, rng: np.random.Generator) -> View:
    gain, gamma = _between(rng, 0.55, 0.8), _between(rng, 1.0, 1.3)
    shade = _between(rng, 0.1, 0.4)
    return replace(view, gain=gain, gamma=gamma, cast=_cast(rng, 0.14), shade=shade, noise=6.0)


def _hidden(view: View, rng: np.random.Generator) -> View:
    return replace(view, hidden=_between(rng, 0.12, 0.28), things=1)


def _bad_camera(view: View, rng: np.random.Generator) -> View:
    blur, noise = _between(rng, 0.5, 1.0) * max(view.frame) / 320, _between(rng, 5, 11)
    return replace(view, blur=blur, noise=noise, quality=int(rng.integers(18, 36)))


# In the order in which they are applied; being cropped and being far away exclude each other, so the later
# one counts.
_TROUBLES = (_from_the_side, _far_away, _cropped, _bad_light, _hidden, _bad_camera)


def _frame(size: int, rng: np.random.Generator) -> tuple[int, int]:
    short = round(size * 0.75)
    return (size, short) if rng.random() < 0.8 else (short, size)


def _between(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _cast(rng: np.random.Generator, strength: float) -> tuple[float, float, float]:
    r, g, b = (_between(rng, 1 - strength, 1 + strength) for _ in range(3))
    return r, g, b

"""What a picture costs: pixels, bytes a pixel, whether its decoder can be trusted with time; and how that meets the limits.

A picture whose decoder may take long or much for a small file is decoded in a process of its own (``apart``), which can be
stopped; so is any picture that takes much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from retrieval.errors import ImageError
from retrieval.pictures import png
from retrieval.pictures.limits import Limits

_MUCH = 160_000_000  # bytes; what takes more is decoded apart


@dataclass(frozen=True)
class Cost:
    """``stream`` is what the reader gets. ``width`` x ``height`` as stored (0: the header does not say it simply).

    ``held``: bytes a pixel that stay until the picture is resized; ``passing``: bytes a pixel of the whole picture that
    the decoder holds beside; ``fixed``: bytes whatever the number of pixels.
    """

    stream: BinaryIO
    width: int = 0
    height: int = 0
    held: float = 4
    passing: float = 0
    fixed: int = 0
    apart: bool = False
    header: png.PngHeader | None = None


def check_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise ImageError(
            f"{width} x {height} pixels exceed the limit of {limits.pixels / 1e6:.3g} megapixels",
            "Make a smaller copy of it.",
        )


def check_memory(need: float, limits: Limits) -> None:
    """Raises ImageError where ``need`` bytes exceed the limit."""
    if need > limits.memory:
        raise ImageError(
            f"decoding it takes about {need / 1e6:,.0f} MB of memory, more than the limit of {limits.memory / 1e6:,.0f} MB",
            "Make a smaller copy of it, or raise the limit: --picture-memory MB.",
            limited=True,
        )


def is_much(need: float) -> bool:
    return need > _MUCH

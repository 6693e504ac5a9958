"""What a picture's file holds beside the colours that are compared: frames, transparency, depth."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from retrieval.errors import ImageError
from retrieval.messages import first_line
from retrieval.pictures.limits import Limits
from retrieval.pictures.readers import identify, open_file, open_header


@dataclass(frozen=True)
class Header:
    """``frames``: of an animation, or pages; ``transparent``: anything is; ``deep``: more than 8 bits a colour."""

    frames: int
    transparent: bool
    deep: bool


def header_of(path: str) -> Header:
    """Of the picture at ``path``. Reads the pixels of such as have an alpha channel. Raises ImageError."""
    with open_file(path) as file:
        reader = identify(file, Limits.from_environment())
        try:
            image = open_header(file, reader)
            frames = int(getattr(image, "n_frames", 1))
            return Header(frames, _transparent(image), _deep(image))
        except ImageError:
            raise
        except Exception as error:  # readers raise many kinds
            raise ImageError(first_line(error)) from error


def _transparent(image: Image.Image) -> bool:
    if "transparency" in image.info:
        return True
    if not image.mode.endswith(("A", "a")):
        return False
    least, _ = image.getchannel(image.getbands()[-1]).getextrema()
    return float(least if isinstance(least, int | float) else least[0]) < 255


def _deep(image: Image.Image) -> bool:
    """By the mode, or by how the reader unpacks what is stored: it makes 8 bits of 16 in colour."""
    stored = " ".join(str(part) for tile in getattr(image, "tile", ()) for part in tile)
    return image.mode.startswith(("I", "F")) or ";16" in stored

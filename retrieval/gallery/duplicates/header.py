"""What a picture's file holds beside the colours that are compared: frames, transparency, depth."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from retrieval.errors import ImageError
from retrieval.messages import first_line
from retrieval.pictures import png
from retrieval.pictures.decoding import ORIENTATION, told_orientation
from retrieval.pictures.limits import Limits
from retrieval.pictures.readers import identify, open_file, open_header

_EXIF = 0x8769
_NEVER_TURN = ("JPEG", "PNG", "WebP")  # readers that leave it to others
# ImageDescription, Artist, Copyright, DateTimeOriginal, UserComment, GPS, Windows' title, comment, author, keywords, subject.
_TELLING = (0x010E, 0x013B, 0x8298, 0x9003, 0x9286, 0x8825, 0x9C9B, 0x9C9C, 0x9C9D, 0x9C9E, 0x9C9F)


@dataclass(frozen=True)
class Header:
    """``frames``: of an animation, pages, or views of one file; ``transparent``: anything is; ``deep``: more than 8 bits a
    colour; ``told``: what EXIF says of when, where, by whom and of what, by its tags; ``turn``: the EXIF orientation, 1 to 8,
    None where a reader may have turned the pixels by itself."""

    frames: int
    transparent: bool
    deep: bool
    told: frozenset[int]
    turn: int | None


def header_of(path: str) -> Header:
    """Of the picture at ``path``. Reads the pixels of such as have an alpha channel. Raises ImageError."""
    with open_file(path) as file:
        reader = identify(file, Limits.from_environment())
        try:
            early = reader == "PNG" and not png.tells_later(file)
            image = open_header(file, reader)
            frames = max(int(getattr(image, "n_frames", 1)), 2 if _has_views(image) else 1)
            # Pillow's reader of PNG decodes all pixels for what may stand behind them.
            exif = Image.Image.getexif(image) if early else image.getexif()
            told = frozenset(tag for tag in _TELLING if tag in exif or tag in exif.get_ifd(_EXIF))
            return Header(frames, _transparent(image), _deep(image), told, _turn(exif, reader))
        except ImageError:
            raise
        except Exception as error:  # readers raise many kinds
            raise ImageError(first_line(error)) from error


def _turn(exif: Image.Exif, reader: str) -> int | None:
    if reader not in _NEVER_TURN:
        return 1 if exif.get(ORIENTATION, 1) == 1 else None
    return told_orientation(exif)


def _has_views(image: Image.Image) -> bool:
    """Whether a JPEG is followed by others that belong to it: a stereo pair, a picture's depth (CIPA's multi-picture format)."""
    return any(name == "APP2" and data.startswith(b"MPF\0") for name, data in getattr(image, "applist", ()))


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

"""What may be written over: never a photo. Pictures that are drawn here carry a mark, by which later ones may replace them."""

from __future__ import annotations

import os
from typing import Any

from PIL.PngImagePlugin import PngInfo

from retrieval.errors import ImageError, UsageError
from retrieval.pictures.limits import Limits
from retrieval.pictures.readers import identify, open_file, open_header
from retrieval.pictures.unnamed import begins_as_picture

MARK = "retrieval"
"""What a PNG names as its Software, and a JPEG in its comment."""
_COMMENT = f"Software: {MARK}"


def spare_pictures(path: str | os.PathLike[str]) -> None:
    """Where text or numbers are to be written. Raises UsageError if a picture is there, or what cannot be read and may be one."""
    if _holds_picture(path):
        raise UsageError(f"{os.fspath(path)} is a picture", "Name another file.")


def spare_photos(path: str | os.PathLike[str]) -> None:
    """Where a picture is to be drawn. Raises UsageError if a picture is there that was not drawn here, or what cannot be read."""
    if _holds_picture(path) and not _is_marked(path):
        raise UsageError(
            f"{os.fspath(path)} is a picture that retrieve did not draw",
            "Name another file, or delete this one if it is an old sheet.",
        )


def mark_of(form: str) -> dict[str, Any]:
    """What Pillow's ``save`` is told to write the mark into a picture that is drawn here; ``form``: "JPEG" or "PNG"."""
    if form == "JPEG":
        return {"comment": _COMMENT}
    info = PngInfo()
    info.add_text("Software", MARK)
    return {"pnginfo": info}


def _holds_picture(path: str | os.PathLike[str]) -> bool:
    try:
        return os.path.exists(path) and begins_as_picture(path)
    except ImageError as error:
        raise UsageError(f"{os.fspath(path)} may be a picture ({error.message})", "Name another file.") from error


def _is_marked(path: str | os.PathLike[str]) -> bool:
    try:
        with open_file(path) as stream:
            info = open_header(stream, identify(stream, Limits.from_environment())).info
    except Exception:  # readers raise almost anything on damaged files
        return False
    return info.get("comment") == _COMMENT.encode() or info.get("Software") == MARK

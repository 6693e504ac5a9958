"""Small grey pictures of a gallery's pictures, made once and kept; and their outlines, which know a picture at any size.

``local/grey160/`` in the gallery's folder holds one file a picture, named by its content hash. It is derived and may be
deleted. A descriptor of a picture far smaller than the model's size differs from the large one's; an outline does not.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrieval.files.whole import keep_derived
from retrieval.gallery.address import LOCAL_FOLDER
from retrieval.pictures import imaging
from retrieval.pictures.content import read_content

Grey = npt.NDArray[np.uint8]

SIDE = 160
OUTLINE = 16  # cells along a side
_MAGIC = b"rGr1"
_HEADER = struct.Struct("<4sHH")
_FLAT = 2.5  # deviation in grey levels below which there is no outline to speak of
_AT_ONCE = 1 << 15  # pixels
_EDGE = 8  # grey levels that a line of a border may deviate from it


@dataclass(frozen=True)
class Thumbnail:
    """``grey`` uint8 (H, W), longest side 160 or the picture's own; ``box``: left, top, right, bottom of what lies within
    plain borders, if any."""

    grey: Grey
    box: tuple[int, int, int, int]

    @property
    def bordered(self) -> bool:
        return self.box != (0, 0, self.grey.shape[1], self.grey.shape[0])

    @property
    def inner_share(self) -> float:
        """How much of the picture lies within plain borders, 0..1."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top) / self.grey.size

    def outline(self, inner: bool) -> npt.NDArray[np.float32] | None:
        """Grey levels on 16 x 16 cells, less their mean, unit length, float32 (256,); of what lies in the ``inner`` box, or of
        the whole. None where the picture is nearly flat."""
        import cv2

        left, top, right, bottom = self.box if inner else (0, 0, self.grey.shape[1], self.grey.shape[0])
        cells = cv2.resize(
            self.grey[top:bottom, left:right].astype(np.float32), (OUTLINE, OUTLINE), interpolation=cv2.INTER_AREA
        )
        cells -= cells.mean()
        if cells.std() < _FLAT:
            return None
        result: npt.NDArray[np.float32] = (cells / np.linalg.norm(cells)).ravel()
        return result


def thumbnail(pixels: npt.NDArray[np.uint8]) -> Thumbnail:
    """Of an RGB picture, uint8 (H, W, 3), that is small already."""
    import cv2

    grey = np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), np.uint8)
    return Thumbnail(grey, inner_box(grey))


def inner_box(grey: Grey) -> tuple[int, int, int, int]:
    """What is left when lines of one grey level are taken off each side, as long as they have that of the outermost."""
    height, width = grey.shape
    top, bottom = _plain(grey), height - _plain(grey[::-1])
    left, right = _plain(grey.T), width - _plain(grey.T[::-1])
    if bottom - top < height // 4 or right - left < width // 4 or min(bottom - top, right - left) < 8:
        return 0, 0, width, height
    return left, top, right, bottom


def _plain(lines: Grey) -> int:
    """How many lines from the first on have one grey level."""
    level = int(np.median(lines[0]))
    step = max(1, _AT_ONCE // lines.shape[1])  # most pictures have none, and few many
    for begin in range(0, len(lines), step):
        off = np.abs(lines[begin : begin + step].astype(np.int16) - level).max(axis=1) > _EDGE
        if off.any():
            return begin + int(off.argmax())
    return len(lines)


class Thumbnails:
    """Thumbnails of files, kept in a gallery's folder under their content hashes (``folder`` None keeps none)."""

    def __init__(self, folder: Path | None, exif: bool) -> None:
        self.gallery = folder
        self.folder = None if folder is None else folder / LOCAL_FOLDER / f"grey{SIDE}"
        self.exif = exif
        self.changed: set[str] = set()  # contents whose file holds another one by now

    def load(self, path: str, digest: str) -> Thumbnail:
        """As kept, or made now of the file. Raises ImageError."""
        kept = self._kept(digest)
        if kept is not None:
            return kept
        data, now = read_content(path)
        made = thumbnail(imaging.load_picture(data, size=SIDE, exif=self.exif).array)
        if now != digest:
            self.changed.add(digest)
        elif self.folder is not None:
            self._keep(digest, made.grey)
        return made

    def _kept(self, digest: str) -> Thumbnail | None:
        if self.folder is None:
            return None
        try:
            data = (self.folder / digest[:2] / digest).read_bytes()
            magic, width, height = _HEADER.unpack_from(data)
            pixels = zlib.decompress(data[_HEADER.size :])
        except (OSError, struct.error, zlib.error):  # not there yet, or damaged: made anew
            return None
        if magic != _MAGIC or len(pixels) != width * height or not pixels:
            return None
        grey = np.frombuffer(pixels, np.uint8).reshape(height, width)
        return Thumbnail(grey, inner_box(grey))

    def _keep(self, digest: str, grey: Grey) -> None:
        assert self.folder is not None
        assert self.gallery is not None
        height, width = grey.shape
        data = _HEADER.pack(_MAGIC, width, height) + zlib.compress(grey.tobytes(), 1)
        keep_derived(self.folder / digest[:2] / digest, data, self.gallery)

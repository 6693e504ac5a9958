"""Small pictures of a gallery's pictures for people to look at: encoded anew, kept in the gallery up to a number of bytes.

``thumbnails/320/`` in the gallery's folder holds a WebP a picture, named by its content hash. It is derived and may be deleted.
What is encoded anew carries no metadata (places, names) and nothing that a browser could take for anything but a picture.
(Grey ones, by which copies are recognised, lie in ``local/grey160``: see gallery/duplicates/thumbnails.py.)
"""

from __future__ import annotations

import io
import os
import re
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrieval.files.whole import keep_derived
from retrieval.pictures import imaging
from retrieval.pictures.content import read_content

FOLDER = "thumbnails"
SIDES = (320, 1280)  # longest side in pixels; the first are kept
MOST_BYTES = 1 << 30
_QUALITY = 78
_LEFT = 0.9  # of the most bytes, after old ones were dropped
_DIGEST = re.compile(r"[0-9a-f]{16,128}")


class ThumbnailCache:
    """Thumbnails of files by content hash. Several threads and processes may use one folder."""

    def __init__(self, gallery: Path, exif: bool = True, most_bytes: int = MOST_BYTES) -> None:
        self.gallery = gallery
        self.folder = gallery / FOLDER / str(SIDES[0])
        self.exif = exif
        self.most_bytes = most_bytes
        self._held: int | None = None  # bytes, counted when the first is kept
        self._turn = threading.Lock()

    def load(self, path: str, digest: str, side: int = SIDES[0]) -> bytes:
        """A WebP of the file whose content had this hash, as kept, or made now. Raises ImageError."""
        keeps = side == SIDES[0] and _DIGEST.fullmatch(digest) is not None
        place = self.folder / digest[:2] / digest
        if keeps:
            try:
                return place.read_bytes()
            except OSError:
                pass  # not there yet, or a folder that cannot be read: made anew
        data, now = read_content(path)
        made = encoded(imaging.load_picture(data, size=side, exif=self.exif).array)
        if keeps and now == digest:
            self._keep(place, made)
        return made

    def put(self, digest: str, pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> None:
        """Keep the thumbnail of a picture that is at hand: ``pixels``, uint8 (H, W, 3), of a file of this content and
        ``size`` (width, height). Not where it is there already, where the pixels are too few, and not in place of another: those
        that were looked at stay."""
        side = SIDES[0]
        height, width = pixels.shape[:2]
        place = self.folder / digest[:2] / digest
        if max(width, height) < min(side, max(size)) or not _DIGEST.fullmatch(digest) or place.exists():
            return
        with self._turn:
            if self._held is None:
                self._held = sum(held for _, held, _ in self._files())
            if self._held >= _LEFT * self.most_bytes:
                return
        image = Image.fromarray(pixels)
        image.thumbnail((side, side), Image.Resampling.BOX, reducing_gap=None)
        self._keep(place, encoded(np.asarray(image)))

    def _keep(self, place: Path, data: bytes) -> None:
        if not keep_derived(place, data, self.gallery):
            return
        with self._turn:
            if self._held is None:
                self._held = sum(size for _, size, _ in self._files())
            else:
                self._held += len(data)
            if self._held > self.most_bytes:
                self._held = self._drop_oldest()

    def _files(self) -> list[tuple[float, int, str]]:
        found = []
        for folder, _, names in os.walk(self.folder):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    state = os.stat(path)
                except OSError:
                    continue
                found.append((state.st_mtime, state.st_size, path))
        return sorted(found)

    def _drop_oldest(self) -> int:
        files = self._files()
        held = sum(size for _, size, _ in files)
        for _, size, path in files:
            if held <= _LEFT * self.most_bytes:
                break
            try:
                os.unlink(path)
            except OSError:
                continue
            held -= size
        return held


def encoded(pixels: npt.NDArray[np.uint8]) -> bytes:
    """An RGB picture, uint8 (H, W, 3), as WebP."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "WEBP", quality=_QUALITY, method=3)
    return stream.getvalue()

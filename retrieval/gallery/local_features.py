"""Local features of a gallery's pictures, found once and kept: what spatial verification compares.

``local/`` in the gallery's folder holds one file a picture, named by its content hash. It is derived and may be deleted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import ImageError, UsageError
from retrieval.files.digest import content_digest
from retrieval.files.whole import keep_derived
from retrieval.messages import say_nothing
from retrieval.pictures import imaging
from retrieval.pictures.content import read_content
from retrieval.ranking.geometry import LocalFeatures, local_features, pack, unpack, verify

LOCAL_FOLDER = "local"
POINTS, SIDE = 1000, 640
_SEAL = 16  # bytes


class LocalMatcher:
    """Compares queries with pictures of one gallery by their local features.

    ``picture(position)`` tells path and content hash of a picture, "" and None of one that is gone; positions are whatever the
    caller counts by.
    ``seconds`` adds up the time spent on finding points of pictures that were not kept yet.
    """

    def __init__(
        self,
        folder: Path,
        picture: Callable[[int], tuple[str, str | None]],
        *,
        exif: bool,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.within = folder
        self.folder = folder / LOCAL_FOLDER / f"points{POINTS}-{SIDE}"
        self.picture = picture
        self.exif = exif
        self.warn = warn or say_nothing
        self.seconds = 0.0
        self._workers = min(4, os.cpu_count() or 1)

    def query(self, source: Any, bbox: Sequence[float] | None = None) -> LocalFeatures:
        """Points of a query picture, or of its box. Raises ImageError."""
        picture = imaging.picture_of(source, size=SIDE if bbox is None else None, exif=self.exif, bbox=bbox)
        return local_features(picture.array, POINTS, SIDE)

    def inliers(self, query: LocalFeatures, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """How many matches of each picture agree in one homography with the query: int64, 0 for one that cannot be read."""
        with ThreadPoolExecutor(self._workers, thread_name_prefix="verify") as pool:
            pictures = [self.picture(int(position)) for position in positions]
            if any(digest is None or not self._file(digest).is_file() for _, digest in pictures):
                started = time.monotonic()
                found = list(pool.map(lambda p: self.features(*p), pictures))
                self.seconds += time.monotonic() - started
            else:
                found = list(pool.map(lambda p: self.features(*p), pictures))
        read = [other for other in found if other is not None]
        counts = iter(verification.inliers for verification in verify(query, read))
        return np.array([0 if other is None else next(counts) for other in found], np.int64)

    def features(self, path: str, digest: str | None) -> LocalFeatures | None:
        """Points of a gallery picture: as kept under its content hash, or found now; None when it is gone or cannot be read."""
        if not path:
            return None
        if digest is not None:
            try:
                return unpack(_opened(digest, self._file(digest).read_bytes()))
            except (OSError, UsageError):  # not there yet, or damaged: found anew
                pass
        try:
            data, now = read_content(path)
            picture = imaging.load_picture(data, size=SIDE, exif=self.exif)
        except ImageError as error:
            self.warn(f"{path} cannot be verified: {error}")
            return None
        features = local_features(picture.array, POINTS, SIDE)
        if digest == now:  # still what the gallery describes
            keep_derived(self._file(digest), _sealed(digest, pack(features)), self.within)
        return features

    def _file(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest


def _sealed(digest: str, data: bytes) -> bytes:
    """What is kept of a content: not forced to the disk, so a power cut may leave anything of it."""
    check = content_digest(_SEAL)
    check.update(digest.encode() + data)
    return check.digest() + data


def _opened(digest: str, kept: bytes) -> bytes:
    """The inverse of :func:`_sealed`. Raises UsageError for anything else."""
    data = kept[_SEAL:]
    if _sealed(digest, data) != kept:
        raise UsageError("these bytes are not what was kept of this content")
    return data

"""Local features of a gallery's pictures, found once and kept: what spatial verification compares.

A folder of ``local/`` holds one file a picture, named by its content hash. It is derived and may be deleted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from retrieval.errors import ImageError, UsageError
from retrieval.files.digest import content_digest
from retrieval.files.whole import keep_derived
from retrieval.gallery.address import LOCAL_FOLDER
from retrieval.messages import say_nothing
from retrieval.pictures import imaging
from retrieval.pictures.content import read_content
from retrieval.ranking import geometry, method
from retrieval.ranking.geometry import LocalFeatures, Verification, local_features

POINTS, SIDE = 1000, 640
_SEAL = 16  # bytes


F = TypeVar("F")


class PointKind(Protocol[F]):
    """One kind of local features. ``name``: of the folder that they are kept in; ``find``: those of an RGB image, uint8
    (H, W, 3), a part of a picture whose longer side is ``whole`` pixels (None: the whole of one)."""

    name: str

    def find(self, image: npt.NDArray[np.uint8], whole: int | None = None) -> F: ...

    def pack(self, features: F) -> bytes: ...

    def unpack(self, data: bytes) -> F: ...

    def verify(self, query: F, candidates: Sequence[F]) -> list[Verification]: ...


class SiftPoints:
    """Root-SIFT, see :mod:`retrieval.ranking.geometry`."""

    name = f"points{POINTS}-{SIDE}"
    pack = staticmethod(geometry.pack)
    unpack = staticmethod(geometry.unpack)
    verify = staticmethod(geometry.verify)

    def find(self, image: npt.NDArray[np.uint8], whole: int | None = None) -> LocalFeatures:
        return local_features(image, POINTS, SIDE)


SIFT = SiftPoints()


def kind_named(name: str) -> PointKind[Any]:
    """The kind of local features that :mod:`retrieval.ranking.method` calls so."""
    if name == method.SIFT:
        return SIFT
    from retrieval.describe.learned_points import LearnedPoints

    return LearnedPoints()


class LocalMatcher(Generic[F]):
    """Compares queries with pictures of one gallery by their local features, those of ``kind``.

    ``picture(position)`` tells path and content hash of a picture, "" and None of one that is gone; positions are whatever the
    caller counts by.
    ``seconds`` adds up the time spent on finding points of pictures that were not kept yet.
    """

    def __init__(
        self,
        folder: Path,
        picture: Callable[[int], tuple[str, str | None]],
        *,
        kind: PointKind[F],
        exif: bool,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.kind = kind
        self.within = folder
        self.folder = folder / LOCAL_FOLDER / self.kind.name
        self.picture = picture
        self.exif = exif
        self.warn = warn or say_nothing
        self.seconds = 0.0
        self.changed: set[str] = set()  # contents whose file held another one when its points were found
        self._workers = min(4, os.cpu_count() or 1)

    def query(self, source: Any, bbox: Sequence[float] | None = None) -> F:
        """Points of a query picture, or of its box. Raises ImageError."""
        picture = imaging.picture_of(source, size=SIDE if bbox is None else None, exif=self.exif, bbox=bbox)
        return self.kind.find(picture.array, None if bbox is None else max(picture.width, picture.height))

    def inliers(self, query: F, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
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
        counts = iter(verification.inliers for verification in self.kind.verify(query, read))
        return np.array([0 if other is None else next(counts) for other in found], np.int64)

    def features(self, path: str, digest: str | None, *, keep: bool = True) -> F | None:
        """Points of a gallery picture: as kept under its content hash, or found now; None when it is gone or cannot be read.
        ``keep`` False: of a file that is in no gallery."""
        if not path:
            return None
        if digest is not None and keep:
            try:
                return self.kind.unpack(_opened(digest, self._file(digest).read_bytes()))
            except (OSError, UsageError):  # not there yet, or damaged: found anew
                pass
        try:
            data, now = read_content(path)
            picture = imaging.load_picture(data, size=SIDE, exif=self.exif)
        except ImageError as error:
            self.warn(f"{path} cannot be verified: {error}")
            return None
        features = self.kind.find(picture.array)
        if digest is not None and digest != now:  # no longer what the gallery describes
            self.changed.add(digest)
        elif digest is not None and keep:
            keep_derived(self._file(digest), _sealed(digest, self.kind.pack(features)), self.within)
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


class LocalMatchers:
    """Matchers of one gallery by the name of their kind, each made when it is asked for. Arguments: see :class:`LocalMatcher`."""

    def __init__(
        self,
        folder: Path,
        picture: Callable[[int], tuple[str, str | None]],
        *,
        exif: bool,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self._arguments = folder, picture, exif, warn
        self._made: dict[str, LocalMatcher[Any]] = {}

    @property
    def seconds(self) -> float:
        """Spent on finding points of the gallery's pictures."""
        return sum(matcher.seconds for matcher in self._made.values())

    def of(self, name: str) -> LocalMatcher[Any]:
        if name not in self._made:
            folder, picture, exif, warn = self._arguments
            self._made[name] = LocalMatcher(folder, picture, kind=kind_named(name), exif=exif, warn=warn)
        return self._made[name]

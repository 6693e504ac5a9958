"""Copies among the answers to a query: of the picture that asks, and of each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from retrieval.errors import GalleryDamaged, UsageError
from retrieval.files.digest import content_digest
from retrieval.gallery.adding import Picture
from retrieval.gallery.answers import Match
from retrieval.gallery.duplicates.items import item_of
from retrieval.gallery.duplicates.looks import Looks
from retrieval.gallery.duplicates.verification import SAME_DESCRIPTOR, Verifier
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import REPAIR
from retrieval.pictures.content import read_content

NEAR = 0.5  # cosine of two pictures below which they are not compared
_FURTHER = 3  # times as many answers are looked at, until there are enough


class Sifter:
    """Passes over what need not be answered. ``fold``: copies of an earlier answer, altered ones too, are named there alone.
    ``exclude_self``: the picture that asks, by ``source``, and its exact copies are left out. Raises UsageError, ImageError."""

    def __init__(self, gallery: OpenedGallery, source: Picture, fold: bool, exclude_self: bool) -> None:
        self.gallery, self.fold = gallery, fold
        self.own = _digest(source) if exclude_self else None
        self._content: dict[int, int] = {}  # of pictures by id: their numbers in what is compared
        self._vectors: list[npt.NDArray[np.float32]] = []
        self._looks = Looks.of_gallery(gallery, [])
        self._verifier = Verifier(self._looks, self._cosine, SAME_DESCRIPTOR)

    def first(self, k: int, find: Callable[[int], Sequence[Match]]) -> list[Match]:
        """The ``k`` best that are left, ranked anew; ``find`` gives the so many best of all."""
        if not self.fold and self.own is None:
            return list(find(k))
        count = k + _FURTHER
        while True:
            found = find(count)
            kept = self._sifted(found, k)
            if len(kept) >= k or len(found) < count:
                return [replace(match, rank=place) for place, match in enumerate(kept, 1)]
            count *= _FURTHER

    def _sifted(self, found: Sequence[Match], k: int) -> list[Match]:
        self._know([match.id for match in found])
        kept: list[Match] = []
        for match in found:
            if self.own is not None and self._digest(match) == self.own:
                continue
            original = (
                next((i for i, other in enumerate(kept) if self._copies(other, match)), None) if self.fold else None
            )
            if original is not None:
                kept[original] = replace(kept[original], copies=(*kept[original].copies, match.path))
            elif len(kept) < k:
                kept.append(match)
            else:
                break
        return kept

    def _know(self, ids: Sequence[int]) -> None:
        """Look these pictures up, once each."""
        new = sorted(set(ids) - self._content.keys())
        if not new:
            return
        with self.gallery.catalog.reading():
            records = self.gallery.catalog.by_ids(new)
            keys = {root.id for root in self.gallery.catalog.roots() if root.kind == "keys"}
            name = self.gallery.namer()
            for i, vector in zip(records, self.gallery.vectors_of(list(records.values())), strict=True):
                record = records[i]
                if record.hash is None:
                    raise GalleryDamaged(f"{self.gallery.catalog.path} is damaged: an answer has no content", REPAIR)
                self._content[i] = len(self._looks.contents)
                self._looks.contents.append([item_of(record, "gallery", name(record), record.root in keys)])
                self._vectors.append(vector / max(float(np.linalg.norm(vector)), 1e-12))

    def _digest(self, match: Match) -> str:
        return self._looks.contents[self._content[match.id]][0].digest

    def _cosine(self, a: int, b: int) -> float:
        return float(self._vectors[a] @ self._vectors[b])

    def _copies(self, a: Match, b: Match) -> bool:
        if self._digest(a) == self._digest(b):
            return True
        pair = self._content[a.id], self._content[b.id]
        return self._cosine(*pair) >= NEAR and self._verifier.judge([pair]) == ["copy"]


def _digest(source: Picture) -> str:
    """The content hash of the picture that asks."""
    if isinstance(source, bytes):
        digest = content_digest()
        digest.update(source)
        return digest.hexdigest()
    if isinstance(source, str | os.PathLike):
        return read_content(source)[1]
    raise UsageError("pixels have no file to be left out", "exclude_self goes with a path or the bytes of a file.")

"""Copies among the answers to a query: of the picture that asks, and of each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from retrieval.errors import GalleryDamaged, UsageError
from retrieval.gallery.adding import Picture
from retrieval.gallery.answers import Match
from retrieval.gallery.duplicates.items import item_of
from retrieval.gallery.duplicates.looks import Looks
from retrieval.gallery.duplicates.verification import SAME_DESCRIPTOR, Verifier
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import REPAIR
from retrieval.pictures.content import digest_of
from retrieval.system.calling_off import go_on

NEAR = 0.5  # cosine of two pictures below which they are not compared
_NEAREST = (
    4  # answers before it that a picture is compared with: of copies one alone is kept, so it is among the nearest
)
_FURTHER = 3  # times as many answers are looked at, until there are enough


class Sifter:
    """Passes over what need not be answered. ``fold``: copies of an earlier answer, altered ones too, are named there alone.
    ``exclude_self``: the picture that asks, by ``source``, and its exact copies are left out. Raises UsageError, ImageError."""

    def __init__(self, gallery: OpenedGallery, source: Picture, fold: bool, exclude_self: bool) -> None:
        self.gallery, self.fold = gallery, fold
        self.own = content_that_asks(source) if exclude_self else None
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
        found = [match for match in found if match.id in self._content]  # a writer has taken others out meanwhile
        kept: list[Match] = []
        vectors = np.zeros((len(found) if self.fold else 0, *self._vectors[0].shape) if found else 0, np.float32)
        for match in found:
            if self.own is not None and self._digest(match) == self.own:
                continue
            original = self._original(kept, vectors, match) if self.fold else None
            if original is not None:
                kept[original] = replace(kept[original], copies=(*kept[original].copies, match.path))
            elif len(kept) < k:
                if self.fold:
                    vectors[len(kept)] = self._vectors[self._content[match.id]]
                kept.append(match)
            else:
                break
        return kept

    def _original(self, kept: Sequence[Match], vectors: npt.NDArray[np.float32], match: Match) -> int | None:
        """Which of the answers so far (``vectors``: theirs in the first rows) this one is a copy of: the first of those with its
        content, or else of the nearest by descriptor."""
        digest = self._digest(match)
        same = next((i for i, other in enumerate(kept) if self._digest(other) == digest), None)
        if same is not None:
            return same
        own = self._content[match.id]
        cosines = vectors[: len(kept)] @ self._vectors[own]
        nearest = np.argsort(-cosines, kind="stable")[:_NEAREST]
        near = sorted(int(i) for i in nearest if cosines[i] >= NEAR)
        return next((i for i in near if self._copies(self._content[kept[i].id], own)), None)

    def _know(self, ids: Sequence[int]) -> None:
        """Look these pictures up, once each."""
        new = sorted(set(ids) - self._content.keys())
        if not new:
            return
        with self.gallery.catalog.reading():
            records = {i: r for i, r in self.gallery.catalog.by_ids(new).items() if r.row is not None}
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

    def _copies(self, a: int, b: int) -> bool:
        go_on()
        return self._verifier.judge([(a, b)]) == ["copy"]


def content_that_asks(source: Picture) -> str:
    """The content hash of the picture that asks. Raises ImageError, UsageError for pixels."""
    digest = digest_of(source)
    if digest is None:
        raise UsageError("pixels have no file to be left out", "exclude_self goes with a path or the bytes of a file.")
    return digest

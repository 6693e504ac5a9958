"""The ranking by fused evidence: candidates from descriptors and from local features, weighed together, the first verified."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

import numpy as np

from retrieval.errors import GalleryDamaged
from retrieval.gallery.local.search import LocalSearch, as_hashes
from retrieval.gallery.nearest import cosines
from retrieval.gallery.store.catalog import REPAIR, Catalog, Record
from retrieval.gallery.store.vectors import VectorStore
from retrieval.ranking import evidence
from retrieval.ranking.verdicts import SAME, verdict

CANDIDATES = 100  # from each list, or as many as are asked for
_SAMPLE = 512  # pictures whose scores are the background
RANKS = ("fused", "cosine", "local")


@dataclass(frozen=True)
class Weighed:
    """One answer: ``score`` the cosine, ``local`` the kernel's value (None: no codes), ``inliers`` (None: not looked at),
    ``fused`` the log-odds that it shows the same thing, ``probability`` and ``verdict`` what that means."""

    record: Record
    score: float
    local: float | None
    inliers: int | None
    fused: float
    probability: float
    verdict: str | None


@dataclass(frozen=True)
class Sample:
    """Pictures of a gallery whose scores are a query's background: content hashes, void28 (N,), and descriptors (N, D)."""

    digests: np.ndarray
    vectors: np.ndarray

    @classmethod
    def of(cls, catalog: Catalog, store: VectorStore) -> Sample:
        found = catalog.sample(_SAMPLE)
        return cls(
            as_hashes([digest for digest, _ in found]),
            store.take(np.array([row for _, row in found], np.int64), check=True),
        )


class Weigher:
    """Weighs the answers to one query: its descriptor (D,) and what its local codes share with the gallery."""

    def __init__(
        self,
        vector: np.ndarray,
        local: LocalSearch,
        catalog: Catalog,
        store: VectorStore,
        sample: Sample,
        content: str | None = None,
    ) -> None:
        """``content``: the hash of the whole file that asks; pictures of that content are the same thing for certain."""
        self._content = content
        self.vector, self.local, self.catalog, self.store = vector, local, catalog, store
        cosine = sample.vectors @ vector
        shared = local.similarities_of(local.numbers_of_hashes(sample.digests))
        # Where few pictures have codes yet, those that have none must not lose by it: geometry alone counts.
        self._comparable = 2 * np.isfinite(shared).sum() >= len(shared)
        self.cosine_background = evidence.background(cosine[np.isfinite(cosine)], evidence.PRIOR_COSINE)
        self.local_background = evidence.background(shared[np.isfinite(shared)], evidence.PRIOR_LOCAL)
        self._seen = int(np.isfinite(shared).sum())

    def ranked(
        self,
        k: int,
        ids: np.ndarray,
        among: np.ndarray | None = None,
        by: str = "fused",
        scores: np.ndarray | None = None,
        also: Set[int] = frozenset(),
    ) -> list[Weighed]:
        """The ``k`` best of the pictures ``ids`` (by cosine) and the best by local features, ``among`` these ids alone.
        ``by``: "fused", or "local" for the local similarity alone. Equal ones by cosine, then ascending id. ``scores``: the
        cosines of ``ids``, where they are known. ``also``: ids that are weighed too, and come after the ``k`` best where they are
        not among these."""
        found = {*map(int, ids), *also, *self._found_locally(max(k, CANDIDATES), among), *self._identical(k, among)}
        records = self.catalog.by_ids(sorted(found))
        if len(records) < len(ids):
            raise GalleryDamaged(f"{self.catalog.path} is damaged: it lacks pictures that its index knows", REPAIR)
        chosen = [record for record in records.values() if record.row is not None]
        chosen.sort(key=lambda record: record.id)
        cosine = self._cosines(chosen, {} if scores is None else dict(zip(ids.tolist(), scores.tolist(), strict=True)))
        numbers = self.local.numbers_of([record.hash for record in chosen])
        local = self.local.similarities_of(numbers)
        z_cosine = self.cosine_background.z(cosine)
        z_local = self.local_background.z(local) if self._comparable else np.full(len(local), np.nan)
        odds, inliers = evidence.weigh(z_cosine, z_local, self._geometry(numbers), self._seen)
        identical = np.array([self._content is not None and record.hash == self._content for record in chosen], bool)
        odds[identical] = evidence.CERTAIN
        chances = evidence.probability(odds)
        key = odds if by == "fused" else np.nan_to_num(local, nan=-1.0)
        return [
            Weighed(
                chosen[i],
                float(cosine[i]),
                None if np.isnan(local[i]) else float(local[i]),
                inliers[i],
                float(odds[i]),
                float(chances[i]),
                SAME if identical[i] else verdict(float(chances[i]), inliers[i]),
            )
            for place, i in enumerate(np.lexsort((-cosine, -key)).tolist())
            if place < k or chosen[i].id in also
        ]

    def _cosines(self, chosen: Sequence[Record], known: dict[int, float]) -> np.ndarray:
        """Of each picture, float64 (N,); computed where it is not known."""
        found = np.array([known.get(record.id, np.nan) for record in chosen], np.float64)
        new = np.flatnonzero(np.isnan(found))
        rows = np.array([row for i in new.tolist() if (row := chosen[i].row) is not None], np.int64)
        found[new] = cosines(self.vector, self.store, rows)
        return found

    def _geometry(self, numbers: np.ndarray) -> Callable[[int], evidence.Geometry | None]:
        """Tells by position how a picture's points agree; once for each content."""
        of = functools.cache(self.local.geometry)
        return lambda i: None if numbers[i] < 0 else of(int(numbers[i]))

    def _identical(self, count: int, among: np.ndarray | None) -> list[int]:
        """Ids of so many pictures of the very content that asks."""
        ids = [] if self._content is None else self.catalog.ids_of_hashes([self._content])
        allowed = None if among is None else set(among.tolist())
        return [i for i in sorted(ids) if allowed is None or i in allowed][:count]

    def _found_locally(self, count: int, among: np.ndarray | None) -> set[int]:
        """Ids of pictures of the best contents, at least so many where there are; contents that no picture has any more are
        passed over."""
        found: set[int] = set()
        allowed = None if among is None else set(among.tolist())
        first, step = 0, count
        while len(found) < count and (digests := self.local.best(first, step)):
            ids = self.catalog.ids_of_hashes(digests)
            found.update(i for i in ids if allowed is None or i in allowed)
            first, step = first + step, 4 * step
        return found

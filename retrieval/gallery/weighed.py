"""A gallery whose answers are weighed: a descriptor and local codes in, matches with probabilities out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.errors import UsageError
from retrieval.files.paths import show_path
from retrieval.gallery.answers import Match
from retrieval.gallery.fusing import CANDIDATES, RANKS, Weigher
from retrieval.gallery.local.search import LocalSearch
from retrieval.gallery.nearest import nearest, nearest_rows
from retrieval.gallery.searched import SearchedGallery, metadata_of
from retrieval.system.products import products_on_one_core

if TYPE_CHECKING:
    from retrieval.gallery.fusing import Weighed
    from retrieval.ranking.asmk import LocalCodes


class WeighedGallery(SearchedGallery):
    """What of :class:`retrieval.Gallery` gives verdicts, where it has a local index."""

    def rank_by(self, rank: str | None, reranked: bool = False, judged: bool = False) -> str:
        """What the order of answers follows: as asked, else "fused" where the gallery has a local index. ``judged``: whether
        probabilities are asked for. Raises UsageError for what cannot be had."""
        if rank is not None and rank not in RANKS:
            raise UsageError(f"unknown ranking {rank!r}", f"There are: {', '.join(RANKS)}.")
        if reranked and rank not in (None, "cosine"):
            raise UsageError("a re-ranker starts from the cosine", "Leave out the other ranking.")
        if judged and rank == "cosine":
            raise UsageError("the cosine alone gives no probability", "Leave out --rank cosine or the probability.")
        has = self.judges(rank)
        if not has and (rank in ("fused", "local") or judged):
            raise UsageError(
                f"the gallery {self.folder} has no local index",
                "Make it with: retrieve index --local (opens each picture).",
            )
        return rank or "fused" if has and not reranked else "cosine"

    def judges(self, rank: str | None) -> bool:
        """Whether answers come with probabilities: where there is a local index, unless the cosine alone is asked for."""
        return rank != "cosine" and len(self.local_blocks()) > 0

    def _weighed(
        self,
        vector: np.ndarray,
        codes: LocalCodes,
        content: str | None,
        k: int,
        under: str | os.PathLike[str] | None,
        by: str,
    ) -> list[Match]:
        """The ``k`` best for a descriptor (D,) and the local codes of the same picture; ``content``: the hash of its file."""
        blocks = self.local_blocks()  # before the catalog's state is held, see there
        with self.catalog.reading():
            if not self.catalog.any_searchable():
                return []
            weigher, candidates = self._weigher(vector, LocalSearch(blocks, codes), content, max(k, CANDIDATES), under)
            with products_on_one_core():
                found = weigher.ranked(k, by=by, **candidates)
            name = self.namer()
        return [
            Match(place, w.score, w.record.id, show_path(name(w.record)), metadata_of(w.record), **_told(w))
            for place, w in enumerate(found, 1)
        ]

    def _judged(
        self,
        vector: np.ndarray,
        codes: LocalCodes | None,
        content: str | None,
        matches: Sequence[Match],
        under: str | os.PathLike[str] | None,
    ) -> list[Match]:
        """Matches of another ranking, each with what its own evidence says, by the same background and among the same candidates
        as in :meth:`_weighed`; as they are where the query has no codes."""
        if codes is None or not matches:
            return list(matches)
        blocks = self.local_blocks()
        with self.catalog.reading():
            known = self.catalog.by_ids([match.id for match in matches])  # a writer may have taken some out meanwhile
            wanted = {i for i, record in known.items() if record.row is not None}
            if not wanted:
                return list(matches)
            weigher, candidates = self._weigher(vector, LocalSearch(blocks, codes), content, CANDIDATES, under)
            with products_on_one_core():
                found = {w.record.id: w for w in weigher.ranked(CANDIDATES, also=wanted, **candidates)}
        return [replace(m, **_told(found[m.id])) if m.id in wanted else m for m in matches]

    def _weigher(
        self,
        vector: np.ndarray,
        local: LocalSearch,
        content: str | None,
        most: int,
        under: str | os.PathLike[str] | None,
    ) -> tuple[Weigher, dict[str, Any]]:
        """What weighs, and the ``most`` nearest pictures by cosine for it: "ids", "scores", and "among" which they are."""
        count, store = self._sound_store()
        among = None
        if under is None:
            ids, scores = nearest(vector, most, self._candidates(count, store), store)
        else:
            among = self._ids_below(under)
            ids, scores = nearest_rows(vector, most, among, self.catalog.rows_of(among), store)
        background = self._background(count, store)
        with products_on_one_core():
            weigher = Weigher(vector, local, self.catalog, store, background, content)
        return weigher, {"ids": ids, "scores": scores, "among": among}


def _told(weighed: Weighed) -> dict[str, Any]:
    """What a match tells of its evidence."""
    return {name: getattr(weighed, name) for name in ("local", "fused", "inliers", "probability", "verdict")}

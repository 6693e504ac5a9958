"""Re-ranked search in a gallery, one query at a time: its stored vectors, and for verification its pictures."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from retrieval.errors import UsageError, whole_number
from retrieval.files.paths import show_path
from retrieval.gallery.answers import Match
from retrieval.gallery.local_features import LocalMatchers
from retrieval.gallery.opened import OpenedGallery, searchable_view
from retrieval.gallery.selection import ids_below
from retrieval.gallery.store.view import DerivedArrays, VectorView
from retrieval.ranking.method import Context, Moved
from retrieval.ranking.neighbours import exact_similarities, top_k
from retrieval.ranking.rerank import Reranker


@dataclass(frozen=True)
class RerankedMatch(Match):
    """``score`` is the query's own cosine similarity as ever; ``rerank_score`` is what decided the rank (greater is better),
    None for a picture beyond those that were looked at again."""

    rerank_score: float | None = None


class RerankedSearch:
    """A gallery with a re-ranker. ``prepare_seconds``: time for what needs the gallery alone; ``query_seconds`` and
    ``queries``: time and number of the searches so far."""

    def __init__(self, gallery: OpenedGallery, reranker: Reranker, under: str | os.PathLike[str] | None = None) -> None:
        """``under``: only pictures below this folder."""
        self.gallery = gallery
        self.name = reranker.name
        self.ids, self.view = searchable_view(gallery)
        if under is not None:
            inside = np.isin(self.ids, ids_below(gallery, under))
            self.ids, self.view = self.ids[inside], VectorView(self.view.store, self.view.rows[inside])
        self.matchers = LocalMatchers(gallery.folder, self._picture, exif=gallery.spec.image.exif, warn=gallery.warn)
        self._name = gallery.namer()
        self._source: tuple[Any, Sequence[float] | None] = (None, None)
        self._local: Any = None
        self.query_seconds = 0.0
        self.queries = 0
        started = time.monotonic()
        context = Context(DerivedArrays(gallery.folder, self.view), self._matches)
        self._online = reranker.prepare(self.view, context) if len(self.ids) else None  # type: ignore[arg-type]
        if self._online is not None and (caution := reranker.caution(self.view)):  # type: ignore[arg-type]
            gallery.warn(caution)
        self.prepare_seconds = time.monotonic() - started

    def search(
        self, vector: np.ndarray, k: int, source: Any = None, bbox: Sequence[float] | None = None
    ) -> list[RerankedMatch]:
        """The ``k`` best pictures for a descriptor (D,). ``source`` and ``bbox``: the query's picture, for verification."""
        started, described = time.monotonic(), self.matchers.seconds
        query = np.asarray(vector, np.float32)[None]
        if query.shape[1:] != self.view.shape[1:] or not np.isfinite(query).all():
            raise UsageError(f"a finite descriptor of shape ({self.view.shape[1]},) is needed, not {vector.shape}")
        if self._online is None:
            return []
        k = whole_number("k", k)
        self._source = (source, bbox)
        self._local = None
        view: Any = self.view
        outcome = self._online(query)
        k = min(k, len(view))
        if isinstance(outcome, Moved):
            found, similarities = top_k(outcome.queries, outcome.gallery, k)
            positions, scores = found[0], similarities[0].tolist()
        else:
            positions, scores = outcome.ids[0][:k], outcome.scores[0][:k].tolist()
            if k > len(positions):  # the others follow as they were
                rest = top_k(query, view, k)[0][0][len(positions) :]
                positions = np.concatenate([positions, rest])
        matches = self._ranked(query[0], positions, scores)
        self.query_seconds += time.monotonic() - started - (self.matchers.seconds - described)
        self.queries += 1
        return matches

    def _ranked(self, query: np.ndarray, positions: np.ndarray, scores: Sequence[float | None]) -> list[RerankedMatch]:
        vectors = np.asarray(self.view[positions], np.float32)
        lengths = np.maximum(np.linalg.norm(vectors.astype(np.float64), axis=1), 1e-12)
        length = float(np.linalg.norm(query.astype(np.float64))) or 1.0
        cosines = np.clip(exact_similarities(query, vectors, np.arange(len(vectors))) / (lengths * length), -1, 1)
        matches: list[RerankedMatch] = []
        for p, cosine, score in zip_longest(positions, cosines, scores):
            if path := self._picture(int(p))[0]:
                shown = show_path(path)
                matches.append(
                    RerankedMatch(len(matches) + 1, float(cosine), int(self.ids[p]), shown, rerank_score=score)
                )
        return matches

    def _picture(self, position: int) -> tuple[str, str | None]:
        """Path and content hash; "" and None of a picture that a writer has taken out since."""
        i = int(self.ids[position])
        record = self.gallery.catalog.by_ids([i]).get(i)
        return ("", None) if record is None else (self._name(record), record.hash)

    def _matches(self, kind: str, query: int, positions: np.ndarray) -> np.ndarray:
        matcher = self.matchers.of(kind)
        if self._local is None:
            self._local = matcher.query(*self._source)
        return matcher.inliers(self._local, positions)

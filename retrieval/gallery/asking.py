"""A gallery that is asked: pictures and descriptors in, ranked matches out."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from retrieval.describe.extraction import describe_all
from retrieval.errors import GalleryDamaged, ImageError, UsageError, whole_number
from retrieval.files.paths import show_path
from retrieval.gallery.adding import Picture
from retrieval.gallery.answers import Match, QueryResult, rank, rank_rows
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.search import candidates
from retrieval.gallery.search.index import open_source
from retrieval.gallery.second_look import RerankedSearch
from retrieval.gallery.selection import ids_below
from retrieval.gallery.store.catalog import REPAIR, Record
from retrieval.gallery.store.vectors import VectorStore
from retrieval.ranking.rerank import parse_reranker

P = TypeVar("P", bound=Picture)


class AskedGallery(OpenedGallery):
    """The half of :class:`retrieval.Gallery` that answers. Several threads may ask one gallery at the same time: describing
    runs in all of them, the search in one after the other."""

    # Candidates and the state of the catalog that they belong to, kept between queries.
    _source: tuple[Any, candidates.Source] | None = None

    @overload
    def query(
        self,
        image: Picture,
        k: int = ...,
        bbox: Sequence[float] | None = ...,
        *,
        rerank: str | RerankedSearch | None = ...,
        under: str | None = ...,
        min_score: float | None = ...,
    ) -> QueryResult: ...

    @overload
    def query(
        self,
        image: list[P],
        k: int = ...,
        bbox: None = ...,
        *,
        rerank: str | RerankedSearch | None = ...,
        under: str | None = ...,
        min_score: float | None = ...,
    ) -> list[QueryResult]: ...

    def query(
        self,
        image: Picture | list[P],
        k: int = 10,
        bbox: Sequence[float] | None = None,
        *,
        rerank: str | RerankedSearch | None = None,
        under: str | None = None,
        min_score: float | None = None,
    ) -> QueryResult | list[QueryResult]:
        """The ``k`` most similar pictures to ``image`` (path, bytes, array or PIL image), or to its ``bbox`` (x1, y1, x2, y2
        in pixels of the whole picture). A list of pictures gives a list of results.

        ``rerank``: look twice, by name such as "alpha-qe" or "verify"; ``under``: only pictures in this folder;
        ``min_score``: only matches of this cosine similarity or more. Raises ImageError, UsageError, GalleryDamaged.
        """
        several = isinstance(image, list)
        pictures: Sequence[Picture] = image if isinstance(image, list) else [image]
        results = list(self.answers(pictures, k, bbox, rerank=rerank, under=under, min_score=min_score))
        for result in results:
            if result.error is not None:
                if several and result.query:
                    raise ImageError(f"{result.query}: {result.error}") from result.error
                raise result.error
        return results if several else results[0]

    def answers(
        self,
        images: Sequence[Picture],
        k: int = 10,
        bbox: Sequence[float] | None = None,
        *,
        rerank: str | RerankedSearch | None = None,
        under: str | None = None,
        min_score: float | None = None,
    ) -> Iterator[QueryResult]:
        """What :meth:`query` gives, for one picture after the other, in order, each as soon as it is there. A picture that
        cannot be read gives a result with an ``error``, and the others go on."""
        if bbox is not None and len(images) != 1:
            raise UsageError("a box goes with one picture, not with a list")
        box = None if bbox is None else (float(bbox[0]), float(bbox[1]), float(bbox[2]), float(bbox[3]))
        k = whole_number("k", k)
        second = RerankedSearch(self, parse_reranker(rerank), under) if isinstance(rerank, str) else rerank
        done: dict[int, QueryResult] = {}
        position = 0
        for described in describe_all(
            range(len(images)), lambda i: self.model.load(images[i], bbox), self.model.engine
        ):
            source = images[described.item]
            name = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
            matches: list[Match] = []
            if described.descriptor is not None:
                if second is None:
                    matches = self.search(described.descriptor[None], k, under=under, min_score=min_score)[0]
                else:
                    matches = [*second.search(described.descriptor, k, source, box)]
                    matches = [m for m in matches if min_score is None or m.score >= min_score]
            done[described.item] = QueryResult(name, box, matches, described.error)
            while position in done:
                yield done.pop(position)
                position += 1

    def search(
        self, vectors: npt.ArrayLike, k: int = 10, *, under: str | None = None, min_score: float | None = None
    ) -> list[list[Match]]:
        """The ``k`` best pictures for each descriptor (Q, D): cosine similarity, equal scores by ascending id.

        Scores are computed in float64 from the stored vectors, so that copies tie exactly wherever they lie. With an
        approximate search index a picture may be missed (:meth:`info` tells how many), never wrongly scored. ``under`` looks
        at every picture in a folder (or at the picture of that name), so it misses none. ``min_score``: see :meth:`query`.
        """
        queries = np.asarray(vectors, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.spec.dim:
            raise UsageError(f"descriptors of shape (Q, {self.spec.dim}) are needed, not {queries.shape}")
        if not np.isfinite(queries).all():
            raise UsageError("the query's descriptor is not finite")
        k = whole_number("k", k)
        catalog = self.catalog
        with catalog.reading():
            if not catalog.any_searchable():
                return [[] for _ in queries]
            count, store = catalog.number("vector_count"), self.store()
            store.check_sizes(count)
            catalog.check_rows(count)
            if under is None:
                source = self._candidates(count, store)
                ranked = [rank(vector, k, source, store) for vector in queries]
            else:
                ids = np.array(ids_below(self, under), np.int64)
                rows = catalog.rows_of(ids)
                ranked = [rank_rows(vector, k, ids, rows, store) for vector in queries]
            wanted = sorted({int(i) for found, _ in ranked for i in found})
            records = catalog.by_ids(wanted)
            if len(records) < len(wanted):
                raise GalleryDamaged(f"{catalog.path} is damaged: it lacks pictures that its index knows", REPAIR)
            name = self.namer()
        least = -np.inf if min_score is None else min_score
        return [
            [
                Match(place, float(score), int(i), show_path(name(records[int(i)])), _metadata(records[int(i)]))
                for place, (i, score) in enumerate(zip(found, scores, strict=True), 1)
                if score >= least
            ]
            for found, scores in ranked
        ]

    def _candidates(self, count: int, store: VectorStore) -> candidates.Source:
        """Where candidates come from in the catalog's present state."""
        state = (self.catalog.number("version"), self.catalog.log_state(), count, store.generation)
        if self._source is None or self._source[0] != state:
            source = open_source(self.folder / "ann", self.catalog, store, count, self.warn)
            if source is None:  # not written yet: looked for again at the next query
                return candidates.Everything(store, count, self.catalog)
            self._source = (state, source)
        return self._source[1]


def _metadata(record: Record) -> dict[str, Any] | None:
    if record.metadata is None:
        return None
    try:
        found = json.loads(record.metadata)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise GalleryDamaged(f"the metadata of {record.path!r} are damaged", "Add the picture again.")
    return found

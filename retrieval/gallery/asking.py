"""A gallery that is asked: pictures and descriptors in, ranked matches out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, overload

import numpy as np
import numpy.typing as npt

from retrieval.describe.extraction import describe_all
from retrieval.errors import GalleryDamaged, ImageError, UsageError, number_between, whole_number
from retrieval.files.paths import show_path
from retrieval.gallery.adding import Picture
from retrieval.gallery.answers import Match, QueryResult, one_box
from retrieval.gallery.folding import Sifter
from retrieval.gallery.fusing import CANDIDATES, RANKS, Sample, Weigher
from retrieval.gallery.local.querying import QueryCodes
from retrieval.gallery.local.search import LocalSearch
from retrieval.gallery.nearest import nearest, nearest_rows
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.search import candidates
from retrieval.gallery.search.index import open_source
from retrieval.gallery.second_look import RerankedSearch
from retrieval.gallery.selection import ids_below
from retrieval.gallery.store.catalog import REPAIR, Record
from retrieval.gallery.store.vectors import VectorStore
from retrieval.ranking.asmk import LocalCodes
from retrieval.ranking.rerank import parse_reranker

if TYPE_CHECKING:
    from typing_extensions import Unpack

P = TypeVar("P", bound=Picture)


class QueryOptions(TypedDict, total=False):
    """What :meth:`AskedGallery.query` can be told by name."""

    rerank: str | RerankedSearch | None
    under: str | None
    min_score: float | None
    rank: str | None
    min_probability: float | None
    fold: bool
    exclude_self: bool


class AskedGallery(OpenedGallery):
    """The half of :class:`retrieval.Gallery` that answers. Several threads may ask one gallery at the same time: describing
    runs in all of them, the search in one after the other."""

    # Candidates, and pictures of the background, with the state of the catalog that they belong to; kept between queries.
    _source: tuple[Any, candidates.Source] | None = None
    _sample: tuple[Any, Sample] | None = None

    @overload
    def query(
        self,
        image: Picture,
        k: int = ...,
        bbox: Sequence[float] | None = ...,
        **options: Unpack[QueryOptions],
    ) -> QueryResult: ...

    @overload
    def query(
        self,
        image: list[P],
        k: int = ...,
        bbox: None = ...,
        **options: Unpack[QueryOptions],
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
        rank: str | None = None,
        min_probability: float | None = None,
        fold: bool = False,
        exclude_self: bool = False,
    ) -> QueryResult | list[QueryResult]:
        """The ``k`` most similar pictures to ``image`` (path, bytes, array or PIL image), or to its ``bbox`` (x1, y1, x2, y2
        in pixels of the whole picture). A list of pictures gives a list of results.

        ``rerank``: look twice, by name such as "alpha-qe" or "verify"; ``under``: only pictures in this folder;
        ``min_score``: only matches of this cosine similarity or more; ``min_probability``: only such as show the same thing
        with this probability or more. ``rank``: what the order follows, "fused" (the default where there is a local index),
        "cosine" or "local"; with ``rerank`` it is the re-ranker. ``fold``: copies of an answer, altered ones too, do not follow
        it but are named in its ``copies``; ``exclude_self``: neither the file that asks nor its exact copies are answers.
        Raises ImageError, UsageError, GalleryDamaged.
        """
        several = isinstance(image, list)
        pictures: Sequence[Picture] = image if isinstance(image, list) else [image]
        results = list(
            self.answers(
                pictures,
                k,
                bbox,
                rerank=rerank,
                under=under,
                min_score=min_score,
                rank=rank,
                min_probability=min_probability,
                fold=fold,
                exclude_self=exclude_self,
            )
        )
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
        rank: str | None = None,
        min_probability: float | None = None,
        fold: bool = False,
        exclude_self: bool = False,
    ) -> Iterator[QueryResult]:
        """What :meth:`query` gives, for one picture after the other, in order, each as soon as it is there. A picture that
        cannot be read gives a result with an ``error``, and the others go on."""
        box = one_box(bbox, len(images))
        k = whole_number("k", k)
        if min_score is not None:
            min_score = number_between("min_score", min_score, -1, 1)
        if min_probability is not None:
            min_probability = number_between("min_probability", min_probability, 0, 1)
        by = self.rank_by(rank, rerank is not None, min_probability is not None)
        second = RerankedSearch(self, parse_reranker(rerank), under) if isinstance(rerank, str) else rerank
        done: dict[int, QueryResult] = {}
        position = 0
        index = None if by == "cosine" else self.local
        with nullcontext() if index is None else QueryCodes(index, self.spec) as codes:

            def load(i: int) -> np.ndarray:
                array = self.model.load(images[i], bbox)
                if codes is not None:
                    codes.keep(i, array, images[i], bbox)
                return array

            for described in describe_all(range(len(images)), load, self.model.engine):
                source = images[described.item]
                name = os.fspath(source) if isinstance(source, str | os.PathLike) else ""
                matches: list[Match] = []
                error = described.error
                if described.descriptor is not None:
                    try:
                        local = None if codes is None else codes.of(described.item)
                        find = self._finder(described.descriptor, local, source, box, second, under, by)
                        matches = Sifter(self, source, fold, exclude_self).first(k, find)
                    except ImageError as trouble:  # gone since the network got it
                        error = trouble
                kept = [m for m in matches if min_score is None or m.score >= min_score]
                kept = [m for m in kept if min_probability is None or (m.probability or 0) >= min_probability]
                done[described.item] = QueryResult(name, box, kept, error, len(matches) - len(kept))
                while position in done:
                    yield done.pop(position)
                    position += 1

    def _finder(
        self,
        vector: np.ndarray,
        codes: LocalCodes | None,
        source: Picture,
        box: tuple[float, float, float, float] | None,
        second: RerankedSearch | None,
        under: str | None,
        by: str,
    ) -> Callable[[int], Sequence[Match]]:
        """What gives the so many best for a query described by ``vector`` (D,) and ``codes``."""
        if second is not None:
            return lambda k: second.search(vector, k, source, box)
        if codes is not None:
            return lambda k: self._weighed(vector, codes, k, under, by)
        return lambda k: self.search(vector[None], k, under=under)[0]

    def rank_by(self, rank: str | None, reranked: bool = False, judged: bool = False) -> str:
        """What the order of answers follows: as asked, else "fused" where the gallery has a local index. ``judged``: whether
        probabilities are asked for. Raises UsageError for what cannot be had."""
        if rank is not None and rank not in RANKS:
            raise UsageError(f"unknown ranking {rank!r}", f"There are: {', '.join(RANKS)}.")
        if reranked and (rank not in (None, "cosine") or judged):
            raise UsageError("a re-ranker starts from the cosine", "Leave out the other ranking and probabilities.")
        if judged and rank == "cosine":
            raise UsageError("the cosine alone gives no probability", "Leave out --rank cosine or the probability.")
        if reranked or rank == "cosine":
            return "cosine"
        has = len(self.local_blocks()) > 0
        if not has and (rank in ("fused", "local") or judged):
            raise UsageError(
                f"the gallery {self.folder} has no local index",
                "Make it with: retrieve index --local (opens each picture).",
            )
        return rank or "fused" if has else "cosine"

    def _weighed(self, vector: np.ndarray, codes: LocalCodes, k: int, under: str | None, by: str) -> list[Match]:
        """The ``k`` best for a descriptor (D,) and the local codes of the same picture."""
        catalog = self.catalog
        blocks = self.local_blocks()  # before the catalog's state is held, see there
        with catalog.reading():
            if not catalog.any_searchable():
                return []
            count, store = self._sound_store()
            among = None
            most = max(k, CANDIDATES)
            if under is None:
                ids, _ = nearest(vector, most, self._candidates(count, store), store)
            else:
                among = np.array(ids_below(self, under), np.int64)
                ids, _ = nearest_rows(vector, most, among, catalog.rows_of(among), store)
            weigher = Weigher(vector, LocalSearch(blocks, codes), catalog, store, self._background(count, store))
            found = weigher.ranked(k, ids, among, by)
            name = self.namer()
        return [
            Match(
                place,
                w.score,
                w.record.id,
                show_path(name(w.record)),
                _metadata(w.record),
                w.local,
                w.fused,
                w.inliers,
                w.probability,
                w.verdict,
            )
            for place, w in enumerate(found, 1)
        ]

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
            count, store = self._sound_store()
            if under is None:
                source = self._candidates(count, store)
                ranked = [nearest(vector, k, source, store) for vector in queries]
            else:
                ids = np.array(ids_below(self, under), np.int64)
                rows = catalog.rows_of(ids)
                ranked = [nearest_rows(vector, k, ids, rows, store) for vector in queries]
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

    def _sound_store(self) -> tuple[int, VectorStore]:
        """How many rows of vectors count, and where they are. Raises GalleryDamaged."""
        count, store = self.catalog.number("vector_count"), self.store()
        store.check_sizes(count)
        self.catalog.check_rows(count)
        return count, store

    def _candidates(self, count: int, store: VectorStore) -> candidates.Source:
        """Where candidates come from in the catalog's present state."""
        state = self._state(count, store)
        if self._source is None or self._source[0] != state:
            source = open_source(self.folder / "ann", self.catalog, store, count, self.warn)
            if source is None:  # not written yet: looked for again at the next query
                return candidates.Everything(store, count, self.catalog)
            self._source = (state, source)
        return self._source[1]

    def _background(self, count: int, store: VectorStore) -> Sample:
        """What scores of pictures that do not belong to a query are taken from."""
        state = self._state(count, store)
        if self._sample is None or self._sample[0] != state:
            self._sample = (state, Sample.of(self.catalog, store))
        return self._sample[1]

    def _state(self, count: int, store: VectorStore) -> Any:
        return (self.catalog.number("version"), self.catalog.log_state(), count, store.generation)


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

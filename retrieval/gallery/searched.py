"""A gallery that is searched: descriptors in, ranked matches out."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from retrieval.errors import GalleryDamaged, number_between, whole_number
from retrieval.files.paths import show_path
from retrieval.gallery.address import ANN_FOLDER
from retrieval.gallery.answers import Match
from retrieval.gallery.fusing import Sample
from retrieval.gallery.nearest import checked_queries, nearest, nearest_rows
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.search import candidates
from retrieval.gallery.search.source import open_source
from retrieval.gallery.store.catalog import REPAIR, Record
from retrieval.gallery.store.vectors import VectorStore
from retrieval.system.products import products_on_one_core

if TYPE_CHECKING:
    import numpy.typing as npt


class SearchedGallery(OpenedGallery):
    """What of :class:`retrieval.Gallery` finds pictures by descriptors. Candidates, and pictures of the background, are kept
    between queries with the state of the catalog that they belong to."""

    _source: tuple[Any, candidates.Source] | None = None
    _sample: tuple[Any, Sample] | None = None

    def search(
        self,
        vectors: npt.ArrayLike,
        k: int = 10,
        *,
        under: str | os.PathLike[str] | None = None,
        min_score: float | None = None,
    ) -> list[list[Match]]:
        """The ``k`` best pictures for each descriptor (Q, D): cosine similarity, equal scores by ascending id.

        Scores are computed in float64 from the stored vectors, so that copies tie exactly wherever they lie. With an
        approximate search index a picture may be missed (:meth:`info` tells how many), never wrongly scored. ``under`` looks
        at every picture in a folder (or at the picture of that name), so it misses none. ``min_score``: see :meth:`query`.
        Raises UsageError, GalleryDamaged.
        """
        queries = checked_queries(vectors, self.spec.dim)
        k = whole_number("k", k)
        least = -np.inf if min_score is None else number_between("min_score", min_score, -1, 1)
        catalog = self.catalog
        with catalog.reading():
            if not catalog.any_searchable():
                return [[] for _ in queries]
            count, store = self._sound_store()
            if under is None:
                source = self._candidates(count, store)
                ranked = [nearest(vector, k, source, store) for vector in queries]
            else:
                ids = self._ids_below(under)
                rows = catalog.rows_of(ids)
                ranked = [nearest_rows(vector, k, ids, rows, store) for vector in queries]
            wanted = sorted({int(i) for found, _ in ranked for i in found})
            records = catalog.by_ids(wanted)
            if len(records) < len(wanted):
                raise GalleryDamaged(f"{catalog.path} is damaged: it lacks pictures that its index knows", REPAIR)
            name = self.namer()
        return [
            [
                Match(place, float(score), int(i), show_path(name(records[int(i)])), metadata_of(records[int(i)]))
                for place, (i, score) in enumerate(zip(found, scores, strict=True), 1)
                if score >= least
            ]
            for found, scores in ranked
        ]

    def read_ahead(self, *, weighed: bool) -> None:
        """Read what the first search needs, while its descriptor is waited for; ``weighed``: one whose answers get a probability.
        Raises GalleryDamaged."""
        with self.catalog.reading(), products_on_one_core():
            if self.catalog.any_searchable():
                count, store = self._sound_store()
                self._candidates(count, store)
                if weighed:
                    self._background(count, store)

    def _ids_below(self, under: str | os.PathLike[str]) -> np.ndarray:
        """Ids of the pictures in a folder of the gallery, or of that name, int64."""
        from retrieval.gallery.selection import ids_below  # only here: it knows how files are found

        return np.array(ids_below(self, under), np.int64)

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
            source = open_source(self.folder / ANN_FOLDER, self.catalog, store, count, self.warn)
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
        catalog = self.catalog  # itself too: a gallery that was closed, or came along by a fork, has another one
        return (catalog, catalog.number("version"), catalog.log_state(), count, store.generation, catalog.replaced)


def metadata_of(record: Record) -> dict[str, Any] | None:
    """What a program added with a picture. Raises GalleryDamaged."""
    if record.metadata is None:
        return None
    try:
        found = json.loads(record.metadata)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise GalleryDamaged(f"the metadata of {record.path!r} are damaged", "Add the picture again.")
    return found

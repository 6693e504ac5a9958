"""Rankings of a set by local features or by fused evidence, as ``retrieve query`` ranks them, over the whole gallery."""

from __future__ import annotations

import os
import time

import numpy as np

from retrieval.evaluation.described_set import DescribedSet
from retrieval.evaluation.evaluator import KS, Measured, labels_of, protocols_of
from retrieval.evaluation.protocol import evaluate_rankings
from retrieval.gallery.fusing import Sample, Weigher
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.local.index import LocalIndex
from retrieval.gallery.local.querying import QueryCodes
from retrieval.gallery.local.search import LocalSearch
from retrieval.messages import Bars
from retrieval.ranking.asmk import LocalCodes

_FIRST = 10


def local_index_for(gallery: Gallery, described: DescribedSet, bars: Bars) -> None:
    """See that the gallery's local index holds all pictures of the set."""
    gallery.configure_local(True)
    index = gallery.local
    assert index is not None
    coded = index.contents()
    lacking = [path for path, digest in described.pictures if digest not in coded]
    if lacking:
        with bars("local features") as update:
            gallery.index(lacking, progress=update)


class WeighedRankings:
    """A described set, its gallery with a local index, and its queries' local codes, which are made once."""

    def __init__(self, described: DescribedSet, gallery: Gallery) -> None:
        self.described, self.gallery = described, gallery
        by_path = {path: record.id for path, record in gallery.records()}
        self.ids = np.array([by_path[path] for path, _ in described.pictures], np.int64)
        self._codes: list[LocalCodes] = []
        self._making_seconds = 0.0

    def measure(self, by: str) -> Measured:
        """``by``: "fused" or "local"."""
        truth, gallery = self.described.truth, self.gallery
        index = gallery.local
        assert index is not None
        if not self._codes:
            started = time.monotonic()
            self._codes = self._query_codes(index)
            self._making_seconds = time.monotonic() - started
        order = np.argsort(self.ids, kind="stable")
        allowed = self.ids[order]
        started = time.monotonic()
        rankings = []
        with gallery.catalog.reading():
            store = gallery.store()
            blocks, sample = index.blocks(), Sample.of(gallery.catalog, store)
            for vector, codes in zip(self.described.queries, self._codes, strict=True):
                weigher = Weigher(vector, LocalSearch(blocks, codes), gallery.catalog, store, sample)
                found = weigher.ranked(len(allowed), allowed, allowed, by)
                places = np.searchsorted(allowed, [w.record.id for w in found])
                rankings.append(order[places])
        spent = time.monotonic() - started + self._making_seconds
        results = evaluate_rankings(
            rankings, labels_of(truth), len(self.ids), protocols=protocols_of(truth), ks=KS, truncated=False
        )
        return Measured(by, results, [r[:_FIRST] for r in rankings], query_seconds=spent / len(rankings))

    def _query_codes(self, index: LocalIndex) -> list[LocalCodes]:
        truth, model = self.described.truth, self.gallery.model
        made = []
        with QueryCodes(index, model.spec) as codes:
            for i, query in enumerate(truth.queries):
                path = os.path.join(truth.root, query.image)
                codes.keep(i, model.load(path, query.bbox), path, query.bbox)
                made.append(codes.of(i))
        return made

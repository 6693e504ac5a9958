"""One shard of a search index: built from its vectors, or the file there is taken further; and how it is best searched."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import GalleryDamaged, UsageError
from retrieval.gallery.search import candidates as ann_search
from retrieval.gallery.search import file as ann_file
from retrieval.gallery.search import kind as ann_kind
from retrieval.gallery.search import operating
from retrieval.gallery.search import recall as ann_recall
from retrieval.gallery.search.looking import K
from retrieval.gallery.search.note import ShardNote
from retrieval.gallery.store.catalog import Catalog, LogState
from retrieval.gallery.store.vectors import VectorStore

_REBUILD_SHARE = 20  # changes that a graph cannot take in: a twentieth of it, then it is made afresh
_BLOCK = 16_384
LONG = 16_384  # from so many pictures on, training is announced


class Maker:
    """Makes shards of ``kind`` for the recall ``target`` and writes each; one is in memory at a time."""

    def __init__(
        self,
        folder: Path,
        catalog: Catalog,
        store: VectorStore,
        kind: str,
        target: float,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.catalog, self.store = folder, catalog, store
        self.kind, self.target, self.say = kind, target, say

    def built(
        self,
        log: LogState,
        ids: np.ndarray,
        rows: np.ndarray,
        last: int,
        *,
        small: bool = False,
        instead: str | None = None,
    ) -> ShardNote:
        """A shard of these pictures, ids ascending, int64 (N,), that ends with id ``last``. ``small``: one of several, which is
        exact where it has too few pictures for the kind; ``instead``: of which kind, that was tried in vain, inverted lists are
        to be made. Raises GalleryError, UsageError."""
        started = time.monotonic()
        chosen = ann_kind.plan("ivf" if instead else self.kind, len(ids), self.store.dim)
        if chosen.sample and len(ids) > LONG:
            self.say(f"making the search index for {len(ids)} pictures: {chosen.factory}")
        sample = np.sort(np.random.default_rng(0).choice(len(rows), chosen.sample, replace=False))
        try:
            index, factory = ann_kind.trained(chosen, self.store.dim, ann_search.unit(self.store.take(rows[sample])))
            _add(index, self.store, ids, rows)
        except RuntimeError as error:
            if small:
                instead, chosen = chosen.kind, ann_kind.plan("flat", len(ids), self.store.dim)
                index, factory = ann_kind.trained(chosen, self.store.dim, self.store.take(rows[:0]))
                _add(index, self.store, ids, rows)
            else:
                raise UsageError(
                    f"no search index {chosen.factory} can be made of {len(ids)} pictures: {ann_file.faiss_reason(error)}",
                    "Every picture is committed; choose another kind with --ann.",
                ) from error
        shard = ShardNote(
            name=self._name(),
            first=0,
            last=last,
            seq=log.end,
            kind=chosen.kind,
            factory=factory,
            dim=self.store.dim,
            count=len(ids),
            trained=len(ids),
            target=self.target,
            instead=instead,
        )
        shard = self.measured(index, shard, ids, rows)
        if not shard.reached:
            found = f"the search index {factory} finds {100 * (shard.recall or 0):.1f} % of the true first {K}"
            if chosen.kind == "hnsw":  # parts of a graph that no path leads to stay hidden whatever the effort
                self.say(f"{found} or less, not {100 * self.target:g} %: inverted lists take its place")
                return self.built(log, ids, rows, last, small=small, instead=chosen.kind)
            self.say(f"{found}, not {100 * self.target:g} %: choose another kind with --ann, or a lower --recall")
        return ann_file.write(self.folder, index, replace(shard, seconds=round(time.monotonic() - started, 3)))

    def folded(self, log: LogState, shard: ShardNote, last: int | None, *, stays: bool) -> ShardNote | None:
        """The shard with the changes up to id ``last`` (None: all) taken into its file, which becomes another. None when that
        is no less work than a new file, or impossible. ``stays``: a graph with few changes may stay as it is."""
        import faiss

        if shard.kind == "flat":
            return None
        try:
            index = ann_file.read(self.folder, shard, mapped=False)
        except GalleryDamaged:
            return None
        started = time.monotonic()
        ids, rows = self.catalog.changes_since(shard.seq, shard.first, last if shard.last is None else shard.last)
        if shard.last is not None and last != shard.last:
            behind = self.catalog.changes_since(0, shard.last + 1, last)
            ids, rows = np.concatenate([ids, behind[0]]), np.concatenate([rows, behind[1]])
        if ann_kind.core(index).ntotal + int((rows >= 0).sum()) > 2 * shard.trained:
            return None  # trained with too little
        inner = ann_kind.core(index)
        stored = ids[np.isin(ids, stored_ids(index))] if isinstance(inner, faiss.IndexHNSW) else ids
        if isinstance(inner, faiss.IndexHNSW) and len(stored):
            # A graph forgets nothing: the changes stay beside it, as long as they are few.
            few = len(ids) <= min(shard.count // _REBUILD_SHARE, ann_search.MOST_CHANGED_VALUES // self.store.dim)
            return shard if few and stays else None
        if len(stored):
            index.remove_ids(faiss.IDSelectorBatch(stored))
        live = rows >= 0
        _add(index, self.store, ids[live], rows[live])
        end = self.catalog.last_searchable() if last is None else last
        shard = replace(shard, name=self._name(), seq=log.end, last=end, count=int(index.ntotal))
        if abs(shard.count - shard.measured) * 4 > shard.measured or shard.target != self.target:
            shard = self.measured(index, shard, *self.catalog.searchable(shard.first, end))
            if not shard.reached and shard.kind == "hnsw":
                return None
        return ann_file.write(self.folder, index, replace(shard, seconds=round(time.monotonic() - started, 3)))

    def aimed(self, shard: ShardNote) -> ShardNote:
        """A shard whose file stays, with a way to search it that suits the present target."""
        if shard.target == self.target:
            return shard
        ids, rows = self.catalog.searchable(shard.first, shard.last)
        held = ~np.isin(ids, self.catalog.changes_since(shard.seq, shard.first, shard.last)[0])
        return self.measured(ann_file.read(self.folder, shard), shard, ids[held], rows[held])

    def measured(self, index: Any, shard: ShardNote, ids: np.ndarray, rows: np.ndarray) -> ShardNote:
        """The note with an operation chosen for the present target; ``ids``: what the file holds, and its rows."""
        shard = replace(shard, target=self.target, measured=shard.count)
        if shard.count < ann_kind.FEWEST:
            return shard
        started = time.monotonic()
        if shard.kind == "flat":  # only timed
            chosen = operating.exact(index, ann_recall.Trial(self.store, ids, rows, count=5))
        else:
            trial = ann_recall.Trial(self.store, ids, rows, count=ann_recall.QUERIES)
            chosen = operating.Tuning(index, trial, self.target).operation()
        return replace(
            shard,
            effort=chosen.effort,
            reach=chosen.reach,
            shortlist=chosen.shortlist,
            recall=chosen.recall,
            milliseconds=chosen.milliseconds,
            queries=chosen.queries,
            reached=chosen.reached,
            seconds_measuring=round(time.monotonic() - started, 3),
        )

    def _name(self) -> str:
        return ann_file.new_name(self.folder, self.catalog.number("version"))


def stored_ids(index: Any) -> np.ndarray:
    """The ids in an index that has a table of them."""
    import faiss

    table: Any = faiss.downcast_index(index)
    return faiss.vector_to_array(table.id_map)


def _add(index: Any, store: VectorStore, ids: np.ndarray, rows: np.ndarray) -> None:
    _reserve(index, len(rows))
    begin = int(rows[0]) if len(rows) else 0
    if begin == 0 and np.array_equal(rows, np.arange(len(rows))):  # as they lie on the disk: read in turn
        for first, vectors in store.blocks(len(rows), _BLOCK):
            index.add_with_ids(ann_search.unit(vectors), ids[first : first + len(vectors)])
        return
    for begin in range(0, len(rows), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        index.add_with_ids(ann_search.unit(store.take(rows[part])), ids[part])


def _reserve(index: Any, count: int) -> None:
    """Have an empty exact index take its memory at once: growing, it would hold and copy up to twice as much."""
    import faiss

    inner = ann_kind.core(index)
    if isinstance(inner, faiss.IndexFlat) and not inner.ntotal:
        inner.codes.resize(count * inner.code_size)
        inner.codes.resize(0)

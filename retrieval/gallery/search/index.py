"""The search index of a gallery: made, kept up to date, and found again. It is derived from the vectors at any time.

What changed since an index was written is known from the catalog's log and searched beside it, so a small change costs no
new file. More than a hundredth of a gallery is taken into the file: added to it and removed from it without training anew.
Only when a gallery has doubled, or another kind is asked for, everything is made afresh.
"""

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
from retrieval.gallery.search import recall as ann_recall
from retrieval.gallery.search.file import IndexNote, index_path
from retrieval.gallery.store.catalog import Catalog, LogState
from retrieval.gallery.store.vectors import VectorStore

# Up to so many vectors the file is always brought up to date: that is done before one notices.
_SMALL = 16_384
_LONG = 16_384  # from so many pictures on, training is announced
_REBUILD_SHARE = 20  # changes that a graph cannot take in: a twentieth of it, then it is made afresh
_BLOCK = 16_384


class SearchIndex:
    """The index files in ``folder`` of one catalog, for its writer. ``requested`` and ``target``: the kind and the recall that
    the gallery asks for. ``say`` gets a line before what takes long."""

    def __init__(
        self,
        folder: Path,
        catalog: Catalog,
        store: VectorStore,
        requested: str,
        target: float,
        say: Callable[[str], None],
    ) -> None:
        self.folder, self.catalog, self.store = folder, catalog, store
        self.requested, self.target, self.say = requested, target, say

    def refresh(self) -> bool:
        """Bring the files in line with the catalog, as far as it pays. True when something was written.

        Raises GalleryError when they cannot be written, UsageError when FAISS cannot make such an index.
        """
        log = self.catalog.log_state()
        assert log is not None  # a writable catalog has one
        try:
            note = ann_file.find(self.folder, log)
            if note is not None and not ann_file.check(self.folder, note):
                note = None
        except GalleryDamaged as damage:
            self.say(f"{damage.message}; it is made again from the vectors")
            note = None
        count = self.catalog.searchable_count()
        if note is None or self._is_other(note, count):
            return self._build(log, note)
        changed = self.catalog.count_changes(note.seq)
        if changed > searched_beside(note.count, self.store.dim):
            ids, rows = self.catalog.changes_since(note.seq)
            return self._fold(log, note, ids, rows) or self._build(log, note)
        if note.target != self.target:
            index = ann_file.read(self.folder, note)
            if index is None:
                return self._build(log, note)
            measured = self._measured(index, note)
            if not measured.reached and measured.kind == "hnsw":
                return self._build(log, note)
            ann_file.write_note(self.folder, measured)
            return True
        return False

    def _is_other(self, note: IndexNote, count: int) -> bool:
        """Whether an index made for ``count`` vectors now would be quite another."""
        wanted = ann_kind.plan(self.requested, count, self.store.dim, note.kind)
        grown = wanted.sample > 0 and (count > 2 * note.trained or 4 * count < note.trained)
        return (
            note.requested != self.requested
            or wanted.kind not in (note.kind, note.instead)
            or note.dim != self.store.dim
            or grown
        )

    def _build(self, log: LogState, before: IndexNote | None, instead: str | None = None) -> bool:
        """``instead``: of which kind, that was tried in vain, inverted lists are to be made."""
        started = time.monotonic()
        ids, rows = self.catalog.searchable()
        kind = "ivf" if instead else self.requested
        chosen = ann_kind.plan(kind, len(ids), self.store.dim, before.kind if before else None)
        if chosen.sample and len(ids) > _LONG:
            self.say(f"making the search index for {len(ids)} pictures: {chosen.factory}")
        sample = np.sort(np.random.default_rng(0).choice(len(rows), chosen.sample, replace=False))
        try:
            index, factory = ann_kind.trained(chosen, self.store.dim, self.store.take(rows[sample]))
            _add(index, self.store, ids, rows)
        except RuntimeError as error:
            raise UsageError(
                f"no search index {chosen.factory} can be made of {len(ids)} pictures: {ann_file.faiss_reason(error)}",
                "Every picture is committed; choose another kind with --ann.",
            ) from error
        note = IndexNote(
            identity=log.identity,
            version=self.catalog.number("version"),
            seq=log.end,
            requested=self.requested,
            kind=chosen.kind,
            factory=factory,
            dim=self.store.dim,
            count=len(ids),
            trained=len(ids),
            bytes=0,
            sha256="",
            target=self.target,
            effort=None,
            shortlist=ann_recall.K + 32,
            recall=None,
            milliseconds=None,
            queries=0,
            measured=0,
            seconds=0.0,
            seconds_measuring=0.0,
        )
        note = replace(self._measured(index, note, ids, rows), instead=instead)
        if not note.reached:
            found = (
                f"the search index {factory} finds {100 * (note.recall or 0):.1f} % of the true first {ann_recall.K}"
            )
            if chosen.kind == "hnsw":  # parts of a graph that no path leads to stay hidden whatever the effort
                self.say(f"{found} or less, not {100 * self.target:g} %: inverted lists take its place")
                return self._build(log, before, instead=chosen.kind)
            self.say(f"{found}, not {100 * self.target:g} %: choose another kind with --ann, or a lower --recall")
        return self._keep(index, replace(note, seconds=round(time.monotonic() - started, 3)))

    def _fold(self, log: LogState, note: IndexNote, ids: np.ndarray, rows: np.ndarray) -> bool:
        """Take changes into the file. False when that is no less work than a new file, or impossible."""
        import faiss

        if note.kind == "flat":
            return False
        try:
            index = ann_file.read(self.folder, note, mapped=False)
        except GalleryDamaged:
            return False
        if index is None:
            return False
        started = time.monotonic()
        inner = ann_kind.core(index)
        stored = ids[np.isin(ids, stored_ids(index))] if isinstance(inner, faiss.IndexHNSW) else ids
        if isinstance(inner, faiss.IndexHNSW) and len(stored):
            # A graph forgets nothing: the changes stay beside it, as long as they are few.
            return len(ids) <= min(note.count // _REBUILD_SHARE, ann_search.MOST_CHANGED_VALUES // self.store.dim)
        if len(stored):
            index.remove_ids(faiss.IDSelectorBatch(stored))
        live = rows >= 0
        _add(index, self.store, ids[live], rows[live])
        version = self.catalog.number("version")
        note = replace(note, version=version, seq=log.end, count=int(index.ntotal))
        if abs(note.count - note.measured) * 4 > note.measured or note.target != self.target:
            note = self._measured(index, note)
            if not note.reached and note.kind == "hnsw":
                return False
        return self._keep(index, replace(note, seconds=round(time.monotonic() - started, 3)))

    def _measured(
        self, index: Any, note: IndexNote, ids: np.ndarray | None = None, rows: np.ndarray | None = None
    ) -> IndexNote:
        """The note with an operation chosen for the present target."""
        import faiss

        note = replace(note, target=self.target, measured=note.count)
        if note.count < ann_kind.FEWEST:
            return note
        started = time.monotonic()
        if ids is None or rows is None:
            ids, rows = self.catalog.searchable()
            held = ~np.isin(ids, self.catalog.changes_since(note.seq)[0])
            ids, rows = ids[held], rows[held]
        inner = ann_kind.core(index)
        exact = note.kind == "flat"
        lists, graph = isinstance(inner, faiss.IndexIVF), isinstance(inner, faiss.IndexHNSW)
        most = inner.nlist if lists else 4096
        count = 5 if exact else ann_recall.QUERIES  # the exact kind is only timed
        trial = ann_recall.Trial(self.store, ids, rows, count=count)
        chosen = ann_recall.operate(index, lists or graph, exact, most, trial, self.target, graph)
        return replace(
            note,
            effort=chosen.effort,
            shortlist=chosen.shortlist,
            recall=chosen.recall,
            milliseconds=chosen.milliseconds,
            queries=0 if exact else chosen.queries,
            reached=chosen.reached,
            seconds_measuring=round(time.monotonic() - started, 3),
        )

    def _keep(self, index: Any, note: IndexNote) -> bool:
        """Write file and note, drop older ones, shorten the log: in this order."""
        ann_file.write(self.folder, index, note)
        ann_file.tidy(self.folder, note.version)
        with self.catalog.writing():
            self.catalog.forget_changes(note.seq)
        return True


def searched_beside(count: int, dim: int) -> int:
    """How many changes may be searched beside the file of an index of ``count`` vectors, before they are taken into it."""
    return 0 if count <= _SMALL else min(count // 100, ann_search.MOST_CHANGED_VALUES // 2 // dim)


def open_source(
    folder: Path, catalog: Catalog, store: VectorStore, count: int, say: Callable[[str], None]
) -> ann_search.Source | None:
    """Candidates from the index file that belongs to the catalog's present state, or None where there is no such file.

    ``count``: committed rows of the store. A damaged file is passed over, which ``say`` tells: then all vectors are searched.
    """
    everything = ann_search.Everything(store, count, catalog)
    # An entry that is gone without a word would pass for a picture that was removed.
    catalog.check_complete(catalog.count_searchable())
    try:
        note = ann_file.find(folder, catalog.log_state())
        if note is None or note.dim != store.dim:
            return None
        if catalog.count_changes(note.seq) * store.dim > ann_search.MOST_CHANGED_VALUES:
            return everything
        index = ann_file.read(folder, note)
        if index is None:
            return None
    except GalleryDamaged as damage:
        say(f"{damage} {ann_search.MEANWHILE}")
        return everything
    ids, rows = catalog.changes_since(note.seq)
    changes = ann_search.Changes(ids, rows, store)
    return ann_search.Indexed(index, note, changes, everything, index_path(folder, note.version), say)


def stored_ids(index: Any) -> np.ndarray:
    """The ids in an index that has a table of them."""
    import faiss

    table: Any = faiss.downcast_index(index)
    return faiss.vector_to_array(table.id_map)


def _add(index: Any, store: VectorStore, ids: np.ndarray, rows: np.ndarray) -> None:
    if np.array_equal(rows, np.arange(len(rows))):  # as they lie on the disk: no copies
        for first, vectors in store.blocks(len(rows), _BLOCK):
            index.add_with_ids(vectors, ids[first : first + len(vectors)])
        return
    for begin in range(0, len(rows), _BLOCK):
        part = slice(begin, begin + _BLOCK)
        index.add_with_ids(store.take(rows[part]), ids[part])

"""Candidates for a query: from the search index and the changes since it was written, or from all vectors.

A source of candidates gives, for one descriptor, the pictures that may be among the best. Who asks scores them exactly and
asks again, for more and with more effort, where they do not settle the answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from retrieval.errors import GalleryDamaged
from retrieval.gallery.search import file as ann_file
from retrieval.gallery.search import intact
from retrieval.gallery.search.looking import effort_for, least, search, shortlist, threads
from retrieval.gallery.search.note import ShardNote
from retrieval.gallery.store.catalog import Catalog
from retrieval.gallery.store.vectors import VectorStore
from retrieval.system.products import products_on_one_core

# Where the vectors that changed hold more values than this, an index is of no use beside them: all vectors are searched.
MOST_CHANGED_VALUES = 1 << 24
MEANWHILE = "Searching the vectors themselves meanwhile."
_FEW_VALUES = 1 << 23  # in vectors that one core goes through in a few milliseconds
_SLOW = 8.0  # milliseconds in shards, from which on several cores gain more than their threads cost


@dataclass(frozen=True)
class Found:
    """Candidates: ids ascending and their vectors' rows. ``all``: no picture is left out."""

    ids: np.ndarray
    rows: np.ndarray
    all: bool


class Source(Protocol):
    """``candidates(vector, k, stage)``: pictures among which the ``k`` best of a descriptor (D,) should be; at a later
    stage (0, 1, ...) more of them."""

    def candidates(self, vector: np.ndarray, k: int, stage: int) -> Found: ...


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (N, D) float32 at unit length, so that inner products go by the cosine. Stored ones have it only as far as their
    dtype goes, descriptors to 1e-5 (:func:`retrieval.engines.base.unit_length`); zero vectors stay zero."""
    result: np.ndarray = vectors / _lengths(vectors)[:, None]
    return result


def _lengths(vectors: np.ndarray) -> np.ndarray:
    """Float32 (N,), at least 1e-12."""
    result: np.ndarray = np.maximum(np.sqrt(np.einsum("nd,nd->n", vectors, vectors)), np.float32(1e-12))
    return result


class Everything:
    """Exact: cosines with all stored vectors, in bounded memory. For one query at a time."""

    def __init__(self, store: VectorStore, count: int, catalog: Catalog) -> None:
        self.store, self.count, self.catalog = store, count, catalog
        self._vector: np.ndarray | None = None
        self._scores = np.empty(0, np.float32)
        self._lengths: np.ndarray | None = None  # of all vectors, once they were read

    def candidates(self, vector: np.ndarray, k: int, stage: int) -> Found:
        wanted = min(least(k) * 4**stage, self.count)
        if wanted >= self.count // 4:
            ids, rows = self.catalog.searchable()
            self.catalog.check_entries(ids)
            return Found(ids, rows, True)
        if self._vector is not vector:
            self._scores = np.empty(self.count, np.float32)
            # A second core would wait for more work, busily, while the next picture needs it.
            with products_on_one_core() if self.count * len(vector) < _FEW_VALUES else nullcontext():
                self._score(vector)
            self._vector = vector
        best = np.argpartition(self._scores, self.count - wanted)[self.count - wanted :]
        # Rows of pictures that are gone are among them, and give nothing: the next stage looks further.
        ids, rows = self.catalog.pictures_of_rows(best)
        self.catalog.check_entries(ids)
        return Found(ids, rows, False)

    def _score(self, vector: np.ndarray) -> None:
        known = self._lengths
        lengths = np.empty(self.count, np.float32) if known is None else known
        for first, vectors in self.store.blocks(self.count):
            last = first + len(vectors)
            self._scores[first:last] = vectors @ vector
            if known is None:
                lengths[first:last] = _lengths(vectors)
        self._scores /= lengths
        self._lengths = lengths


class Changes:
    """The pictures that came, went or changed since an index was written: not to be found in it, but here."""

    def __init__(self, ids: np.ndarray, rows: np.ndarray, store: VectorStore) -> None:
        self.hidden = ids
        live = rows >= 0
        self.ids, self.rows = ids[live], rows[live]
        self.vectors = unit(store.take(self.rows))

    def candidates(self, vector: np.ndarray, wanted: int) -> np.ndarray:
        if wanted >= len(self.ids):
            return self.ids
        import faiss

        with threads(1):
            _, found = faiss.knn(vector[None], self.vectors, wanted, faiss.METRIC_INNER_PRODUCT)
        result: np.ndarray = self.ids[found[0]]
        return result


@dataclass
class Part:
    """A shard that can be searched: its FAISS index (None: not read) and its note; ``path`` and what the system said of the file,
    where it is mapped."""

    index: Any
    note: ShardNote
    path: Path | None = None
    identity: intact.Identity | None = None

    @classmethod
    def opened(cls, folder: Path, shard: ShardNote, *, read: bool = True) -> Part:
        """``read`` off: the file is only compared with its hash. Raises GalleryDamaged."""
        path = ann_file.shard_path(folder, shard)
        index = None
        if read:
            index = ann_file.read(folder, shard)
        else:
            ann_file.check(folder, shard)
        with suppress(OSError):
            return cls(index, shard, path, intact.identity(path))  # reading it has just verified it
        return cls(index, shard, path)

    def check(self) -> None:
        """Raises GalleryDamaged unless the mapped file is what it was when it was verified."""
        if self.path is None:
            return
        with suppress(OSError):  # a writer has put another in its place; what is mapped stays whole
            now = intact.identity(self.path)
            if self.identity is None or (now != self.identity and now[1] == self.identity[1]):
                self.identity = intact.verify(self.path, self.note.sha256)

    def candidates(self, vector: np.ndarray, k: int, stage: int, shown: Any = None) -> np.ndarray | None:
        """Ids in the shard among which its ``k`` best should be, with the effort that its note prescribes, more at each stage;
        None where nearly all would have to be looked at: a graph or lists cannot promise to give so many."""
        wanted = shortlist(self.note, k) * 4**stage
        if wanted > max(self.note.count // 4, 4096):
            return None
        effort = effort_for(self.note, k, stage)
        found = search(self.index, vector[None], min(wanted, self.note.count), effort, shown)[0]
        return np.asarray(found[found >= 0])


class Indexed:
    """The shards of a search index and the changes since. Where one turns out not to be the catalog's, or its file changes,
    ``say`` tells, and everything is searched from then on; so it is where the files were not read.

    The files are mapped into memory: of a large one, a query touches a few parts in a hundred. Memory that a file cut short no
    longer fills ends the process when it is touched, so before each search the system is asked whether the files are as they
    were; where one is not, it is read again and compared with its hash. What happens within the milliseconds of a search stays
    open: our own writers never change a file that is there.
    """

    def __init__(self, parts: list[Part], changes: Changes, everything: Everything, say: Callable[[str], None]) -> None:
        self.parts, self.changes, self.everything, self.say = parts, changes, everything, say
        self._count = sum(part.note.count for part in parts)
        self._usable = True
        self._slow = sum(part.note.milliseconds or 0 for part in parts) > _SLOW
        self._shown = None
        self._read = all(part.index is not None for part in parts)
        if self._read and len(changes.hidden):
            import faiss

            bits = np.zeros(int(changes.hidden.max()) + 1, bool)
            bits[changes.hidden] = True
            library: Any = faiss
            self._hidden = library.IDSelectorBitmap(np.packbits(bits, bitorder="little"))  # kept: the next points to it
            self._shown = library.IDSelectorNot(self._hidden)

    def candidates(self, vector: np.ndarray, k: int, stage: int) -> Found:
        wanted = max(shortlist(part.note, k) for part in self.parts) * 4**stage
        if not self._intact() or not self._read or wanted > max(self._count // 4, 4096):
            return self.everything.candidates(vector, k, stage)
        found = [self.changes.candidates(vector, wanted), *self._of_parts(vector, k, stage)]
        ids = np.sort(np.concatenate(found))
        ids = ids[np.diff(ids, prepend=-1) > 0]  # np.unique imports numpy.ma
        rows = self.everything.catalog.checked_rows(ids)
        if len(rows) and rows.min() < 0:
            gone = ids[rows < 0]
            strange = next(part for part, own in zip(self.parts, found[1:], strict=True) if np.isin(gone, own).any())
            why = "its ids are not those of the catalog"
            self._give_up(intact.damaged(strange.path or Path(), why, as_written=True))
            return self.everything.candidates(vector, k, stage)
        return Found(ids, rows, False)

    def _of_parts(self, vector: np.ndarray, k: int, stage: int) -> list[np.ndarray]:
        """Of each shard; the shards are searched beside each other."""

        def of(part: Part) -> np.ndarray | None:
            return part.candidates(vector, k, stage, self._shown)

        workers = min(len(self.parts), os.cpu_count() or 1) if self._slow else 1
        found: list[np.ndarray | None] = [None] * len(self.parts)

        def share(worker: int) -> None:
            for i in range(worker, len(self.parts), workers):
                found[i] = of(self.parts[i])

        with ThreadPoolExecutor(workers, "shards") if workers > 1 else nullcontext() as pool:
            others = [pool.submit(share, worker) for worker in range(1, workers)] if pool else []
            share(0)
        for other in others:
            other.result()
        # None: of a small shard beside large ones.
        searchable = self.everything.catalog.searchable
        return [
            searchable(part.note.first, part.note.last)[0] if ids is None else ids
            for part, ids in zip(self.parts, found, strict=True)
        ]

    def _intact(self) -> bool:
        """Whether the files can be searched."""
        try:
            for part in self.parts if self._usable else ():
                part.check()
        except GalleryDamaged as damage:
            self._give_up(damage)
        return self._usable

    def _give_up(self, damage: GalleryDamaged) -> None:
        self._usable = False
        self.say(f"{damage} {MEANWHILE}")

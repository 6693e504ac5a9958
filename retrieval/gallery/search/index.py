"""The search index of a gallery: made and kept up to date; ``source.py`` finds it again. It is derived from the vectors.

What changed since an index was written is known from the catalog's log and searched beside it, so a small change costs no new
file. More than a hundredth of a gallery goes into files: into the one there is, without training anew, or in a large gallery
into a shard of its own (``cutting.py``). Only when another kind is asked for, or a file has doubled, vectors that are in files
already are learned from afresh.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from retrieval.errors import GalleryDamaged
from retrieval.gallery.search import candidates as ann_search
from retrieval.gallery.search import cutting, source
from retrieval.gallery.search import file as ann_file
from retrieval.gallery.search import kind as ann_kind
from retrieval.gallery.search import making as ann_making
from retrieval.gallery.search import note as ann_note
from retrieval.gallery.search import recall as ann_recall
from retrieval.gallery.search.cutting import Stretch
from retrieval.gallery.search.note import IndexNote, ShardNote
from retrieval.gallery.store.catalog import Catalog, LogState
from retrieval.gallery.store.vectors import VectorStore

# Up to so many vectors a file is always brought up to date: that is done before one notices.
_SMALL = 16_384
_LOUDER = 8  # times that all shards look a tenth further, so that together they reach what each has reached alone
_STALE_SHARE = 20  # of a shard's pictures a twentieth may be masked, then it is made afresh


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
        note = ann_note.find(self.folder, log)
        if note is not None and (note.requested != self.requested or note.dim != self.store.dim):
            note = None
        count = self.catalog.searchable_count()
        kind = ann_kind.plan(self.requested, count, self.store.dim, note.kind if note else None).kind
        if self.requested != "auto":
            kind = self.requested
        plan = [Stretch(0, None, rows=count, remake=True)] if note is None else self._plan(note, kind, count)
        maker = ann_making.Maker(self.folder, self.catalog, self.store, kind, self.target, self.say)
        shards: list[ShardNote] = []
        for stretch in plan:
            shards += self._made(maker, log, stretch, len(plan) > 1)
        taken_in = [(shard.seq, shard.first, shard.last) for shard in shards]
        shards = [shard for shard in shards if shard.count] or shards[:1]
        for i, shard in enumerate(shards):  # where nothing lies any more belongs to the shard behind it
            shards[i] = replace(shard, first=0 if i == 0 else (shards[i - 1].last or 0) + 1)
        if note is not None and tuple(shards) == note.shards:
            with suppress(OSError):
                ann_note.tidy(self.folder, note)
            return False
        note = self._together(log, tuple(shards), note)
        ann_note.write_note(self.folder, note)
        ann_note.tidy(self.folder, note)
        with self.catalog.writing():
            self.catalog.forget_changes(log.end, taken_in)
        return True

    # -- what is due ---------------------------------------------------------------------------------------------

    def _plan(self, note: IndexNote, kind: str, count: int) -> list[Stretch]:
        """What there is, and what of it is to be made anew."""
        broken = {shard.name for shard in note.shards if not self._sound(shard)}
        beside = searched_beside(note.count, self.store.dim)
        if note.shards[-1].last is None or (len(note.shards) == 1 and count <= cutting.SHARD_ROWS):
            (shard,) = note.shards
            other = shard.name in broken or self._is_other(shard, kind, count)
            due = other or source.changes_beside(self.catalog, note) > beside
            return [Stretch(0, None, 1, None if other else shard, count, remake=due)]
        stretches = []
        for seq, first, last in note.spans():
            live = self.catalog.count_live_changes(seq, first, last)
            if last is None:
                stretches.append(Stretch(first, None, rows=live, live=live))
                continue
            shard = note.shards[len(stretches)]
            stale = self.catalog.count_changes(seq, first, last)
            rows = max(shard.count - (stale - live), 0)
            other = self._is_other(shard, kind, rows)
            lost = shard.name in broken
            kept = None if other or lost else shard
            stretches.append(Stretch(first, last, 1, kept, rows, live, stale, remake=kept is None, alone=lost))
        held = [stretch.rows + stretch.stale for stretch in stretches]
        most = [0 if rows <= _SMALL else rows // _STALE_SHARE for rows in held]
        return cutting.planned(stretches, beside, most)

    def _sound(self, shard: ShardNote) -> bool:
        try:
            ann_file.check(self.folder, shard)
        except GalleryDamaged as damage:
            self.say(f"{damage.message}; it is made again from the vectors")
            return False
        return True

    def _is_other(self, shard: ShardNote, kind: str, count: int) -> bool:
        """Whether a file made for ``count`` vectors now would be quite another."""
        wanted = ann_kind.plan(kind, count, self.store.dim, shard.kind)
        grown = wanted.sample > 0 and (count > 2 * shard.trained or 4 * count < shard.trained)
        return wanted.kind not in (shard.kind, shard.instead) or grown

    # -- doing it ------------------------------------------------------------------------------------------------

    def _made(self, maker: ann_making.Maker, log: LogState, stretch: Stretch, several: bool) -> list[ShardNote]:
        """The shards of a stretch, those that are new written, one after the other. None where nothing is due and there is
        none."""
        shard = stretch.shard
        if not stretch.remake:
            if shard is None:
                return []
            aimed = maker.aimed(shard)
            if aimed.reached or aimed.kind != "hnsw":
                return [aimed]
        elif shard is not None and stretch.rows <= cutting.SHARD_ROWS:
            folded = maker.folded(log, shard, stretch.last, stays=not several)
            if folded is not None:
                return [folded]
        ids, rows = self.catalog.searchable(stretch.first, stretch.last)
        parts = max(1, math.ceil(len(ids) / cutting.SHARD_ROWS))
        if parts > 1 and len(ids) > ann_making.LONG:
            self.say(f"making the search index for {len(ids)} pictures in {parts} files")
        made, first = [], stretch.first
        for part, where in enumerate(np.array_split(np.arange(len(ids)), parts), 1):
            end = int(ids[where[-1]]) if len(where) else max(first - 1, 0)
            last = end if part < parts or stretch.last is None else stretch.last
            made.append(replace(maker.built(log, ids[where], rows[where], last, small=several), first=first))
            first = last + 1
        return made

    def _together(self, log: LogState, shards: tuple[ShardNote, ...], before: IndexNote | None) -> IndexNote:
        """The note of the whole. Its recall is measured when there come to be several shards, another target is asked for, or
        the gallery has grown or shrunk by a quarter since."""
        note = IndexNote(log.identity, self.catalog.number("version"), log.end, self.requested, shards)
        if len(shards) == 1:
            return ann_note.alone(note)
        if (
            before is not None
            and len(before.shards) > 1
            and before.target == self.target
            and abs(note.count - before.measured) * 4 <= before.measured
        ):
            return replace(
                note,
                recall=before.recall,
                milliseconds=before.milliseconds,
                queries=before.queries,
                measured=before.measured,
            )
        parts = [ann_search.Part(ann_file.read(self.folder, shard), shard) for shard in shards]
        changed = np.concatenate([self.catalog.changes_since(*span)[0] for span in note.spans()])
        ids, rows = self.catalog.searchable()
        held = ~np.isin(ids, changed)
        exact = all(shard.kind == "flat" for shard in shards)
        trial = ann_recall.Trial(self.store, ids[held], rows[held], count=5 if exact else ann_recall.QUERIES)
        recall, milliseconds = ann_recall.together(parts, trial)
        for _ in range(_LOUDER):
            if recall >= self.target:
                break
            parts = [replace(part, note=_louder(part.note)) for part in parts]
            recall, milliseconds = ann_recall.together(parts, trial)
        queries = 0 if exact else len(trial.queries)
        return replace(
            note,
            shards=tuple(part.note for part in parts),
            recall=recall,
            milliseconds=milliseconds,
            queries=queries,
            measured=note.count,
        )


def _louder(shard: ShardNote) -> ShardNote:
    effort = None if shard.effort is None else math.ceil(1.1 * shard.effort)
    return replace(shard, effort=effort, reach=None if shard.reach is None else 1.1 * shard.reach)


def searched_beside(count: int, dim: int) -> int:
    """How many changes may be searched beside the files of an index of ``count`` vectors, before they are taken into them."""
    return 0 if count <= _SMALL else min(count // 100, ann_search.MOST_CHANGED_VALUES // 2 // dim)

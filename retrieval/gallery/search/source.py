"""The search index of a gallery found again, by who only reads: what a query's candidates come from, and what is known of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from retrieval.errors import GalleryDamaged
from retrieval.gallery.search import candidates as ann_search
from retrieval.gallery.search import file as ann_file
from retrieval.gallery.search import note as ann_note
from retrieval.gallery.search.note import IndexNote
from retrieval.gallery.store.catalog import Catalog
from retrieval.gallery.store.vectors import VectorStore

# A product with so many values takes less than importing FAISS, for which a query would wait: files of these are not read.
_AT_ONCE = 1 << 23


def open_source(
    folder: Path, catalog: Catalog, store: VectorStore, count: int, say: Callable[[str], None]
) -> ann_search.Source | None:
    """Candidates from the index files that belong to the catalog's present state, or None where there are none.

    ``count``: committed rows of the store. Damaged files are passed over, which ``say`` tells: then all vectors are searched.
    """
    everything = ann_search.Everything(store, count, catalog)
    # An entry that is gone without a word would pass for a picture that was removed.
    catalog.check_complete(catalog.count_searchable())
    note = ann_note.find(folder, catalog.log_state())
    if note is None or note.dim != store.dim:
        return None
    spans = note.spans()
    if sum(catalog.count_live_changes(*span) for span in spans) * store.dim > ann_search.MOST_CHANGED_VALUES:
        return everything
    try:
        read = count * store.dim > _AT_ONCE or any(shard.kind != "flat" for shard in note.shards)
        parts = [ann_search.Part.opened(folder, shard, read=read) for shard in note.shards]
    except GalleryDamaged as damage:
        if ann_note.find(folder, catalog.log_state()) != note:  # a writer replaced it meanwhile
            return None
        say(f"{damage} {ann_search.MEANWHILE}")
        return everything
    changed = [catalog.changes_since(*span) for span in spans]
    ids, rows = (np.concatenate([pair[i] for pair in changed]) for i in (0, 1))
    return ann_search.Indexed(parts, ann_search.Changes(ids, rows, store), everything, say)


def sound_note(folder: Path, catalog: Catalog) -> IndexNote | None:
    """The note of the present index, None where there is none. Raises GalleryDamaged where one of its files is not as it was
    written."""
    note = ann_note.find(folder, catalog.log_state())
    try:
        for shard in note.shards if note else ():
            ann_file.check(folder, shard)
    except GalleryDamaged:
        if ann_note.find(folder, catalog.log_state()) == note:
            raise
        return None  # a writer replaced it meanwhile
    return note


def changes_beside(catalog: Catalog, note: IndexNote) -> int:
    """How many pictures changed that the files do not hold."""
    return sum(catalog.count_changes(*span) for span in note.spans())


def index_file(folder: Path, note: IndexNote) -> Path:
    """The file of an index with one shard, the note that names the files of one with several."""
    if len(note.shards) == 1:
        return ann_file.shard_path(folder, note.shards[0])
    return ann_note.note_path(folder, note.version)

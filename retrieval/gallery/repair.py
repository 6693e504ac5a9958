"""Restoring a damaged gallery from whatever is intact: description and catalog carry copies of each other's essentials,
every vector carries its picture's content hash and a checksum, and the search index can always be made anew."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from retrieval.errors import GalleryDamaged, GalleryError, ModelError
from retrieval.files.paths import show_path
from retrieval.files.whole import sync_folder
from retrieval.gallery.address import ANN_FOLDER, CATALOG, DESCRIPTION, LOCAL_FOLDER, VECTORS_FOLDER
from retrieval.gallery.description import read_description, write_description
from retrieval.gallery.local.index import LocalIndex
from retrieval.gallery.search.intact import SUFFIX as SEEN
from retrieval.gallery.search.note import remove_index
from retrieval.gallery.store.catalog import Catalog, Record
from retrieval.gallery.store.connection import mend_versions
from retrieval.gallery.store.generations import carried_over, generations
from retrieval.gallery.store.lock import WriterLock
from retrieval.gallery.store.vectors import VectorStore
from retrieval.models.spec import ModelSpec


def repair(folder: Path) -> list[str]:
    """Mend what can be mended; returns a line for each thing done. A synchronisation afterwards describes what was lost.

    Raises GalleryLocked, or GalleryError when too much is gone.
    """
    if not folder.is_dir():
        raise GalleryError(f"there is no gallery in {folder}", "Make one with: retrieve index FOLDER.")
    done: list[str] = []
    with WriterLock(folder):
        description = _description(folder, done)
        catalog = _catalog(folder, description, done)
        try:
            spec = ModelSpec.from_dict(description["model"])
            store = VectorStore(folder / VECTORS_FOLDER, spec.dim, description["dtype"], catalog.number("generation"))
            _vectors(catalog, store, done)
        finally:
            catalog.close()
        remove_index(folder / ANN_FOLDER)
        for path in (folder / LOCAL_FOLDER).glob(f"*/*{SEEN}"):
            path.unlink()  # the local index is compared with its hashes anew
        if damaged := LocalIndex(folder).prepare():
            done.append(f"{damaged} damaged parts of the local index removed: their pictures will be looked at again")
    return done


def _description(folder: Path, done: list[str]) -> dict[str, Any]:
    try:
        return read_description(folder)
    except GalleryDamaged as damage:
        try:
            catalog = Catalog(folder / CATALOG)
            description = json.loads(catalog.meta("description") or "")
            catalog.close()
            ModelSpec.from_dict(description["model"])
        except (GalleryError, ModelError, ValueError, KeyError, TypeError) as error:
            raise GalleryError(
                f"{damage.message}, and the catalog has no copy of it",
                "Which model made the vectors is lost: make a new gallery.",
            ) from error
        write_description(folder, description)
        done.append(f"{folder / DESCRIPTION} written from the catalog ({damage.message})")
        result: dict[str, Any] = description
        return result


def _catalog(folder: Path, description: dict[str, Any], done: list[str]) -> Catalog:
    path = folder / CATALOG
    catalog: Catalog | None = None
    if mend_versions(path):
        done.append(f"{path}: the versions in its header written anew")
    try:
        catalog = Catalog(path, writable=True)
        catalog.make_indexes_anew()
        _count_vectors(catalog, folder, description, done)
        _count_anew(catalog, done)
        try:
            catalog.check()
        except GalleryDamaged as damage:
            _without_damaged(catalog, damage, done)
        return catalog
    except GalleryDamaged as damage:
        if catalog is not None:
            catalog.close()
        dim = ModelSpec.from_dict(description["model"]).dim
        newest = max(generations(folder / VECTORS_FOLDER), default=0)
        store = VectorStore(folder / VECTORS_FOLDER, dim, description["dtype"], newest)
        kept = _anew(path, store, description)
        done.append(f"{path} made anew; {kept} vectors kept ({damage.message})")
        return Catalog(path, writable=True)


def _count_vectors(catalog: Catalog, folder: Path, description: dict[str, Any], done: list[str]) -> None:
    """Where pictures need more vectors than the catalog speaks of, and the files hold them, its number was wrong."""
    dim = ModelSpec.from_dict(description["model"]).dim
    store = VectorStore(folder / VECTORS_FOLDER, dim, description["dtype"], catalog.number("generation"))
    count, needed = catalog.number("vector_count"), catalog.rows_needed()
    if count < needed <= store.rows_on_disk():
        with catalog.writing():
            catalog.set_meta("vector_count", needed)
        done.append(f"{catalog.path} spoke of {count} vectors, and its pictures have {needed}")


def _count_anew(catalog: Catalog, done: list[str]) -> None:
    """Numbers that only measure start again where they cannot be such."""
    for key in ("local_made", "local_microseconds", "local_contents"):
        try:
            catalog.number(key)
        except GalleryDamaged as damage:
            with catalog.writing():
                catalog.set_meta(key, 0)
            done.append(f"{damage.message}: counted anew")


def _without_damaged(catalog: Catalog, damage: GalleryDamaged, done: list[str]) -> None:
    """Where single entries are damaged, the others stay. Raises GalleryDamaged where there is more to it."""
    catalog.check_file()
    catalog.check_head()
    with catalog.writing():
        dropped = catalog.drop_damaged()
        catalog.bump_version()
    catalog.check()
    names = ", ".join(map(show_path, dropped[:3])) + (" ..." if len(dropped) > 3 else "")
    done.append(f"{len(dropped)} damaged entries dropped from {catalog.path} ({names or damage.message})")


def _anew(path: Path, store: VectorStore, description: dict[str, Any]) -> int:
    """A catalog that knows vectors and folders, and no picture yet, in place of a damaged one, which is kept beside it. Returns
    how many vectors are intact."""
    count = store.rows_on_disk()
    store.extend_files(count)
    valid, hashes = store.verify(count)
    kept = {_hex(hashes[row]): int(row) for row in valid.nonzero()[0]}
    kept |= (older := carried_over(store, count, lambda digest: digest not in kept))
    beside = path.with_name("catalog.made-anew")
    for left in path.parent.glob(f"{beside.name}*"):
        left.unlink()
    catalog = Catalog(beside, create=True, writable=True)
    with catalog.writing():
        catalog.set_meta("description", json.dumps(description))
        catalog.set_meta("generation", store.generation)
        catalog.set_meta("vector_count", count + len(older))
        # Search indexes of the lost catalog must never be taken for one of the new catalog.
        catalog.set_meta("version", int(time.time()))
        catalog.add_spare(kept.items())
        for root in description.get("roots", []):
            catalog.add_root(root["path"], root["kind"])
    catalog.close()  # all of it is in one file now
    aside = f".damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(f"{path}{suffix}"):
            os.replace(f"{path}{suffix}", f"{path}{suffix}{aside}")
    os.replace(beside, path)
    sync_folder(path.parent)
    return len(kept)


def _vectors(catalog: Catalog, store: VectorStore, done: list[str]) -> None:
    count = catalog.number("vector_count")
    most = max(store.rows_on_disk(), catalog.rows_needed())
    if count > most:
        with catalog.writing():
            catalog.set_meta("vector_count", most)
        done.append(f"{catalog.path} spoke of {count} vectors, and there are {most}")
        count = most
    extended = store.extend_files(count)
    valid, hashes = store.verify(count)
    used = set(catalog.live_rows().tolist())
    keys = {root.id for root in catalog.roots() if root.kind == "keys"}
    # A picture whose vector is damaged, or belongs to another content, needs it again.
    lost = [r for r in catalog.records() if r.row is not None and not (valid[r.row] and _hex(hashes[r.row]) == r.hash)]
    wanted = {record.hash for record in lost if record.error is None}
    older = carried_over(store, count, wanted.__contains__) if wanted else {}
    moved = [record for record in lost if record.error is None and record.hash in older]
    lost = [record for record in lost if record.error is not None or record.hash not in older]
    with catalog.writing():
        for record in moved:
            _move(catalog, record, older)
        catalog.set_meta("vector_count", count + len(older))
        if metadata := catalog.drop_damaged_metadata():
            done.append(f"damaged metadata of {metadata} pictures dropped")
        catalog.forget_rows(int(row) for row in (~valid).nonzero()[0])
        for record in lost:
            catalog.forget_vector(record.id)
        catalog.clear_spare()
        catalog.add_spare((_hex(hashes[row]), int(row)) for row in valid.nonzero()[0] if int(row) not in used)
        if lost or moved:
            catalog.bump_version()
    if moved:
        done.append(f"the vectors of {len(moved)} pictures taken from files of another generation")
    damaged = sum(1 for row in (~valid).nonzero()[0] if int(row) in used)
    if lost or extended:
        names = ", ".join(sorted({str(p) for p in extended})) or str(store.folder)
        again = sum(record.root not in keys for record in lost)
        done.append(f"{damaged} damaged vectors in {names}: {again} pictures will be described again")
    if gone := [record.path for record in lost if record.root in keys]:
        names = ", ".join(gone[:3]) + (" ..." if len(gone) > 3 else "")
        done.append(f"the vectors of {len(gone)} keys are lost: whoever added them must add them again ({names})")


def _move(catalog: Catalog, record: Record, rows: dict[str, int]) -> None:
    """A picture's vector lies elsewhere from now on: in the row of its content."""
    assert record.hash is not None
    catalog.set_ok(
        record.id,
        size=record.size,
        mtime_ns=record.mtime_ns,
        digest=record.hash,
        width=record.width,
        height=record.height,
        row=rows[record.hash],
        ctime_ns=record.ctime_ns,
        inode=record.inode,
    )


def _hex(value: Any) -> str:
    return bytes(value).hex()

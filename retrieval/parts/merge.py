"""Taking parts into a gallery: what they say of pictures becomes what an index run over the same source would have said.

Part by part, in the order of a synchronisation's commit: local codes, vectors, then one catalog transaction. So a merge may be
killed at any moment and run again, and one that finds nothing new changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from retrieval.errors import GalleryDamaged, GalleryMismatch
from retrieval.gallery.adding import keys_root
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Catalog, Record, Root
from retrieval.gallery.targets import folder_target, root_of_file
from retrieval.messages import Update, no_update
from retrieval.models.spec import ModelSpec
from retrieval.parts.manifest import Manifest
from retrieval.parts.part import Part, Row, read_part
from retrieval.parts.places import is_remote
from retrieval.ranking.asmk import LocalCodes


@dataclass
class MergeReport:
    """In pictures: ``added`` and ``changed`` by the parts, ``unchanged`` in the gallery, ``unreadable`` as the parts say,
    ``stayed_out`` because they were once taken out. In shards: ``merged``, ``missing``, ``bad``: shard -> why."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    unreadable: int = 0
    stayed_out: int = 0
    merged: int = 0
    missing: list[int] = field(default_factory=list)
    bad: dict[int, str] = field(default_factory=dict)


def merge_parts(gallery: OpenedGallery, manifest: Manifest, *, progress: Update = no_update) -> MergeReport:
    """Take into ``gallery`` what the parts hold. Pictures of a folder or of local files become those of that folder, with size
    and time, so that indexing it finds them known; others get their path or URI as key.

    Of a picture whose file the gallery saw later than the part did, the gallery's word stays. ``progress(done, total)`` counts
    shards. Raises GalleryMismatch, GalleryLocked, GalleryError.
    """
    require_fingerprint(manifest, str(gallery.folder), gallery.spec)
    report = MergeReport()
    with gallery.writing() as catalog:
        catalog.check(thoroughly=False)
        gallery.store(catalog).check_sizes(catalog.number("vector_count"))
        run = _Merge(gallery, catalog, manifest, report)
        run.add_pending()
        for part in parts_of(manifest, report, progress):
            run.take(part)
        run.finish()
    return report


def require_fingerprint(manifest: Manifest, gallery: str, spec: ModelSpec) -> None:
    """Raises GalleryMismatch for parts of another model than the gallery's."""
    if manifest.fingerprint != spec.fingerprint:
        raise GalleryMismatch(
            f"the parts in {manifest.folder} hold descriptors of {manifest.spec.name} (fingerprint {manifest.fingerprint}), "
            f"the gallery {gallery} those of {spec.name} ({spec.fingerprint})"
        )


def parts_of(manifest: Manifest, report: MergeReport, progress: Update) -> Iterator[Part]:
    """The parts that are there, shard by shard; ``report`` counts those that were taken, and names missing and bad ones."""
    for shard in range(len(manifest.shards)):
        progress(shard, len(manifest.shards))
        try:
            part = read_part(manifest, shard)
        except GalleryDamaged as error:
            report.bad[shard] = error.message
            continue
        if part is None:
            report.missing.append(shard)
            continue
        yield part
        report.merged += 1
    progress(len(manifest.shards), len(manifest.shards))


class _Merge:
    def __init__(self, gallery: OpenedGallery, catalog: Catalog, manifest: Manifest, report: MergeReport) -> None:
        self.gallery, self.catalog, self.manifest, self.report = gallery, catalog, manifest, report
        self.store = gallery.store(catalog)
        if gallery.local_setting is None:
            gallery.set_local(catalog, True)
        self.local = gallery.local
        if self.local is not None:
            self.local.prepare()
            if manifest.codebook not in (None, self.local.codebook.name):
                gallery.warn(
                    "The parts' local codes are of another codebook: the next `retrieve index` makes them anew."
                )
        same_codes = self.local is not None and manifest.codebook == self.local.codebook.name
        self._coded = self.local.contents() if self.local is not None and same_codes else None
        self._folder: tuple[Root, str] | None = None
        self._roots: dict[str, Root] = {}  # of the folders of single files
        self._out: dict[int, set[str]] = {}
        if manifest.kind != "folder" and not (manifest.kind == "files" and _all_local(manifest)):
            gallery.allow_keys(catalog)
        with catalog.writing():
            if manifest.kind == "folder":
                target = folder_target(gallery, catalog, manifest.source)
                self._folder = target.root, target.prefix
            gallery.describe_roots(catalog)

    # -- names ---------------------------------------------------------------------------------------------------

    def place(self, key: str, file: str | None = None) -> tuple[Root, str]:
        """The root of a picture in the gallery, and its path there."""
        if file is not None:
            return self._place_of_file(file)
        if "" not in self._roots:
            self._roots[""] = keys_root(self.catalog)
        return self._roots[""], key

    def _place_of_file(self, file: str) -> tuple[Root, str]:
        if self._folder is not None:
            root, prefix = self._folder
            return root, os.path.join(prefix, os.path.relpath(file, self.manifest.source))
        folder, name = os.path.split(file)
        if folder not in self._roots:
            root, path = root_of_file(self.gallery, self.catalog, file)
            if path != name:  # in a folder that is indexed above it
                return root, path
            self._roots[folder] = root
        return self._roots[folder], name

    def _is_out(self, root: Root, path: str) -> bool:
        """Whether the picture was taken out of the gallery on purpose."""
        if root.kind != "folder":
            return False
        if root.id not in self._out:
            self._out[root.id] = self.catalog.taken_out(root.id)
        return path in self._out[root.id]

    def add_pending(self) -> None:
        """All pictures that the manifest names get their ids first, in its order, whichever part comes first: as in an index
        run."""
        if self.manifest.kind not in ("folder", "files"):
            return
        with self.catalog.writing():
            places = []
            for shard in self.manifest.shards:
                for given in shard:
                    if self._folder is not None:
                        root, prefix = self._folder
                        places.append((root, os.path.join(prefix, given)))
                    elif is_remote(given):
                        places.append(self.place(given))
                    else:
                        places.append(self._place_of_file(given))
            self._add_unknown(places)

    def _add_unknown(self, places: Iterable[tuple[Root, str]]) -> None:
        """Entries for those that have none, in order."""
        wanted: dict[int, dict[str, Root]] = {}
        for root, path in places:
            wanted.setdefault(root.id, {})[path] = root
        for i, paths in wanted.items():
            names = list(paths)
            known = self.catalog.find_all(i, names)
            self.catalog.add_pending(i, [p for p in names if p not in known and not self._is_out(paths[p], p)])

    # -- parts ---------------------------------------------------------------------------------------------------

    def take(self, part: Part) -> None:
        """Commit one part."""
        if self._coded is not None and self.local is not None:
            fresh = {r.hash: r for r in part.rows if r.codes is not None and r.hash and r.hash not in self._coded}
            self.local.append({digest: LocalCodes.from_bytes(row.codes or b"") for digest, row in fresh.items()})
            self._coded.update(fresh)
        count = self.catalog.number("vector_count")
        hashes = list(dict.fromkeys(row.hash for row in part.rows if row.vector is not None and row.hash))
        known = self.catalog.rows_of_hashes(hashes)
        first = {row.hash: row.vector for row in reversed(part.rows) if row.vector is not None and row.hash}
        new = [digest for digest in hashes if digest not in known]
        known.update((digest, count + offset) for offset, digest in enumerate(new))
        if new:
            self.store.append(count, part.vectors[np.array([first[digest] for digest in new])], new)
        with self.catalog.writing():
            changed = self._commit(part.rows, known)
            if new:
                self.catalog.set_meta("vector_count", count + len(new))
            if changed:
                self.catalog.bump_version()
            self.gallery.describe_roots(self.catalog)

    def _commit(self, rows: list[Row], known: dict[str, int]) -> bool:
        """Note what became of each picture; whether vectors that can be found changed. ``known``: rows of contents."""
        placed: dict[tuple[int, str], tuple[Root, Row]] = {}
        for row in rows:
            root, path = self.place(row.key, row.file)
            placed[root.id, path] = root, row  # of two members of one name the later counts, as in a tar
        self._add_unknown((root, path) for (_, path), (root, _) in placed.items())
        records: dict[tuple[int, str], Record] = {}
        for i in dict.fromkeys(i for i, _ in placed):
            found = self.catalog.find_all(i, [path for other, path in placed if other == i])
            records.update(((i, path), record) for path, record in found.items())
        self.report.stayed_out += sum(place not in records for place in placed)
        described = [(row, records[place]) for place, (_, row) in placed.items() if place in records]
        plain = [(row, record) for row, record in described if row.vector is not None and record.row is None]
        self.catalog.set_first_ok(
            (row.size, row.mtime_ns, row.hash or "", row.width, row.height, known[row.hash or ""], record.id)
            for row, record in plain
        )
        self.report.added += len(plain)
        rest = [(row, record) for row, record in described if row.vector is None or record.row is not None]
        changed = [self._note(row, record, known) for row, record in rest]
        return bool(plain) or any(changed)

    def _note(self, row: Row, record: Record, known: dict[str, int]) -> bool:
        """The same for one that is more than new."""
        if row.vector is None:
            return self._note_error(row, record)
        assert row.hash is not None
        same = record.hash == row.hash
        seen = (record.size, record.mtime_ns) == (row.size, row.mtime_ns) and record.error is None
        if (same and seen) or record.mtime_ns > row.mtime_ns:
            self.report.unchanged += 1
            return False
        self.catalog.set_ok(
            record.id,
            size=row.size,
            mtime_ns=row.mtime_ns,
            digest=row.hash,
            width=row.width,
            height=row.height,
            row=known[row.hash],
        )
        self.report.changed += not same
        self.report.unchanged += same
        return not same

    def _note_error(self, row: Row, record: Record) -> bool:
        """A picture that the gallery has stays unless the part saw its file later."""
        self.report.unreadable += 1
        if record.row is not None and record.mtime_ns >= row.mtime_ns:
            return False
        if (record.error, record.size, record.mtime_ns) == (row.error, row.size, row.mtime_ns):
            return False
        self.catalog.set_error(
            record.id, size=row.size, mtime_ns=row.mtime_ns, error=row.error or "", keep_vector=False
        )
        return record.row is not None

    def finish(self) -> None:
        if self.local is not None:
            self.local.settle()
        with self.catalog.writing():
            self.catalog.drop_empty_roots()
            self.gallery.describe_roots(self.catalog)
        self.gallery.refresh_index(self.catalog)


def _all_local(manifest: Manifest) -> bool:
    return not any(is_remote(given) for shard in manifest.shards for given in shard)

"""Taking parts into a gallery: what they say of pictures becomes what an index run over the same source would have said.

Some parts at a time, in the order of a synchronisation's commit: local codes, vectors, then one catalog transaction. So a merge
may be killed at any moment and run again, and one that finds nothing new changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from retrieval.errors import GalleryDamaged, GalleryMismatch
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Catalog, Record, Seen
from retrieval.messages import Update, no_update
from retrieval.models.spec import ModelSpec
from retrieval.parts.manifest import Manifest
from retrieval.parts.naming import Place, Places
from retrieval.parts.part import Part, Row, read_part
from retrieval.ranking.asmk import LocalCodes
from retrieval.system.collector import at_rest

COMMIT_PICTURES = 32_768  # at most in one commit; what a kill has to be done again for


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
        catalog.check_once()
        gallery.store(catalog).check_sizes(catalog.number("vector_count"))
        run = _Merge(gallery, catalog, manifest, report)
        for shard, part in parts_of(manifest, report, progress):
            if part is None:
                run.wait_for(shard)
            else:
                run.take(part)
        run.commit()
        run.finish()
    return report


def require_fingerprint(manifest: Manifest, gallery: str, spec: ModelSpec) -> None:
    """Raises GalleryMismatch for parts of another model than the gallery's."""
    if manifest.fingerprint != spec.fingerprint:
        raise GalleryMismatch(
            f"the parts in {manifest.shelf} hold descriptors of {manifest.spec.name} (fingerprint {manifest.fingerprint}), "
            f"the gallery {gallery} those of {spec.name} ({spec.fingerprint})",
            "Name another gallery with --index.",
        )


def parts_of(manifest: Manifest, report: MergeReport, progress: Update) -> Iterator[tuple[int, Part | None]]:
    """Shard by shard its part, None where that is missing or bad, which ``report`` names; it counts those that were taken."""
    for shard in range(len(manifest.shards)):
        progress(shard, len(manifest.shards))
        try:
            part = read_part(manifest, shard)
        except GalleryDamaged as error:
            report.bad[shard] = error.message
            yield shard, None
            continue
        if part is None:
            report.missing.append(shard)
        yield shard, part
        report.merged += part is not None
    progress(len(manifest.shards), len(manifest.shards))


class _Merge:
    """Several parts at a time become a commit: what a commit costs, it costs whatever it holds."""

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
        self._names = Places(gallery, catalog, manifest)
        self._placed: dict[Place, Row | None] = {}  # of the next commit; None: a picture whose part is not there
        self._rows: dict[str, int] = {}  # of the contents in it
        self._written = catalog.number("vector_count")  # rows, those of the next commit included

    def take(self, part: Part) -> None:
        """Write what a part holds besides names, and note these for the next commit."""
        placed = dict(zip(self._names.of_part(part), part.rows, strict=True))
        if len(self._placed) + len(placed) > COMMIT_PICTURES or not placed.keys().isdisjoint(self._placed):
            self.commit()
        if self._coded is not None and self.local is not None:
            fresh = {r.hash: r for r in part.rows if r.codes is not None and r.hash and r.hash not in self._coded}
            self.local.append({digest: LocalCodes.from_bytes(row.codes or b"") for digest, row in fresh.items()})
            self._coded.update(fresh)
        first = {row.hash: row.vector for row in reversed(part.rows) if row.vector is not None and row.hash}
        unknown = [digest for digest in reversed(first) if digest not in self._rows]
        self._rows.update(self.catalog.rows_of_hashes(unknown))
        new = [digest for digest in unknown if digest not in self._rows]
        if new:
            chosen = [first[digest] for digest in new]
            whole = chosen == list(range(len(part.vectors)))
            self.store.append(self._written, part.vectors if whole else part.vectors[np.array(chosen)], new)
            self._rows.update(zip(new, range(self._written, self._written + len(new)), strict=True))
            self._written += len(new)
        self._placed.update(placed)  # of two members of one name the later counts, as in a tar

    def wait_for(self, shard: int) -> None:
        """Pictures whose part is not there yet get their ids with the others, in the manifest's order, as in an index run."""
        if self.manifest.kind in ("folder", "files"):
            for place in self._names.of_inputs(self.manifest.shards[shard]):
                self._placed.setdefault(place, None)
            if len(self._placed) > COMMIT_PICTURES:
                self.commit()

    def commit(self) -> None:
        """Note what became of each picture."""
        if not self._placed:
            return
        records = self._names.records(self._placed)
        with self.catalog.writing(), at_rest():
            changed = self._add({place: row for place, row in self._placed.items() if place not in records})
            described = [(row, records[p]) for p, row in self._placed.items() if row is not None and p in records]
            plain = [(row, record) for row, record in described if row.vector is not None and record.row is None]
            rows = self._rows
            self.catalog.set_first_ok(
                (row.size, row.mtime_ns, row.hash or "", row.width, row.height, rows[row.hash or ""], record.id)
                for row, record in plain
            )
            self.report.added += len(plain)
            rest = [(row, record) for row, record in described if row.vector is None or record.row is not None]
            noted = [self._note(row, record) for row, record in rest]
            self.catalog.set_meta("vector_count", self._written)
            if changed or plain or any(noted):
                self.catalog.bump_version()
            self.gallery.describe_roots(self.catalog)
        self._placed, self._rows = {}, {}

    def _add(self, placed: dict[Place, Row | None]) -> bool:
        """Entries for pictures that have none, in order; whether any can be found now."""
        entries: list[Seen] = []
        for (root, path), row in placed.items():
            if self._names.is_out(root, path):
                self.report.stayed_out += row is not None
            elif row is None:
                entries.append(Seen(root, path))
            elif row.vector is None:
                self.report.unreadable += 1
                entries.append(Seen(root, path, row.size, row.mtime_ns, error=row.error))
            else:
                at = self._rows[row.hash or ""]
                entries.append(Seen(root, path, row.size, row.mtime_ns, row.hash, row.width, row.height, None, at))
        added = self.catalog.add_seen(entries)
        self.report.added += added
        return added > 0

    def _note(self, row: Row, record: Record) -> bool:
        """Note what a part says of a picture that the gallery has; whether that changes what can be found."""
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
            row=self._rows[row.hash],
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

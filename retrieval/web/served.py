"""One gallery as it is served: pictures by id, with names that tell nothing of where on the machine they lie."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import ImageError
from retrieval.gallery.answers import QueryResult
from retrieval.gallery.explaining import Explaining
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.selection import ids_below
from retrieval.gallery.store.catalog import Record
from retrieval.gallery.thumbnails import SIDES, ThumbnailCache
from retrieval.models.spec import ModelSpec
from retrieval.web.errors import ApiError, unreadable
from retrieval.web.offers import ALL
from retrieval.web.settings import WebSettings
from retrieval.web.telling import check_upload, judged, shown, told_apart, told_why

MOST_FOLDERS = 500
MOST_TROUBLED = 500
KEYS = "(added by a program)"


class Served:
    """``name`` is what requests call the gallery. Several threads may ask."""

    offers = ALL

    def __init__(self, name: str, gallery: Gallery, settings: WebSettings) -> None:
        self.name, self.gallery, self.settings = name, gallery, settings
        self.explaining = Explaining(gallery)
        self.thumbnails = ThumbnailCache(gallery.folder, gallery.spec.image.exif)
        self._turn = threading.Lock()
        self._ids: tuple[object, npt.NDArray[np.int64]] = (None, np.zeros(0, np.int64))
        self._folders: tuple[object, list[dict[str, Any]]] = (None, [])

    @property
    def spec(self) -> ModelSpec:
        return self.gallery.spec

    @property
    def verdicts(self) -> bool:
        return self.gallery.local is not None

    # -- pictures ------------------------------------------------------------------------------------------------

    def record(self, number: int) -> Record:
        """The catalog's entry. Raises ApiError 404."""
        return self.records([number])[number]

    def records(self, numbers: Sequence[int]) -> dict[int, Record]:
        """Of all of them. Raises ApiError 404 where one is not there."""
        catalog = self.gallery.catalog
        with catalog.reading():
            found = catalog.by_ids([n for n in numbers if 0 <= n < 1 << 62])
        missing = [n for n in numbers if n not in found]
        if missing:
            raise ApiError(404, f"There is no picture {missing[0]} in this gallery.", "no_such_picture")
        return found

    def file(self, record: Record) -> str:
        """Where it lies. Raises ApiError 404 for a picture that a program added, which was not kept."""
        catalog = self.gallery.catalog
        with catalog.reading():
            kinds = {root.id: root.kind for root in catalog.roots()}
            path = self.gallery.namer()(record)
        if kinds.get(record.root) == "keys":
            raise ApiError(404, "This picture was added by a program and is not kept.", "no_file")
        return path

    def thumbnail(self, number: int, side: int) -> bytes:
        """A WebP. Raises ApiError."""
        record = self.record(number)
        path = self.file(record)
        try:
            return self.thumbnails.load(path, record.hash or "", side if side in SIDES else SIDES[0])
        except ImageError as error:
            raise ApiError(404, f"The picture cannot be shown: {error.message}", "unreadable_picture") from error

    def one(self, number: int) -> dict[str, Any]:
        """What is known of a picture. Raises ApiError 404."""
        return self.picture(self.record(number), self.labels(), whole=True)

    def picture(self, record: Record, labels: dict[int, str], *, whole: bool = False) -> dict[str, Any]:
        """What is told of a picture. ``whole``: with what only a single one is asked for."""
        keyed = labels.get(record.root) == KEYS
        place = PurePath(shown(record.path))
        folder = KEYS if keyed else str(PurePath(labels.get(record.root, "")) / place.parent)
        name = str(place) if keyed else place.name
        out: dict[str, Any] = {
            "id": record.id,
            "name": name,
            "folder": folder,
            "path": name if keyed else f"{folder}/{name}",
            "width": record.width,
            "height": record.height,
            "thumbnail": None if keyed else self.address(record),
            "absent": "added by a program: no picture is kept" if keyed else None,
        }
        if whole:
            out |= {
                "bytes": record.size if record.size >= 0 else None,
                "status": record.status,
                "error": record.error,
                "searchable": record.row is not None,
                "file": None if keyed or not self.settings.paths else shown(self.gallery.namer()(record)),
            }
        return out

    def address(self, record: Record) -> str:
        """Of the thumbnail; it changes with the content, so that it may be kept for ever."""
        return f"/api/thumbnails/{record.id}?gallery={self.name}&v={(record.hash or '')[:12]}"

    def labels(self) -> dict[int, str]:
        """What roots are called: the folder's own name, with a number where two have the same."""
        catalog = self.gallery.catalog
        with catalog.reading():
            roots = catalog.roots()
        names = (
            KEYS if root.kind == "keys" else shown(os.path.basename(self.gallery.folder_of(root))) or "files"
            for root in roots
        )
        return dict(zip((root.id for root in roots), told_apart(names), strict=True))

    def below(self, folder: str) -> str:
        """The folder that is meant by a name as it is shown, absolute. Raises ApiError 404 for any that is not indexed."""
        parts = PurePath(folder).parts
        if parts and ".." not in parts and "\0" not in folder:
            catalog = self.gallery.catalog
            with catalog.reading():
                roots = {root.id: self.gallery.folder_of(root) for root in catalog.roots() if root.kind != "keys"}
            labels = self.labels()
            for number, path in roots.items():
                if labels[number] == parts[0]:
                    return os.path.join(path, *parts[1:])
        raise ApiError(404, "There is no such folder in this gallery.", "no_such_folder")

    # -- lists ---------------------------------------------------------------------------------------------------

    def listing(self, after: int, limit: int, under: str | None, offset: int | None = None) -> dict[str, Any]:
        """So many pictures by ascending id, from the first after ``after`` on, or from the place ``offset`` on."""
        ids = self._searchable() if under is None else np.array(ids_below(self.gallery, self.below(under)), np.int64)
        begin = int(np.searchsorted(ids, after, side="right")) if offset is None else min(offset, len(ids))
        wanted = ids[begin : begin + limit].tolist()
        catalog = self.gallery.catalog
        with catalog.reading():
            found = catalog.by_ids(wanted)
        labels = self.labels()
        pictures = [self.picture(found[i], labels) for i in wanted if i in found]
        rest = len(ids) - begin - len(wanted)
        return {"total": len(ids), "pictures": pictures, "next": wanted[-1] if wanted and rest else None}

    def _searchable(self) -> npt.NDArray[np.int64]:
        catalog = self.gallery.catalog
        with self._turn, catalog.reading():
            state = catalog.number("version")
            if self._ids[0] != state:
                self._ids = (state, catalog.searchable()[0])
            return self._ids[1]

    def folders(self) -> list[dict[str, Any]]:
        """Folders with pictures of their own, by name, and how many."""
        catalog, labels = self.gallery.catalog, self.labels()
        with self._turn, catalog.reading():
            state = catalog.number("version")
            if self._folders[0] != state:
                counts: Counter[str] = Counter()
                for record in catalog.records():
                    if record.row is not None and labels.get(record.root) not in (None, KEYS):
                        counts[str(PurePath(labels[record.root]) / PurePath(shown(record.path)).parent)] += 1
                first = sorted(counts.items())[:MOST_FOLDERS]
                self._folders = (state, [{"folder": folder, "pictures": number} for folder, number in first])
            return self._folders[1]

    def stats(self) -> dict[str, Any]:
        """Counts, folders, and what could not be read."""
        gallery, catalog = self.gallery, self.gallery.catalog
        with catalog.reading():
            counts, images, version = catalog.counts(), catalog.searchable_count(), catalog.number("version")
            troubled = catalog.troubled()
        labels = self.labels()
        unreadable = [
            {"id": r.id, "path": self.picture(r, labels)["path"], "reason": r.error or ""}
            for r in troubled[:MOST_TROUBLED]
        ]
        return {
            "gallery": self.name,
            "pictures": images,
            "pending": counts.get("pending", 0),
            "unreadable": len(troubled),
            "unreadable_pictures": unreadable,
            "version": version,
            "model": gallery.spec.name,
            "fingerprint": gallery.spec.fingerprint,
            "verdicts": self.verdicts,
            "offers": sorted(self.offers),
            "folders": self.folders(),
        }

    def count(self) -> int:
        with self.gallery.catalog.reading():
            return self.gallery.catalog.searchable_count()

    def state(self) -> object:
        with self.gallery.catalog.reading():
            return self.gallery.catalog.number("version")

    def sampled(self, count: int) -> tuple[list[dict[str, Any]], npt.NDArray[np.float32], int]:
        """See :class:`retrieval.web.offers.Shown`; chosen by id."""
        catalog = self.gallery.catalog
        with catalog.reading():
            ids = catalog.searchable()[0]
            places = np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int))
            chosen = ids[places].tolist() if len(ids) else []
            found = catalog.by_ids(chosen)
            records = [found[i] for i in chosen if i in found and found[i].row is not None]
            vectors = self.gallery.vectors_of(records) if records else np.zeros((0, self.spec.dim), np.float32)
        labels = self.labels()
        return [self.picture(record, labels) for record in records], vectors, len(ids)

    # -- questions -----------------------------------------------------------------------------------------------

    def question(self, source: bytes | int) -> bytes | str:
        """A picture to ask with: an upload that was checked, or the file of an indexed picture."""
        if isinstance(source, int):
            return self.file(self.record(source))
        check_upload(source, self.spec, self.settings)
        return source

    def search(self, source: bytes | int, k: int, box: Sequence[float] | None, **options: Any) -> dict[str, Any]:
        """By an upload or an indexed picture; ``options`` as :meth:`Gallery.query` has them, ``under`` as it is shown."""
        if options.get("under") is not None:
            options["under"] = self.below(options["under"])
        ranked = self.gallery.rank_by(options.get("rank"), options.get("rerank") is not None)
        if isinstance(source, int) and box is None and self._has_no_file(source):
            vector = self.gallery.vectors_of([self.record(source)])
            matches = self.gallery.search(vector, k, under=options.get("under"), min_score=options.get("min_score"))[0]
            return self.answer(QueryResult("", None, matches), source, "cosine")
        (result,) = self.gallery.answers([self.question(source)], k, box, **options)
        if result.error is not None:  # without the file's name, which is nobody's concern
            if isinstance(source, int):
                raise unreadable(result.error) from result.error
            raise result.error
        return self.answer(result, source if isinstance(source, int) else None, options.get("rerank") or ranked)

    def search_by_vector(
        self, vector: Sequence[float], k: int, under: str | None, min_score: float | None
    ) -> dict[str, Any]:
        """By a descriptor, ranked by the cosine alone."""
        folder = None if under is None else self.below(under)
        matches = self.gallery.search([list(vector)], k, under=folder, min_score=min_score)[0]
        return self.answer(QueryResult("", None, matches), None, "cosine")

    def prepare(self) -> None:
        self.explaining.prepare()

    def _has_no_file(self, number: int) -> bool:
        record = self.record(number)
        return record.row is not None and self.labels().get(record.root) == KEYS

    def answer(self, result: QueryResult, asked: int | None, ranked: str) -> dict[str, Any]:
        """A ranking as JSON has it."""
        with self.gallery.catalog.reading():
            records = self.gallery.catalog.by_ids([match.id for match in result.matches])
        labels = self.labels()
        return {
            "gallery": self.name,
            "model": self.gallery.spec.fingerprint,
            "query": {"id": asked, "box": None if result.bbox is None else list(result.bbox)},
            "ranked_by": ranked,
            "found": result.found,
            "filtered": result.filtered,
            "results": [
                {**self.picture(records[match.id], labels), **judged(match)}
                for match in result.matches
                if match.id in records
            ],
        }

    def why(self, source: bytes | int, number: int, box: Sequence[float] | None, heads: bool) -> dict[str, Any]:
        """The terms of both pictures' cells and the points that agree."""
        self.file(self.record(number))
        try:
            found = self.explaining.explain(self.question(source), number, box)
        except ImageError as error:
            if isinstance(source, int):
                raise unreadable(error) from error
            raise

        return told_why(found, heads)

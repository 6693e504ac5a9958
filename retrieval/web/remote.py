"""A gallery that a server keeps (PostgreSQL, Milvus), as it is shown here: pictures by id, and their files where these are here.

A picture is shown where its name in the gallery is a file of this machine *and* that file still has the content hash that the
gallery lists: who writes into the gallery can make nothing seen but what he knew the hash of.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.backends.base import Seen, before_id, id_of
from retrieval.backends.served import ServedGallery
from retrieval.errors import ImageError
from retrieval.gallery.answers import QueryResult
from retrieval.gallery.explaining import PairExplaining
from retrieval.gallery.thumbnails import SIDES, encoded
from retrieval.models.spec import ModelSpec
from retrieval.pictures.content import read_content
from retrieval.pictures.imaging import load_picture
from retrieval.web.connections import Connections
from retrieval.web.errors import ApiError
from retrieval.web.held import HeldThumbnails
from retrieval.web.names import Names, local_path
from retrieval.web.offers import refused
from retrieval.web.settings import WebSettings
from retrieval.web.telling import check_upload, judged, told_why

MOST_NAMES = 50_000  # that are looked through for folders
_FRESH = 30.0  # seconds in which folders and counts of folders are not looked up again


class Remote:
    """See :class:`retrieval.web.offers.Shown`. What ``ServedGallery`` cannot do is refused as "not_offered"."""

    offers = frozenset({"map", "why", "exclude_self"})

    def __init__(self, name: str, gallery: ServedGallery, settings: WebSettings) -> None:
        self.name, self.settings = name, settings
        self.connections = Connections(gallery)
        self.spec: ModelSpec = gallery.spec
        self.model = gallery.model
        self.pairs = PairExplaining(gallery.model)
        self.verdicts = gallery.local is not None
        self._thumbnails = HeldThumbnails()
        self._turn = threading.Lock()  # for folders, which are kept a while
        self._folders: tuple[int, float, list[dict[str, Any]]] = (-1, 0.0, [])

    # -- pictures ------------------------------------------------------------------------------------------------

    def entry(self, number: int) -> tuple[str, Seen]:
        """The name of the picture with this id, and what is known of it. Raises ApiError 404."""

        def look(gallery: ServedGallery) -> tuple[str, Seen] | None:
            if not 0 <= number < 1 << 53:
                return None
            for name in gallery.backend.page(before_id(number), 1):
                if id_of(name) == number and (seen := gallery.backend.seen([name])):
                    return name, seen[name]
            return None

        found = self.connections.ask(look)
        if found is None:
            raise ApiError(404, f"There is no picture {number} in this gallery.", "no_such_picture")
        return found

    def content(self, number: int) -> bytes | str:
        """A picture's file as it was when it was taken in: bytes, or its path where it is very large. Raises ApiError 404."""
        name, seen = self.entry(number)
        path = local_path(name)
        if path is None:
            raise _unreachable()
        try:
            data, digest = read_content(path)
        except ImageError as error:
            raise _unreachable() from error
        if digest != seen.hash:
            raise _unreachable()
        return data

    def thumbnail(self, number: int, side: int) -> bytes:
        """A WebP. Raises ApiError."""
        _, seen = self.entry(number)
        if side == SIDES[0] and (held := self._thumbnails.get(seen.hash)):
            return held
        try:
            made = encoded(load_picture(self.content(number), size=side, exif=self.spec.image.exif).array)
        except ImageError as error:
            raise _unreachable() from error
        if side == SIDES[0]:
            self._thumbnails.keep(seen.hash, made)
        return made

    def one(self, number: int) -> dict[str, Any]:
        """What is known of a picture. Raises ApiError 404."""
        name, seen = self.entry(number)
        names = self._names()
        return {
            **self._told(name, seen, names),
            "bytes": seen.size if seen.size >= 0 else None,
            "status": "ok",
            "error": None,
            "searchable": True,
            "file": names.whole(name) if self.settings.paths else None,
        }

    def _told(self, name: str, seen: Seen | None, names: Names) -> dict[str, Any]:
        folder, last = names.place(name)
        here = local_path(name) is not None
        number, version = id_of(name), (seen.hash if seen else "")[:12]
        return {
            "id": number,
            "name": last,
            "folder": folder,
            "path": f"{folder}/{last}",
            "width": seen.width if seen else None,
            "height": seen.height if seen else None,
            "thumbnail": f"/api/thumbnails/{number}?gallery={self.name}&v={version}" if here else None,
            "absent": None if here else "not on this machine",
        }

    def _names(self) -> Names:
        return Names(self.connections.ask(lambda gallery: list(gallery.backend.description.get("roots", []))))

    # -- lists ---------------------------------------------------------------------------------------------------

    def count(self) -> int:
        return self.connections.ask(len)

    def state(self) -> object:
        """Its count; that a picture was replaced is noticed within ten minutes."""
        return self.count(), time.monotonic() // 600

    def listing(self, after: int, limit: int, under: str | None, offset: int | None = None) -> dict[str, Any]:
        """So many pictures by ascending id, from the first after ``after`` on; never by ``offset``, which is not offered."""
        names = self._names()
        below = None if under is None else names.below(under)

        def look(gallery: ServedGallery) -> tuple[list[str], dict[str, Seen], int]:
            first = before_id(max(after, -1) + 1)
            found = gallery.backend.page(first, limit + 1, below)
            return found, gallery.backend.seen(found[:limit]), gallery.backend.count(below)

        found, seen, total = self.connections.ask(look)
        wanted = found[:limit]
        return {
            "total": total,
            "pictures": [self._told(name, seen.get(name), names) for name in wanted],
            "next": id_of(wanted[-1]) if len(found) > limit else None,
        }

    def stats(self) -> dict[str, Any]:
        """Counts and folders."""
        count = self.count()
        return {
            "gallery": self.name,
            "pictures": count,
            "pending": None,
            "unreadable": None,
            "unreadable_pictures": [],
            "version": count,
            "model": self.spec.name,
            "fingerprint": self.spec.fingerprint,
            "verdicts": self.verdicts,
            "offers": sorted(self.offers),
            "folders": self._listed(count),
        }

    def _listed(self, count: int) -> list[dict[str, Any]]:
        """Folders with pictures of their own; of a large gallery those that were taken in alone."""
        with self._turn:
            known, since, folders = self._folders
        if known == count and time.monotonic() - since < _FRESH:
            return folders
        names = self._names()

        def look(gallery: ServedGallery) -> list[tuple[str, int]]:
            if count > MOST_NAMES:
                return [(label, gallery.backend.count(root.rstrip("/"))) for root, label in names.roots]
            counts = Counter(names.place(name)[0] for name in gallery.backend.names() if names.rooted(name))
            return sorted(counts.items())[:500]

        folders = [{"folder": folder, "pictures": number} for folder, number in self.connections.ask(look) if number]
        with self._turn:
            self._folders = (count, time.monotonic(), folders)
        return folders

    def sampled(self, count: int) -> tuple[list[dict[str, Any]], npt.NDArray[np.float32], int]:
        """See :class:`retrieval.web.offers.Shown`; chosen by the hashes of names, as the engine has them."""
        names = self._names()

        def look(gallery: ServedGallery) -> tuple[list[dict[str, Any]], npt.NDArray[np.float32], int]:
            found = gallery.backend.sample(count)
            seen = gallery.backend.seen(found.names)
            return [self._told(name, seen.get(name), names) for name in found.names], found.vectors, len(gallery)

        return self.connections.ask(look)

    # -- questions -----------------------------------------------------------------------------------------------

    def search(self, source: bytes | int, k: int, box: Sequence[float] | None, **options: Any) -> dict[str, Any]:
        """By an upload or a picture of the gallery: by its stored descriptor, or by its file where a box of it is meant."""
        for what in ("rerank", "fold", "min_probability"):
            if options.get(what) not in (None, False):
                raise refused(self.name, what)
        if options.get("rank") not in (None, "cosine"):
            raise refused(self.name, "rank")
        names, under, least = self._names(), options.get("under"), options.get("min_score")
        below = None if under is None else names.below(under)
        asked = source if isinstance(source, int) else None
        others = bool(options.get("exclude_self"))
        if isinstance(source, int) and box is None:
            name, own = self.entry(source)
            entries = self.connections.ask(lambda gallery: gallery.backend.entries([name]))
            if not entries:  # taken out meanwhile
                raise ApiError(404, f"There is no picture {source} in this gallery.", "no_such_picture")
            return self._by(entries[0].vector, k, below, least, names, asked, own.hash if others else None)
        if isinstance(source, int):
            picture = self.content(source)
        else:
            check_upload(source, self.spec, self.settings)
            picture = source
        result = self.connections.ask(
            lambda gallery: next(gallery.answers([picture], k, box, under=below, min_score=least, exclude_self=others))
        )
        if result.error is not None:
            raise result.error
        return self._answer(result, names, asked)

    def search_by_vector(
        self, vector: Sequence[float], k: int, under: str | None, min_score: float | None
    ) -> dict[str, Any]:
        """By a descriptor of unit length."""
        names = self._names()
        below = None if under is None else names.below(under)
        return self._by(np.asarray(vector, np.float32), k, below, min_score, names, None)

    def _by(
        self,
        vector: npt.NDArray[np.float32],
        k: int,
        below: str | None,
        least: float | None,
        names: Names,
        asked: int | None,
        without: str | None = None,
    ) -> dict[str, Any]:
        matches = self.connections.ask(lambda gallery: gallery.search(vector[None], k, under=below, without=without)[0])
        kept = [match for match in matches if least is None or match.score >= least]
        return self._answer(QueryResult("", None, kept, filtered=len(matches) - len(kept)), names, asked)

    def _answer(self, result: QueryResult, names: Names, asked: int | None) -> dict[str, Any]:
        stored = {match.id: names.stored(match) for match in result.matches}
        seen = self.connections.ask(lambda gallery: gallery.backend.seen(list(stored.values())))
        return {
            "gallery": self.name,
            "model": self.spec.fingerprint,
            "query": {"id": asked, "box": None if result.bbox is None else list(result.bbox)},
            "ranked_by": "cosine",
            "found": result.found,
            "filtered": result.filtered,
            "results": [
                {**self._told(stored[match.id], seen.get(stored[match.id]), names), **judged(match)}
                for match in result.matches
            ],
        }

    def why(self, source: bytes | int, number: int, box: Sequence[float] | None, heads: bool) -> dict[str, Any]:
        """The terms of both pictures' cells, where the files of both are at hand."""
        theirs = self.content(number)
        if isinstance(source, int):
            picture = self.content(source)
        else:
            check_upload(source, self.spec, self.settings)
            picture = source
        ours = self.model.load(picture, box)
        try:
            return told_why(self.pairs.explain(ours, self.model.load(theirs)), heads)
        except ImageError as error:
            raise _unreachable() from error

    def prepare(self) -> None:
        self.pairs.prepare()


def _unreachable() -> ApiError:
    """In one sentence for all reasons: who writes into the gallery need not learn which files there are on this machine."""
    told = "The picture is not reachable: its file is not on this machine, or is not the one that was taken in."
    return ApiError(404, told, "picture_not_reachable")

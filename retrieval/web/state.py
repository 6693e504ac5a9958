"""What all requests share: the galleries, the workers, the counters."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from retrieval.gallery.gallery import Gallery
from retrieval.messages import first_line, log
from retrieval.web.copies import CopiesSearch
from retrieval.web.errors import ApiError
from retrieval.web.metrics import Metrics
from retrieval.web.served import Served, shown
from retrieval.web.settings import WebSettings
from retrieval.web.uploads import Uploads
from retrieval.web.work import Workers

_PAGE_FIRST = 1.0  # seconds in which the page that was asked for gets its pictures
Gauges = list[tuple[str, str, list[tuple[dict[str, str], float]]]]


class WebState:
    """Made in the running event loop; ``galleries`` by the names that requests use, the first is the default."""

    def __init__(self, galleries: Sequence[Gallery], settings: WebSettings) -> None:
        self.settings = settings
        limits = settings.limits
        self.galleries: dict[str, Served] = {}
        for gallery in galleries:
            name = self._name(gallery)
            self.galleries[name] = Served(name, gallery, settings)
        self.copies = {name: CopiesSearch(served) for name, served in self.galleries.items()}
        self.searches = Workers("searches", limits.searches, limits.waiting, limits.seconds)
        self.thumbnails = Workers("thumbnails", limits.thumbnails, 4 * limits.waiting, limits.seconds)
        self.light = Workers("light", 4, limits.waiting, limits.seconds)
        self.uploads = Uploads(limits)
        self.metrics = Metrics()
        self._warming: dict[str, threading.Timer] = {}

    def warm(self, name: str | None) -> None:
        """Soon, in a thread of its own, load what explains matches of this gallery: somebody has opened the page."""
        served = self.galleries.get(name or next(iter(self.galleries), ""))
        if served is None or served.name in self._warming:
            return

        def load() -> None:
            try:
                served.explaining.prepare()
            except Exception as error:  # whoever asks why is told
                log.info("what explains matches in %s could not be loaded: %s", served.name, first_line(error))

        timer = self._warming[served.name] = threading.Timer(_PAGE_FIRST, load)
        timer.daemon = True
        timer.start()

    def _name(self, gallery: Gallery) -> str:
        """The name of the folder that holds the gallery, or its own where it is not the usual one; in letters for addresses."""
        folder = gallery.folder.resolve()
        text = shown(folder.parent.name if folder.name.startswith(".") else folder.name)
        base = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in text).strip("-.") or "gallery"
        name, number = base, 2
        while name in self.galleries:
            name, number = f"{base}-{number}", number + 1
        return name

    def served(self, name: str | None) -> Served:
        """Raises ApiError 404."""
        if not name:
            return next(iter(self.galleries.values()))
        if name not in self.galleries:
            raise ApiError(404, "There is no gallery of this name.", "no_such_gallery")
        return self.galleries[name]

    def gauges(self) -> Gauges:
        """What Prometheus is told beside the counters."""
        workers = (self.searches, self.thumbnails, self.light)
        pictures = []
        for name, served in self.galleries.items():
            with served.gallery.catalog.reading():
                pictures.append(({"gallery": name}, float(served.gallery.catalog.searchable_count())))
        return [
            ("retrieve_pictures", "Pictures that can be searched.", pictures),
            ("retrieve_working", "Requests being worked on.", [({"pool": w.name}, float(w.working)) for w in workers]),
            ("retrieve_waiting", "Requests that wait.", [({"pool": w.name}, float(w.waiting)) for w in workers]),
            ("retrieve_uploads", "Uploads in memory.", [({}, float(self.uploads.now))]),
        ]

    def close(self) -> None:
        for timer in self._warming.values():
            timer.cancel()
        for workers in (self.searches, self.thumbnails, self.light):
            workers.close()

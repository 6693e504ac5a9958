"""What all requests share: the galleries, the workers, the counters."""

from __future__ import annotations

import threading
import urllib.parse
from collections.abc import Sequence

from retrieval.backends.served import ServedGallery
from retrieval.gallery.gallery import Gallery
from retrieval.messages import first_line, log
from retrieval.web.copies import CopiesSearch
from retrieval.web.errors import ApiError
from retrieval.web.maps import MapKeeper
from retrieval.web.metrics import Metrics
from retrieval.web.offers import Shown, require
from retrieval.web.remote import Remote
from retrieval.web.served import Served
from retrieval.web.settings import WebSettings
from retrieval.web.telling import shown
from retrieval.web.uploads import Uploads
from retrieval.web.work import Workers

_PAGE_FIRST = 1.0  # seconds in which the page that was asked for gets its pictures
Gauges = list[tuple[str, str, list[tuple[dict[str, str], float]]]]


class WebState:
    """Made in the running event loop; ``galleries`` by the names that requests use, the first is the default."""

    def __init__(self, galleries: Sequence[Gallery | ServedGallery], settings: WebSettings) -> None:
        self.settings = settings
        limits = settings.limits
        self.galleries: dict[str, Shown] = {}
        self._copies: dict[str, CopiesSearch] = {}
        self._remote: list[Remote] = []
        for gallery in galleries:
            name = self._name(gallery)
            if isinstance(gallery, ServedGallery):
                self._remote.append(Remote(name, gallery, settings))
                self.galleries[name] = self._remote[-1]
            else:
                served = Served(name, gallery, settings)
                self.galleries[name], self._copies[name] = served, CopiesSearch(served)
        self._maps = {name: MapKeeper(served) for name, served in self.galleries.items()}
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
                served.prepare()
            except Exception as error:  # whoever asks why is told
                log().info("what explains matches in %s could not be loaded: %s", served.name, first_line(error))

        timer = self._warming[served.name] = threading.Timer(_PAGE_FIRST, load)
        timer.daemon = True
        timer.start()

    def _name(self, gallery: Gallery | ServedGallery) -> str:
        """The name of the folder that holds the gallery, or its own where it is not the usual one; in letters for addresses."""
        if isinstance(gallery, ServedGallery):
            text = urllib.parse.urlsplit(gallery.folder).path.rpartition("/")[2]
        else:
            folder = gallery.folder.resolve()
            text = shown(folder.parent.name if folder.name.startswith(".") else folder.name)
        base = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in text).strip("-.") or "gallery"
        name, number = base, 2
        while name in self.galleries:
            name, number = f"{base}-{number}", number + 1
        return name

    def served(self, name: str | None) -> Shown:
        """Raises ApiError 404."""
        if not name:
            return next(iter(self.galleries.values()))
        if name not in self.galleries:
            raise ApiError(404, "There is no gallery of this name.", "no_such_gallery")
        return self.galleries[name]

    def copies(self, name: str | None) -> CopiesSearch:
        """Raises ApiError 404, and 422 for a gallery that offers no search for duplicates."""
        served = self.served(name)
        require(served, "duplicates")
        return self._copies[served.name]

    def map(self, name: str | None) -> MapKeeper:
        """Raises ApiError 404, and 422 for a gallery that offers no map."""
        served = self.served(name)
        require(served, "map")
        return self._maps[served.name]

    def gauges(self) -> Gauges:
        """What Prometheus is told beside the counters."""
        workers = (self.searches, self.thumbnails, self.light)
        pictures = [({"gallery": name}, float(served.count())) for name, served in self.galleries.items()]
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
        for remote in self._remote:
            remote.connections.close()

"""Pixels and points of the pictures that are compared, loaded when they are needed; the last few are held."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from retrieval.errors import ImageError
from retrieval.gallery.duplicates.items import Item
from retrieval.gallery.duplicates.thumbnails import Thumbnail, Thumbnails
from retrieval.gallery.local_features import SIFT, LocalMatcher
from retrieval.gallery.opened import OpenedGallery
from retrieval.ranking.geometry import LocalFeatures


def matcher_of(gallery: OpenedGallery) -> LocalMatcher[LocalFeatures]:
    """Points of files, kept in this gallery."""
    return LocalMatcher(gallery.folder, lambda _: ("", None), kind=SIFT, exif=gallery.spec.image.exif)


T = TypeVar("T")
_THUMBNAILS, _POINTS = 4096, 512  # held: some 100 MB


class _Held(Generic[T]):
    """The last values of a function of a number, for several threads."""

    def __init__(self, compute: Callable[[int], T], most: int) -> None:
        self.compute, self.most = compute, most
        self.values: OrderedDict[int, T] = OrderedDict()
        self.turn = threading.Lock()

    def __call__(self, key: int) -> T:
        with self.turn:
            if key in self.values:
                self.values.move_to_end(key)
                return self.values[key]
        value = self.compute(key)
        with self.turn:
            self.values[key] = value
            while len(self.values) > self.most:
                self.values.popitem(last=False)
        return value


class Looks:
    """Of contents, each held by one or more items: ``thumbnail(i)`` and ``points(i)``, None where no file of it can be read.
    ``unread``: name -> why, of the files that were tried."""

    def __init__(
        self,
        contents: list[list[Item]],
        thumbnails: Mapping[str, Thumbnails],
        matchers: Mapping[str, LocalMatcher[LocalFeatures]],
    ) -> None:
        self.contents, self._thumbnails, self._matchers = contents, thumbnails, matchers
        self.unread: dict[str, str] = {}
        self._missed: set[int] = set()  # contents of which pixels or points were looked for in vain
        self.thumbnail = _Held(self._thumbnail, _THUMBNAILS)
        self.points = _Held(self._points, _POINTS)

    @classmethod
    def of_gallery(cls, gallery: OpenedGallery, contents: list[list[Item]]) -> Looks:
        """Of contents that one gallery holds, to which more may be added."""
        exif = gallery.spec.image.exif
        return cls(contents, {"gallery": Thumbnails(gallery.folder, exif)}, {"gallery": matcher_of(gallery)})

    def seen(self, i: int) -> bool:
        """Whether all that was looked for of a content was there, and was of that content: not where no file could be read, nor
        where one was replaced since it was indexed. What is found of the others may be otherwise another time."""
        changed = [kept.changed for kept in self._thumbnails.values()]
        changed += [kept.changed for kept in self._matchers.values()]
        return i not in self._missed and not any(self.contents[i][0].digest in some for some in changed)

    def _thumbnail(self, i: int) -> Thumbnail | None:
        for item in self.contents[i]:
            if item.path and item.name not in self.unread:
                try:
                    return self._thumbnails[item.kept].load(item.path, item.digest)
                except ImageError as error:
                    self.unread[item.name] = str(error)
        self._missed.add(i)
        return None

    def _points(self, i: int) -> LocalFeatures | None:
        for item in self.contents[i]:
            if item.path and item.name not in self.unread:
                # Points of files that are in no gallery are not kept in one.
                found = self._matchers[item.kept].features(item.path, item.digest, keep=item.kept != "file")
                if found is not None:
                    return found
        self._missed.add(i)
        return None

"""Names of a served gallery as the page shows them: below the folder that was taken in, which is called by its own name alone."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Sequence
from pathlib import PurePath

from retrieval.backends.base import id_of
from retrieval.backends.names import storable
from retrieval.gallery.address import shown as without_secrets
from retrieval.gallery.answers import Match
from retrieval.web.errors import ApiError
from retrieval.web.telling import shown, told_apart

ELSEWHERE = "(elsewhere)"


class Names:
    """``roots``: the places that were taken in, each with what it is called; paths or URIs."""

    def __init__(self, places: Sequence[str]) -> None:
        labels = told_apart(shown(PurePath(_path(place)).name) or "files" for place in places)
        self.roots = list(zip(places, labels, strict=True))
        self._nearest = sorted(self.roots, key=lambda root: -len(root[0]))  # of two that hold a picture, the inner

    def rooted(self, name: str) -> bool:
        """Whether a name lies in one of the places."""
        return self._below(name) is not None

    def place(self, name: str) -> tuple[str, str]:
        """Folder and name of a picture, as they are shown."""
        found = self._below(name)
        if found is None:
            return ELSEWHERE, shown(PurePath(_path(name)).name) or "picture"
        label, rest = found
        inside = PurePath(shown(rest))
        return str(PurePath(label) / inside.parent), inside.name

    def _below(self, name: str) -> tuple[str, str] | None:
        path = local_path(name) or name
        for root, label in self._nearest:
            start = (local_path(root) or root).rstrip("/") + "/"
            if path.startswith(start) and len(path) > len(start):
                return label, path[len(start) :].partition("?")[0] if "://" in path else path[len(start) :]
        return None

    def whole(self, name: str) -> str:
        """Where a picture lies, for who sits at this machine; without passwords."""
        path = local_path(name)
        return without_secrets(name) if path is None and "://" in name else shown(path or name)

    def below(self, folder: str) -> str:
        """The stored name of a folder as it is shown. Raises ApiError 404 for one in none of the places."""
        parts = PurePath(folder).parts
        if parts and ".." not in parts and "\0" not in folder:
            for root, label in self.roots:
                if label == parts[0]:
                    return "/".join((root.rstrip("/"), *parts[1:]))
        raise ApiError(404, "There is no such folder in this gallery.", "no_such_folder")

    @staticmethod
    def stored(match: Match) -> str:
        """The name in the gallery of a match, whose ``path`` is as a person would read it."""
        if "://" not in match.path and not os.path.isabs(match.path):
            absolute = storable(os.path.abspath(match.path))
            if id_of(absolute) == match.id:
                return absolute
        return match.path


def local_path(name: str) -> str | None:
    """The path on this machine that a name in a gallery is; None for what lies elsewhere."""
    if name.startswith("file://"):
        parts = urllib.parse.urlsplit(name)
        path = os.fsdecode(urllib.parse.unquote_to_bytes(parts.path))
        return path if parts.netloc in ("", "localhost") and os.path.isabs(path) else None
    return name if os.path.isabs(name) else None


def _path(name: str) -> str:
    """The part of a name that is made of folders."""
    return local_path(name) or (urllib.parse.urlsplit(name).path if "://" in name else name)

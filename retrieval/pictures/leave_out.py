"""Which files and folders are passed over: what other programs leave behind, and what the user says.

A pattern without a slash is compared with every part of a path (``drafts``, ``*_thumb.jpg``), one with a slash with the whole
of it, relative to the folder that is indexed (``2019/raw/*``) or from the root of the disk. Shell wildcards, capitals matter.
"""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Sequence

from retrieval.files.paths import composed

LEFT_BEHIND = frozenset(
    {
        "@eadir",  # Synology: previews
        "@recycle",
        "#recycle",
        "@recently-snapshot",
        "#snapshot",
        "@tmp",
        "$recycle.bin",  # Windows
        "recycler",
        "system volume information",
        "lost+found",
        "__macosx",  # left by archives
        "thumbnails.db",
    }
)
"""Folders that NAS boxes and systems keep for themselves, in lower case. Names that begin with a dot are passed over anyway."""
_ENDINGS = (".lrdata", ".lrcat-data", ".cocatalog")  # of photo programs: previews
MARKER = ".nomedia"
"""A folder that holds a file of this name is passed over, with all below it."""


class LeaveOut:
    """Whether something is passed over, by ``patterns`` (see above) and what other programs leave behind. ``folder``: the
    absolute one that is indexed, to which paths are relative."""

    def __init__(self, patterns: Sequence[str] = (), folder: str = "") -> None:
        self.folder = composed(folder)
        self.patterns = tuple(composed(pattern.strip("/")) for pattern in patterns if pattern.strip("/"))

    def __call__(self, relative: str, name: str, *, folder: bool) -> bool:
        if folder and (name.lower() in LEFT_BEHIND or name.lower().endswith(_ENDINGS)):
            return True
        if not self.patterns:
            return False
        name, relative = composed(name), composed(relative)
        whole = os.path.join(self.folder, relative).lstrip("/")
        return any(
            fnmatch.fnmatchcase(relative, p) or fnmatch.fnmatchcase(whole, p)
            if "/" in p
            else fnmatch.fnmatchcase(name, p)
            for p in self.patterns
        )

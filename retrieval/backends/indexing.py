"""Bringing a served gallery in line with folders: new and changed pictures are described, vanished ones taken out.

What is known of a file are its size and its time, as in parts. What cannot be read is told and tried again by the next run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from retrieval.backends.base import Entry, Seen
from retrieval.backends.names import storable
from retrieval.backends.served import ServedGallery
from retrieval.errors import UsageError
from retrieval.files.paths import show_path
from retrieval.messages import Update, no_update
from retrieval.parts.items import Item, local_file
from retrieval.parts.places import local_uri
from retrieval.parts.shards import describe_items
from retrieval.pictures.scan import Found, Scan, walk

_AT_ONCE = 512  # pictures described between two writes: what a kill loses


@dataclass
class ServedSync:
    """In pictures. ``troubles``: why one could not be read, by path; ``warnings``: what was left as it is."""

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    troubles: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def index_folders(gallery: ServedGallery, folders: Sequence[str] = (), *, progress: Update = no_update) -> ServedSync:
    """Without ``folders``: those that were indexed or described before and lie on this machine. ``progress(done, total)`` counts
    pictures. Raises UsageError for what is no folder, GalleryError."""
    report = ServedSync()
    named = [os.path.abspath(folder) for folder in folders] or _known(gallery)
    for folder in named:
        if not os.path.isdir(folder):
            raise UsageError(f"{show_path(folder)} is no folder", "A served gallery takes in folders, and parts.")
    for folder in named:
        gallery.remember(folder)
        scan = walk(folder)
        _take_in(gallery, folder, scan, report, progress)
        _drop_vanished(gallery, folder, scan, report)
    gallery.backend.settle()
    return report


def _known(gallery: ServedGallery) -> list[str]:
    roots = [root for root in gallery.backend.description.get("roots", []) if os.path.isabs(root)]
    if not roots:
        raise UsageError("no folder was named, and none is known", "Example: retrieve index ./images.")
    return roots


def _take_in(gallery: ServedGallery, folder: str, scan: Scan, report: ServedSync, progress: Update) -> None:
    done = 0
    for begin in range(0, len(scan.files), _AT_ONCE):
        files = scan.files[begin : begin + _AT_ONCE]
        wanted = list(_wanted(gallery, folder, files, report))
        known = {name: seen.hash for _, name, seen in wanted if seen is not None}
        names = {item.file: name for item, name, _ in wanted}
        new: list[Entry] = []
        for item in describe_items([item for item, _, _ in wanted], gallery.model):
            name = names[item.file]
            if item.vector is None:
                report.troubles[item.file] = item.error or "it could not be described"
                continue
            report.added += name not in known
            report.changed += name in known and known[name] != item.digest
            report.unchanged += (
                known.get(name) == item.digest
            )  # only its time was another one, or too young to be sure of
            new.append(Entry(name, item.digest, item.size, item.mtime_ns, item.width, item.height, item.vector))
        if new:
            gallery.backend.upsert(new)
        done += len(files)
        progress(done, len(scan.files))


def _wanted(
    gallery: ServedGallery, folder: str, files: Sequence[Found], report: ServedSync
) -> Iterator[tuple[Item, str, Seen | None]]:
    """What is to be described: its name in the gallery, and what that knows of it."""
    paths = {storable(os.path.join(folder, found.path)): found for found in files}
    seen = gallery.backend.seen(list(paths))
    longest = gallery.backend.longest_name
    for name, found in paths.items():
        path = os.path.join(folder, found.path)
        known = seen.get(name)
        if found.problem is not None:
            report.troubles[path] = found.problem
        elif known is not None and (known.size, known.mtime_ns) == (found.size, found.mtime_ns):
            report.unchanged += 1
        elif longest is not None and len(name.encode()) > longest:
            report.troubles[path] = f"its name is longer than {longest} bytes, which this engine takes"
        else:
            yield local_file(name, local_uri(path), path), name, known


def _drop_vanished(gallery: ServedGallery, folder: str, scan: Scan, report: ServedSync) -> None:
    """Take out what is no longer there. A folder that is suddenly empty, or cannot be listed, loses nothing."""
    found = [found.path for found in scan.files]
    there = {storable(os.path.join(folder, name)) for name in (*found, *scan.unopened)}
    stored = {name for place in (folder, local_uri(folder)) for name in gallery.backend.names(place)}
    away = [os.path.join(folder, name) for name in (*scan.unreadable, *scan.away)]
    unsure = [start for path in away for start in (f"{path}/", f"{local_uri(path)}/")]
    vanished = [name for name in stored - there if not name.startswith(tuple(unsure))]
    for path in away:
        report.warnings.append(f"{show_path(path)} is empty or cannot be listed: what was found in it stays")
    if vanished and not there:
        report.warnings.append(f"{show_path(folder)} holds no pictures any more: what was found in it stays")
        return
    gallery.backend.delete(vanished)
    report.removed += len(vanished)

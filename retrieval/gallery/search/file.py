"""The search index on disk: a plain FAISS file and a note beside it. Both are derived and may be deleted at any time.

``ann/VERSION.faiss`` holds the vectors of one state of the catalog under the catalog's ids; ``ann/VERSION.json`` says which
state, and how to search the file well. Later changes are in the catalog's log (see ``LogState``).
The note is written before the file, the log is shortened after it, and older files go last: at every moment a reader finds
a file with its note and the changes since, or searches the vectors themselves.
Both carry hashes: a damaged one is named and never answers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from retrieval.errors import GalleryError
from retrieval.files.digest import file_sha256
from retrieval.files.whole import sync_folder, whole_file, write_json
from retrieval.gallery.search import intact
from retrieval.gallery.search import kind as ann_kind
from retrieval.gallery.search.intact import damaged
from retrieval.gallery.store.catalog import LogState
from retrieval.messages import first_line

FORMAT = 2  # since the first, both files carry hashes


@dataclass(frozen=True)
class IndexNote:
    """What is known of a search index.

    ``identity``, ``version``, ``seq``: the catalog, its version, and the newest change in its log that the file holds.
    ``requested``: the kind asked for (``auto`` ...), ``kind`` and ``factory`` what was made of it; ``instead`` of which kind,
    where that one did not find what it must. ``count``: vectors in the file, ``trained``: vectors there were at the last
    training, ``bytes`` and ``sha256``: the file's size and content. ``effort`` (lists or graph nodes looked at) and
    ``shortlist`` (candidates that are scored again) were chosen for the recall ``target`` among the first 10 when there were
    ``measured`` vectors; ``reached``: whether they suffice. ``recall`` and ``milliseconds`` (one query, candidates and exact
    scores) are what was measured then, over ``queries`` queries that are no members. None where the kind has no such figure.
    ``seconds``: to build the file, and of these ``seconds_measuring`` to choose how to search it.
    """

    identity: str
    version: int
    seq: int
    requested: str
    kind: str
    factory: str
    dim: int
    count: int
    trained: int
    bytes: int
    sha256: str
    target: float
    effort: int | None
    shortlist: int
    recall: float | None
    milliseconds: float | None
    queries: int
    measured: int
    seconds: float
    seconds_measuring: float
    reached: bool = True
    instead: str | None = None


def index_path(folder: Path, version: int) -> Path:
    return folder / f"{version}.faiss"


def note_path(folder: Path, version: int) -> Path:
    return folder / f"{version}.json"


def find(folder: Path, log: LogState | None) -> IndexNote | None:
    """The newest search index to which the log leads from its state, or None.

    Raises GalleryDamaged, naming the file, when it is not as long as its note says.
    """
    if log is None:
        return None
    for note in _notes(folder):
        path = index_path(folder, note.version)
        try:
            size = path.stat().st_size
        except OSError:  # not written yet, or taken away
            continue
        if note.identity == log.identity and log.start <= note.seq <= log.end:
            if size != note.bytes:
                raise damaged(path, f"{size} bytes, not {note.bytes}")
            return note
    return None


def check(folder: Path, note: IndexNote) -> bool:
    """Whether the file is there, with the content that was written. Raises GalleryDamaged where it has another."""
    path = index_path(folder, note.version)
    try:
        intact.verify(path, note.sha256)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    return True


def read(folder: Path, note: IndexNote, *, mapped: bool = True) -> Any | None:
    """The FAISS index itself: ``mapped`` into memory for searching, else loaded so that it can be changed.

    None when a writer replaced it meanwhile. Raises GalleryDamaged, naming the file, also where its content is not what was
    written: FAISS itself would notice a part of the damages only, and crash at others.
    """
    import faiss

    path = index_path(folder, note.version)
    if not check(folder, note):
        return None
    flags = 0
    if mapped:
        # Inverted lists have a way of their own to stay on the disk; all else is mapped as it lies.
        inverted = note.factory.startswith("IVF") or ",IVF" in note.factory
        flags = faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY if inverted else faiss.IO_FLAG_MMAP_IFC
    try:
        index = faiss.read_index(str(path), flags)
    except RuntimeError as error:
        if not path.is_file():
            return None
        raise damaged(path, faiss_reason(error)) from error
    inner = ann_kind.core(index)
    if mapped and isinstance(inner, faiss.IndexIVF):
        lists: Any = faiss.downcast_InvertedLists(inner.invlists)  # type: ignore[arg-type]
        if isinstance(lists, faiss.OnDiskInvertedLists):
            # Else every query starts 32 threads that touch its lists beforehand: twice the work where they are in memory.
            lists.prefetch_nthread = 0
    if index.d != note.dim or index.ntotal != note.count:
        raise damaged(path, f"{index.ntotal} vectors of {index.d} dimensions, not {note.count} of {note.dim}")
    return index


def write(folder: Path, index: Any, note: IndexNote) -> IndexNote:
    """Write an index and its note, each beside its final name first; returns the note with the file's size.

    Older files are left to :func:`tidy`. Raises GalleryError; the older index is then still there.
    """
    import faiss

    path = index_path(folder, note.version)
    try:
        folder.mkdir(exist_ok=True)
        with whole_file(path) as file:
            faiss.write_index(index, str(file))
            note = replace(note, bytes=file.stat().st_size, sha256=file_sha256(file))
            if path.exists():
                path.unlink()  # never an old file with a new note, after a power cut neither
                sync_folder(folder)
            write_note(folder, note)
            sync_folder(folder)
        intact.remember(path, note.sha256, intact.identity(path))
    except (OSError, RuntimeError) as error:
        raise not_written(path, faiss_reason(error)) from error
    return note


def write_note(folder: Path, note: IndexNote) -> None:
    """Write the note alone: after another measurement of the same file. Raises GalleryError."""
    path = note_path(folder, note.version)
    try:
        write_json(path, {"format": FORMAT, **asdict(note), "check": _check(asdict(note))})
    except OSError as error:
        raise not_written(path, error.strerror or str(error)) from error


def tidy(folder: Path, version: int) -> None:
    """Delete the files of all other versions, and what interrupted runs left."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.suffix in (".faiss", ".json", intact.SUFFIX, ".tmp") and path.stem != str(version):
            path.unlink(missing_ok=True)


def not_written(path: Path, why: str) -> GalleryError:
    return GalleryError(
        f"could not write the search index {path}: {why}",
        "Every picture is committed; search works without it, and the next `retrieve index` writes it.",
    )


def faiss_reason(error: Exception) -> str:
    """FAISS errors carry the C++ source position; a user needs the last sentence only."""
    return (
        first_line(error)
        if isinstance(error, OSError)
        else str(error).strip().splitlines()[-1].split("Error: ")[-1][:200]
    )


def _check(facts: dict[str, Any]) -> str:
    """The note's own hash: with another effort, an index would miss what it promises to find."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _notes(folder: Path) -> Iterator[IndexNote]:
    """All notes that can be read, the newest first."""
    versions = sorted((int(p.stem) for p in folder.glob("*.json") if p.stem.isdigit()), reverse=True)
    for version in versions:
        try:
            data = json.loads(note_path(folder, version).read_text("utf-8"))
            if data.pop("format") == FORMAT and data.pop("check") == _check(data):
                note = IndexNote(**data)
                if note.version == version:
                    yield note
        except (OSError, ValueError, KeyError, TypeError):  # a file without its note is no index: it is written anew
            continue

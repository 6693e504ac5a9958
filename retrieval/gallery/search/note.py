"""What is known of a search index: a note of the whole, with one of each of its shards.

A shard is a FAISS file that holds the pictures of a range of catalog ids as they were at one number in the catalog's log.
Ranges lie one after the other; the pictures behind the last are in no file yet. What changed since is in the log: of a shard's
range all with a later number, behind the last shard all there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from retrieval.errors import GalleryError
from retrieval.files.whole import sync_folder, write_json
from retrieval.gallery.search import intact
from retrieval.gallery.store.catalog import LogState

FORMAT = 3  # shards; 2: one file for all, with its note, which is still read
_ONE_FILE = 2
_OURS = (".faiss", ".json", intact.SUFFIX, ".tmp")


@dataclass(frozen=True)
class ShardNote:
    """What is known of one file, ``NAME.faiss``.

    ``first``, ``last``: its range of ids; ``last`` is None in a file of format 2, which covers all ids there were. ``seq``: the
    newest change in the catalog's log that it holds. ``kind`` and ``factory``: what was made; ``instead`` of which kind, where
    that one could not be had. ``count``: vectors in the file, ``trained``: vectors there were at the last training, ``bytes``
    and ``sha256``: the file's size and content. ``effort`` (lists or graph nodes looked at), ``reach`` (radians, see
    ``lists.py``: up to twice as many lists are looked at, and mostly far fewer) and ``shortlist`` (candidates that are scored
    again) were chosen for the recall ``target`` among the first 10 when there were ``measured`` vectors; ``reached``: whether
    they suffice. ``recall`` and ``milliseconds`` (one query, candidates and exact scores) are what was
    measured then, over ``queries`` queries that are no members. None where the kind has no such figure. ``seconds``: to build
    the file, and of these ``seconds_measuring`` to choose how to search it.
    """

    name: str
    first: int
    last: int | None
    seq: int
    kind: str
    factory: str
    dim: int
    count: int
    trained: int
    target: float
    bytes: int = 0
    sha256: str = ""
    effort: int | None = None
    shortlist: int = 42
    recall: float | None = None
    milliseconds: float | None = None
    queries: int = 0
    measured: int = 0
    seconds: float = 0.0
    seconds_measuring: float = 0.0
    reached: bool = True
    instead: str | None = None
    reach: float | None = None


@dataclass(frozen=True)
class IndexNote:
    """What is known of a search index of one or more ``shards``.

    ``identity``, ``version``, ``seq``: the catalog, its version, and the newest change in its log when this was written.
    ``requested``: the kind asked for (``auto`` ...). ``recall`` among the first 10 and ``milliseconds`` of all shards together
    were measured over ``queries`` queries that are no members, when there were ``measured`` vectors; of one shard they are its
    own.
    """

    identity: str
    version: int
    seq: int
    requested: str
    shards: tuple[ShardNote, ...]
    recall: float | None = None
    milliseconds: float | None = None
    queries: int = 0
    measured: int = 0

    @property
    def _largest(self) -> ShardNote:
        return max(self.shards, key=lambda shard: shard.count)

    @property
    def kind(self) -> str:
        """What was made; of several shards, of the largest. So with the others that have no sum."""
        return self._largest.kind

    @property
    def instead(self) -> str | None:
        return self._largest.instead

    @property
    def factory(self) -> str:
        """In FAISS's words; of several shards those that differ, the largest first."""
        ordered = sorted(self.shards, key=lambda shard: -shard.count)
        return " + ".join(dict.fromkeys(shard.factory for shard in ordered))

    @property
    def dim(self) -> int:
        return self.shards[0].dim

    @property
    def target(self) -> float:
        return self._largest.target

    @property
    def reached(self) -> bool:
        return all(shard.reached for shard in self.shards)

    @property
    def count(self) -> int:
        return sum(shard.count for shard in self.shards)

    @property
    def trained(self) -> int:
        return sum(shard.trained for shard in self.shards)

    @property
    def bytes(self) -> int:
        return sum(shard.bytes for shard in self.shards)

    @property
    def seconds(self) -> float:
        return round(sum(shard.seconds for shard in self.shards), 3)

    @property
    def effort(self) -> int | None:
        """None of several shards: each has its own."""
        return self.shards[0].effort if len(self.shards) == 1 else None

    @property
    def reach(self) -> float | None:
        """The same holds of this."""
        return self.shards[0].reach if len(self.shards) == 1 else None

    @property
    def shortlist(self) -> int:
        """Candidates that are scored again, of all shards."""
        return sum(shard.shortlist for shard in self.shards)

    def spans(self) -> list[tuple[int, int, int | None]]:
        """(number in the log, first id, last id or None) of the changes that the files do not hold: later than that number,
        within these ids."""
        spans = [(shard.seq, shard.first, shard.last) for shard in self.shards]
        last = self.shards[-1].last
        return spans if last is None else [*spans, (0, last + 1, None)]


def note_path(folder: Path, version: int) -> Path:
    return folder / f"{version}.json"


def find(folder: Path, log: LogState | None) -> IndexNote | None:
    """The newest search index to which the log leads from its state, or None. Its files are not looked at."""
    if log is None:
        return None
    notes = (note for note in _notes(folder) if note.identity == log.identity)
    return next((note for note in notes if log.start <= note.seq <= log.end), None)


def write_note(folder: Path, note: IndexNote) -> None:
    """Write a note whose files are there. Raises GalleryError; the older note is then still there."""
    path = note_path(folder, note.version)
    data = asdict(note)
    try:
        write_json(path, {"format": FORMAT, **data, "check": _check(data)})
        sync_folder(folder)
    except OSError as error:
        raise not_written(path, error.strerror or str(error)) from error


def tidy(folder: Path, note: IndexNote) -> None:
    """Delete what belongs to other notes, and what interrupted runs left. When this returns, no power cut brings an older note
    back: the log may be shortened. Raises OSError."""
    kept = {note_path(folder, note.version).name}
    kept |= {f"{shard.name}{suffix}" for shard in note.shards for suffix in (".faiss", intact.SUFFIX)}
    _remove(folder, [p for p in folder.iterdir() if p.suffix in _OURS and p.name not in kept])


def remove_index(folder: Path) -> None:
    """Delete everything. Raises OSError."""
    _remove(folder, list(folder.iterdir()) if folder.is_dir() else [])


def _remove(folder: Path, paths: list[Path]) -> None:
    """The notes first: one whose files are gone would be taken for a loss."""
    for notes in (True, False):
        gone = [path for path in paths if (path.suffix == ".json") == notes]
        for path in gone:
            path.unlink(missing_ok=True)
        if gone:
            sync_folder(folder)


def not_written(path: Path, why: str) -> GalleryError:
    return GalleryError(
        f"could not write the search index {path}: {why}",
        "Every picture is committed; search works without it, and the next `retrieve index` writes it.",
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
            form = data.pop("format")
            if form not in (FORMAT, _ONE_FILE) or data.pop("check") != _check(data):
                continue
            note = _of_one_file(data) if form == _ONE_FILE else _of_shards(data)
            if note.version == version and note.shards and _in_order(note.shards):
                yield note
        except (OSError, ValueError, KeyError, TypeError):  # a file without its note is no index: it is written anew
            continue


def _of_shards(data: dict[str, Any]) -> IndexNote:
    return replace(IndexNote(**data), shards=tuple(ShardNote(**shard) for shard in data["shards"]))


def _of_one_file(data: dict[str, Any]) -> IndexNote:
    own = {field.name for field in fields(ShardNote)}
    shard = ShardNote(name=str(data["version"]), first=0, last=None, **{k: v for k, v in data.items() if k in own})
    return alone(IndexNote(data["identity"], data["version"], data["seq"], data["requested"], (shard,)))


def alone(note: IndexNote) -> IndexNote:
    """The note of a single shard, with that one's figures."""
    (shard,) = note.shards
    return replace(
        note, recall=shard.recall, milliseconds=shard.milliseconds, queries=shard.queries, measured=shard.measured
    )


def _in_order(shards: tuple[ShardNote, ...]) -> bool:
    """Whether ranges follow each other without a gap."""
    return shards[0].first == 0 and all(a.last is not None and b.first == a.last + 1 for a, b in pairwise(shards))

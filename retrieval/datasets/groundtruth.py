"""What is right for each query: the ground truth of a retrieval set, checked, and written as JSON.

Whatever it was read from (``reading.py``), a :class:`GroundTruth` is complete and consistent once it exists; whether the
pictures are there, ``placing.py`` tells. Queries are counted from 0.

Gallery paths are relative to the set's root and stay inside it, so that a set can be moved as a whole. The
picture of a query may lie anywhere (absolute, or with ``..``): one's own query photos often do.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import numpy as np

from retrieval.errors import DatasetError, UsageError
from retrieval.files.whole import whole_file
from retrieval.pictures.replacing import spare_pictures

Box = tuple[float, float, float, float]
Names = Literal["easy", "hard", "junk"]
_LISTS: tuple[Names, ...] = ("easy", "hard", "junk")
_QUERY_FIELDS = {"image", "bbox", *_LISTS}


@dataclass(frozen=True)
class Query:
    """One query: its picture, the box around the object as (x1, y1, x2, y2) in pixels (None: the whole
    picture), and the gallery paths that are right and easy, right and hard, or to be passed over (junk)."""

    image: str
    bbox: Box | None
    easy: tuple[str, ...]
    hard: tuple[str, ...]
    junk: tuple[str, ...]


@dataclass(frozen=True)
class GroundTruth:
    """A set of queries against a gallery; paths are relative to ``root``. Raises DatasetError where it
    contradicts itself.

    ``original`` marks the protocol of the first Oxford5k and Paris6k: one class of right answers, kept in
    ``easy``. A query without any right answer is allowed (means leave it out), a set of nothing but such
    queries is not. ``of_folder`` marks a set that is whatever lies in a folder of classes: nobody listed its
    pictures, so those that cannot be used may be left out.
    """

    name: str
    root: Path
    gallery: tuple[str, ...]
    queries: tuple[Query, ...]
    original: bool = False
    of_folder: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        _check(self)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {path: i for i, path in enumerate(self.gallery)}

    def positions(self, query: Query | int, names: Names) -> np.ndarray:
        """Positions in the gallery, counted from 0, of the ``easy``, ``hard`` or ``junk`` pictures of a query
        (or of the query with this number): int64, in the order of the ground truth."""
        if names not in _LISTS:
            raise UsageError(f"names must be one of {', '.join(_LISTS)}, not {names!r}")
        listed = getattr(self.queries[query] if isinstance(query, int) else query, names)
        return np.fromiter((self._position[path] for path in listed), np.int64, len(listed))

    def without(self, pictures: Collection[str]) -> GroundTruth:
        """The same without these pictures: not asked for, not in the gallery, no right answers. Raises DatasetError
        where too little is left to be a set."""
        gone = set(pictures)

        def kept(paths: Iterable[str]) -> tuple[str, ...]:
            return tuple(path for path in paths if path not in gone)

        queries = tuple(
            replace(q, easy=kept(q.easy), hard=kept(q.hard), junk=kept(q.junk))
            for q in self.queries
            if q.image not in gone
        )
        return replace(self, gallery=kept(self.gallery), queries=queries)

    def to_json(self) -> dict[str, Any]:
        """The JSON form (a dict): name, gallery, queries, and ``original`` where it is true."""
        form: dict[str, Any] = {"name": self.name, "gallery": list(self.gallery)}
        if self.original:
            form["original"] = True
        form["queries"] = [
            {
                "image": q.image,
                "bbox": None if q.bbox is None else list(q.bbox),
                **{k: list(getattr(q, k)) for k in _LISTS},
            }
            for q in self.queries
        ]
        return form

    @classmethod
    def from_json(cls, form: Any, root: Path, *, source: str = "ground truth") -> GroundTruth:
        """Build from the JSON form; DatasetErrors begin with ``source`` (the file) and name the query and the
        field.

        ``easy``, ``hard`` and ``junk`` may be left out where empty, but one of the first two must be there,
        and a query has no other fields. Other fields of the set itself are passed over.
        """
        if not isinstance(form, dict):
            raise DatasetError(f"{source}: expected an object with 'name', 'gallery' and 'queries'")
        for key in ("gallery", "queries"):
            _require_key(form, key, source)
        gallery = _strings(form.get("gallery"), f"{source}: gallery")
        if not isinstance(form.get("queries"), list):
            raise DatasetError(f"{source}: queries: expected a list")
        queries = []
        for i, entry in enumerate(form["queries"]):
            where = f"{source}: queries[{i}]"
            if not isinstance(entry, dict):
                raise DatasetError(f"{where}: expected an object, not {entry!r:.80}")
            _require_key(entry, "image", where)
            if not isinstance(entry["image"], str):
                raise DatasetError(
                    f"{where}, image: expected the path of the query's picture, not {entry['image']!r:.80}"
                )
            if unknown := set(entry) - _QUERY_FIELDS:
                raise DatasetError(
                    f"{where}: unknown field {min(unknown)!r:.200}",
                    "Fields are " + ", ".join(sorted(_QUERY_FIELDS)),
                )
            if "easy" not in entry and "hard" not in entry:
                raise DatasetError(f"{where}, easy: no list of right answers ('easy' or 'hard')")
            easy, hard, junk = (_strings(entry.get(k, []), f"{where}, {k}") for k in _LISTS)
            box = _box(entry.get("bbox"), f"{where}, bbox")
            queries.append(Query(entry["image"], box, easy, hard, junk))
        name, original = form.get("name", Path(source).stem), form.get("original", False)
        if not isinstance(name, str) or not isinstance(original, bool):
            raise DatasetError(f"{source}: name: expected a text, and for 'original' true or false")
        return built(source, name=name, root=root, gallery=gallery, queries=tuple(queries), original=original)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON file, whole or not at all. Its paths are relative to its own folder, so it goes into
        the root or a folder above it (UsageError otherwise, and for a picture, which would be lost); saved
        in the root, it loads as exactly this ground truth."""
        path = Path(path)
        spare_pictures(path)
        prefix = os.path.relpath(self.root.resolve(), path.resolve().parent).replace(os.sep, "/")
        if prefix.split("/")[0] == "..":
            raise UsageError(
                f"{path}: a ground truth lies beside its pictures or above them, and these are in {self.root}"
            )
        moved = self if prefix == "." else self._below(prefix)
        # Names that are not UTF-8 arrive as lone surrogates; as JSON escapes they survive in a file that is
        # UTF-8.
        text = json.dumps(moved.to_json(), ensure_ascii=False, indent=1) + "\n"
        try:
            with whole_file(path) as file:
                file.write_bytes(text.encode("utf-8", errors="backslashreplace"))
        except OSError as error:
            raise DatasetError(f"{path}: cannot be written ({error.strerror})") from error

    def _below(self, prefix: str) -> GroundTruth:
        def move(paths: Iterable[str]) -> tuple[str, ...]:
            return tuple(posixpath.join(prefix, path) for path in paths)

        queries = tuple(
            Query(posixpath.join(prefix, q.image), q.bbox, move(q.easy), move(q.hard), move(q.junk))
            for q in self.queries
        )
        return replace(self, gallery=move(self.gallery), queries=queries)


def _require_key(form: dict[str, Any], key: str, where: str) -> None:
    """Raises DatasetError where it is not there, with what is: mostly it is the same under another name."""
    if key not in form:
        there = ", ".join(sorted(form)) or "nothing"
        if {"protocols", "settings"} <= form.keys():
            raise DatasetError(f"{where} is a result of retrieve evaluate --save, no ground truth", "See --compare.")
        raise DatasetError(f'{where} has no "{key}"; it has: {there:.200}')


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DatasetError(f"{where}: expected a list of paths")
    return tuple(value)


def _box(value: Any, where: str) -> Box | None:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 4:
        raise DatasetError(f"{where}: expected four numbers (x1, y1, x2, y2), not {value!r:.80}")
    if not all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e9 for v in value
    ):  # not NaN either
        raise DatasetError(f"{where}: four finite numbers expected, not {value!r:.80}")
    x1, y1, x2, y2 = (float(v) for v in value)
    if not (x1 < x2 and y1 < y2):
        raise DatasetError(f"{where}: {value!r:.80} has no area or is reversed", "The order is x1, y1, x2, y2")
    return x1, y1, x2, y2


def built(source: str, **fields: Any) -> GroundTruth:
    """A ground truth from its fields; DatasetErrors begin with ``source``, where it came from."""
    try:
        return GroundTruth(**fields)
    except DatasetError as error:
        raise DatasetError(f"{source}: {error.message}", error.hint) from None


def _check(truth: GroundTruth) -> None:
    if not truth.gallery:
        raise DatasetError("gallery: no pictures in it")
    if not truth.queries:
        raise DatasetError("queries: none")
    seen: dict[str, str] = {}
    for i, path in enumerate(truth.gallery):
        _check_path(path, f"gallery[{i}]", inside=True)
        plain = posixpath.normpath(path)
        if plain in seen:
            raise DatasetError(
                f"gallery[{i}]: {path!r:.200} is there twice" + (f" (as {seen[plain]!r:.200})") * (seen[plain] != path)
            )
        seen[plain] = path
    known = set(truth.gallery)
    for i, query in enumerate(truth.queries):
        where = f"queries[{i}] {query.image!r:.200}"
        _check_path(query.image, f"queries[{i}], image", inside=False)
        _box(query.bbox, f"{where}, bbox")
        listed: dict[str, str] = {}
        for kind in _LISTS:
            for path in getattr(query, kind):
                if path not in known:
                    raise DatasetError(f"{where}, {kind}: {path!r:.200} is not in the gallery")
                if path in listed:
                    raise DatasetError(f"{where}, {kind}: {path!r:.200} is listed in {listed[path]} already")
                listed[path] = kind
    if not any(query.easy or query.hard for query in truth.queries):
        raise DatasetError("queries: no query has a right answer ('easy' and 'hard' are empty throughout)")


def _check_path(path: str, where: str, *, inside: bool) -> None:
    if not path or "\0" in path:
        raise DatasetError(f"{where}: {path!r:.200} is not a path")
    if not inside:
        return
    windows = PureWindowsPath(path)
    outside = posixpath.normpath(path).split("/")[0] == ".." or ".." in windows.parts[:1]
    if path.startswith("/") or windows.drive or windows.root or outside:
        raise DatasetError(
            f"{where}: {path!r:.200} leads out of the set's root",
            "Gallery paths are relative to the root and stay inside it",
        )

"""What is right for each query: the ground truth of a retrieval set, read, checked and written.

Four sources: JSON (the project's own format), the official ``.pkl`` of Revisited Oxford and Paris, folders of
labelled pictures, and ``path,label`` lists. Whatever the source, a :class:`GroundTruth` is complete and
consistent once it exists; whether the pictures are there, :func:`check_files` and :func:`check_boxes` tell.
Queries are counted from 0.

Gallery paths are relative to the set's root and stay inside it, so that a set can be moved as a whole. The
picture of a query may lie anywhere (absolute, or with ``..``): one's own query photos often do.
"""

from __future__ import annotations

import json
import os
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import Any, Literal

import numpy as np

from retrieval.datasets import labelled, official
from retrieval.errors import DatasetError, ImageError, UsageError
from retrieval.files.paths import as_on_disk
from retrieval.files.whole import whole_file
from retrieval.pictures.imaging import picture_size

Box = tuple[float, float, float, float]
Names = Literal["easy", "hard", "junk"]
_LISTS: tuple[Names, ...] = ("easy", "hard", "junk")
_QUERY_FIELDS = {"image", "bbox", *_LISTS}
_PICKLE_LIMIT = 256 << 20  # bytes; the official files have 0.3 million
_BORDER = 1.0  # pixels by which an annotated box may reach over the border: annotators round


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
    queries is not.
    """

    name: str
    root: Path
    gallery: tuple[str, ...]
    queries: tuple[Query, ...]
    original: bool = False

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
        gallery = _strings(form.get("gallery"), f"{source}: gallery")
        if not isinstance(form.get("queries"), list):
            raise DatasetError(f"{source}: queries: expected a list")
        queries = []
        for i, entry in enumerate(form["queries"]):
            where = f"{source}: queries[{i}]"
            if not isinstance(entry, dict) or not isinstance(entry.get("image"), str):
                raise DatasetError(f"{where}, image: expected an object with the path of the query's picture")
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
        return _build(source, name=name, root=root, gallery=gallery, queries=tuple(queries), original=original)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the JSON file, whole or not at all. Its paths are relative to its own folder, so it goes into
        the root or a folder above it (UsageError otherwise); saved in the root, it loads as exactly this
        ground truth."""
        path = Path(path)
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


def load_groundtruth(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    images: str | os.PathLike[str] | None = "auto",
) -> GroundTruth:
    """Read a ground truth: ``.json``, ``.pkl`` (Revisited Oxford or Paris), ``.csv`` or ``.txt``
    (``path,label`` lines), or a folder.

    A folder is taken for what lies in it: ``groundtruth.json``, one ``gnd_*.pkl``, or else sub-folders of one
    class each (:func:`retrieval.datasets.labelled.read_folders`). With labels, every labelled picture asks
    for the others of its class, and is itself junk (leave-one-out); the memory taken grows with the sum of
    the squared class sizes.

    ``root`` is what the paths are relative to (default: the file's folder). ``images`` says where the
    pictures lie: ``"auto"`` follows the format (``jpg/`` under the root for a ``.pkl``, the root itself for
    all others), None means the root itself, anything else is the folder and becomes the root. Raises
    DatasetError for a set that is missing, unreadable or inconsistent, UsageError for an unknown kind of file
    and for ``root`` together with a folder of images.
    """
    path = Path(path)
    if root is not None and images not in ("auto", None):
        raise UsageError("give either the root or the folder of pictures, not both")
    if path.is_dir():
        path = _inside(path)
    base = path if path.is_dir() else path.parent
    if images not in ("auto", None):
        root, images = images, None
    base = base if root is None else Path(root)
    if path.is_dir():
        return _leave_one_out(path.resolve().name, str(path), base, labelled.read_folders(path))
    kind = path.suffix.lower()
    if kind not in (".json", ".pkl", ".csv", ".txt"):
        raise UsageError(
            f"{path}: not a known kind of ground truth", "Give a .json, .pkl, .csv or .txt file, or a folder"
        )
    if not path.is_file():
        raise DatasetError(f"{path}: no such file or folder")
    if kind in (".csv", ".txt"):
        listed = [(as_on_disk(base, picture), label) for picture, label in labelled.read_list(path)]
        return _leave_one_out(path.stem, str(path), base, listed)
    try:
        if kind == ".pkl" and path.stat().st_size > _PICKLE_LIMIT:
            raise DatasetError(f"{path}: larger than any benchmark's ground truth ({_PICKLE_LIMIT >> 20} MiB): refused")
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    if kind == ".pkl":
        try:
            form = official.read_official(data, path.stem.removeprefix("gnd_"), "jpg/" if images == "auto" else "")
        except DatasetError as error:
            raise DatasetError(f"{path}: {error.message}", error.hint) from None
        return GroundTruth.from_json(form, base, source=str(path))
    try:
        form = json.loads(data.decode("utf-8-sig", errors="surrogateescape"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: not valid JSON ({error})") from error
    return GroundTruth.from_json(_as_on_disk(form, base), base, source=str(path))


def _as_on_disk(form: Any, base: Path) -> Any:
    """The same with paths as they are written on the disk, where they differ in Unicode's forms alone."""
    if isinstance(form, dict):
        return {key: value if key == "name" else _as_on_disk(value, base) for key, value in form.items()}
    if isinstance(form, list):
        return [_as_on_disk(value, base) for value in form]
    return as_on_disk(base, form) if isinstance(form, str) and "\0" not in form else form


def _inside(folder: Path) -> Path:
    if (folder / "groundtruth.json").is_file():
        return folder / "groundtruth.json"
    pickles = sorted(folder.glob("gnd_*.pkl"))
    if len(pickles) > 1:
        raise UsageError(f"{folder}: holds {len(pickles)} ground truths", f"Give one of them, such as {pickles[0]}")
    return pickles[0] if pickles else folder


def _leave_one_out(name: str, source: str, root: Path, pictures: labelled.Labelled) -> GroundTruth:
    members: dict[str, list[str]] = {}
    for path, label in pictures:
        if label is not None:
            members.setdefault(label, []).append(path)
    queries = []
    for path, label in pictures:
        if label is not None:
            others = tuple(other for other in members[label] if other != path)
            queries.append(Query(path, None, others, (), (path,)))
    return _build(source, name=name, root=root, gallery=tuple(path for path, _ in pictures), queries=tuple(queries))


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


def _build(source: str, **fields: Any) -> GroundTruth:
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
        for field in _LISTS:
            for path in getattr(query, field):
                if path not in known:
                    raise DatasetError(f"{where}, {field}: {path!r:.200} is not in the gallery")
                if path in listed:
                    raise DatasetError(f"{where}, {field}: {path!r:.200} is listed in {listed[path]} already")
                listed[path] = field
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


def check_files(truth: GroundTruth) -> None:
    """Raise DatasetError where pictures of the gallery or of the queries are missing: their number and the
    first five."""
    wanted = dict.fromkeys((*truth.gallery, *(query.image for query in truth.queries)))
    missing = [path for path in wanted if not os.path.isfile(os.path.join(truth.root, path))]
    if missing:
        names = ", ".join(f"{path!r:.200}" for path in missing[:5]) + (
            f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        )
        raise DatasetError(
            f"{truth.name}: {len(missing)} of {len(wanted)} pictures are missing under {truth.root}: {names}",
            "Check where the pictures lie",
        )


def check_boxes(truth: GroundTruth, *, oriented: bool = False) -> None:
    """Raise DatasetError where a query's box reaches out of its picture by more than a pixel; reads headers
    only.

    ``oriented`` takes sizes after the EXIF orientation, for boxes drawn on upright pictures; the benchmarks'
    boxes are drawn on the pixels as stored.
    """
    for i, query in enumerate(truth.queries):
        if query.bbox is None:
            continue
        where = f"{truth.name}: queries[{i}] {query.image!r:.200}"
        try:
            width, height = picture_size(os.path.join(truth.root, query.image), exif=oriented)
        except ImageError as error:
            raise DatasetError(f"{where}, image: cannot be read ({error})") from error
        trouble = box_trouble(query.bbox, (width, height))
        if trouble:
            raise DatasetError(f"{where}, {trouble}")


def box_trouble(box: Box, size: tuple[int, int]) -> str:
    """Why a box cannot be one of a picture of this width and height; "" where it can. A pixel beyond the border is allowed."""
    x1, y1, x2, y2 = box
    width, height = size
    if min(x1, y1) < -_BORDER or x2 > width + _BORDER or y2 > height + _BORDER:
        return f"bbox: {list(box)} reaches out of the picture of {width} x {height}"
    return ""

"""Rankings that another program made, or ``retrieve query``: read, matched with a ground truth, and checked.

Three forms. JSON Lines, one object a query: ``{"query": PATH, "bbox": ..., "results": [{"path": PATH}, ...]}``, as
``retrieve query --format json`` prints them. Text, one line a query: its path, then the ranked paths, best first. A line
with a tab in it is split at tabs and nothing else, so paths may hold spaces; any other line is split at white space as a
shell does it, so that ``"a b.jpg"`` is one path. ``.npy``: whole numbers (Q, K), gallery positions from 0, a row for each
query in the order of the ground truth, -1 for a missing answer.

A path is one of the ground truth's own, or a file that is there (absolute, or relative to the current folder), or a file
name, with or without its suffix, that only one picture has.
"""

from __future__ import annotations

import json
import os
import posixpath
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retrieval.datasets.groundtruth import Box, GroundTruth
from retrieval.errors import DatasetError
from retrieval.messages import first_line

Rankings = list[npt.NDArray[np.int64]]


@dataclass(frozen=True)
class _Row:
    """A query with its answers as named in the file; ``where`` for messages."""

    where: str
    query: str
    bbox: Box | None
    answers: list[str]


def read_rankings(path: str | os.PathLike[str], truth: GroundTruth) -> Rankings:
    """For each query of ``truth`` the positions of its answers in the gallery, best first: Q int64 arrays.

    Rankings may be shorter than the gallery; whether that is right is for the evaluation to say. A query without any right
    answer may be missing, and gets the gallery's own order. Raises DatasetError, naming line and path, for a file that cannot be
    read, for queries that are missing, unknown or there twice, and for answers that are not in the gallery or repeated.
    """
    path = Path(path)
    if not path.is_file():
        raise DatasetError(f"{path}: no such file")
    if path.suffix.lower() == ".npy":
        return _from_array(path, truth)
    try:
        text = path.read_text("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    lines = [(f"{path}:{number}", line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise DatasetError(f"{path}: no rankings in it")
    rows = _json_rows(lines) if lines[0][1].lstrip().startswith("{") else _text_rows(lines)
    return _matched(path, rows, truth)


def _json_rows(lines: Iterable[tuple[str, str]]) -> Iterator[_Row]:
    for where, line in lines:
        try:
            form = json.loads(line)
            results = [r["path"] for r in form["results"]]
            if not isinstance(form["query"], str) or not all(isinstance(name, str) for name in results):
                raise TypeError("a path is not a text")
            box = form.get("bbox")
            bbox = None if box is None else (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise DatasetError(
                f"{where}: not a ranking ({type(error).__name__}: {error})",
                'Each line is {"query": PATH, "results": [{"path": PATH}, ...]}.',
            ) from error
        yield _Row(where, form["query"], bbox, results)


def _text_rows(lines: Iterable[tuple[str, str]]) -> Iterator[_Row]:
    for where, line in lines:
        line = line.rstrip("\r")
        if "\t" in line:
            names = [name for name in line.split("\t") if name]
        else:
            try:
                names = shlex.split(line)
            except ValueError as error:
                raise DatasetError(
                    f"{where}: {error}", "Separate paths by tabs: then quotes and spaces are nothing special."
                ) from error
        if not names:
            raise DatasetError(f"{where}: no path in this line")
        yield _Row(where, names[0], None, names[1:])


def _matched(path: Path, rows: Iterable[_Row], truth: GroundTruth) -> Rankings:
    queries = _Names([query.image for query in truth.queries], truth.root)
    gallery = _Names(truth.gallery, truth.root)
    found: dict[int, npt.NDArray[np.int64]] = {}
    for row in rows:
        numbers = queries.find(row.query)
        if not numbers:
            raise DatasetError(f"{row.where}: {row.query!r} is not a query of {truth.name}{queries.hint(row.query)}")
        # One picture may be asked with several boxes: take the box at hand, else those that are left in their order.
        exact = [n for n in numbers if row.bbox is not None and _same_box(row.bbox, truth.queries[n].bbox)]
        left = [n for n in exact or numbers if n not in found]
        if not left:
            raise DatasetError(f"{row.where}: the query {row.query!r} is there more than once")
        found[left[0]] = _positions(row, gallery, truth)
    missing = [i for i, q in enumerate(truth.queries) if i not in found and (q.easy or q.hard)]
    if missing:
        raise DatasetError(
            f"{path}: {len(missing)} of {len(truth.queries)} queries of {truth.name} have no ranking, "
            f"such as {truth.queries[missing[0]].image!r}"
        )
    whole = np.arange(len(truth.gallery))
    return [found.get(i, whole) for i in range(len(truth.queries))]


def _positions(row: _Row, gallery: _Names, truth: GroundTruth) -> npt.NDArray[np.int64]:
    out = np.empty(len(row.answers), np.int64)
    seen: dict[int, int] = {}
    for rank, name in enumerate(row.answers):
        positions = gallery.find(name)
        if not positions:
            raise DatasetError(
                f"{row.where}: {name!r} (rank {rank + 1}) is not in the gallery of {truth.name}{gallery.hint(name)}"
            )
        if positions[0] in seen:
            raise DatasetError(
                f"{row.where}: {name!r} is there twice, at ranks {seen[positions[0]] + 1} and {rank + 1}"
            )
        seen[positions[0]] = rank
        out[rank] = positions[0]
    return out


class _Names:
    """From a name in a file to numbers of the ground truth's pictures."""

    def __init__(self, paths: Iterable[str], root: Path) -> None:
        self.root = os.fspath(root)
        self.known: dict[str, list[int]] = {}
        self.bases: dict[str, set[str]] = {}
        for number, path in enumerate(paths):
            plain = self._plain(path)
            self.known.setdefault(plain, []).append(number)
            base = posixpath.basename(plain)
            for name in {base, posixpath.splitext(base)[0]}:
                self.bases.setdefault(name, set()).add(plain)
        self._found: dict[str, list[int]] = {}

    def find(self, name: str) -> list[int]:
        """The numbers of the picture that is meant; none when it is unknown or several could be meant."""
        if name not in self._found:
            try:
                meant = {plain for plain in (self._plain(name), *self._files(name)) if plain in self.known}
            except ValueError:  # a zero byte, half a surrogate pair: no file can have such a name
                meant = set()
            if not meant and "/" not in name:
                meant = self.bases.get(name, set())
            self._found[name] = self.known[next(iter(meant))] if len(meant) == 1 else []
        return self._found[name]

    def hint(self, name: str) -> str:
        """What makes the name ambiguous, for a message."""
        several = len(self.bases.get(name, ()))
        return f": {several} pictures have this name" if several > 1 and "/" not in name else ""

    def _plain(self, path: str) -> str:
        """Absolute paths inside the root become relative to it, like those of the ground truth."""
        return self._files(path)[0] if os.path.isabs(path) else posixpath.normpath(path.replace(os.sep, "/"))

    def _files(self, path: str) -> tuple[str, str]:
        """The file relative to the root: as it is named, and with the links in its folder's path followed."""
        absolute = os.path.abspath(path)
        real = os.path.join(os.path.realpath(os.path.dirname(absolute)), os.path.basename(absolute))
        named = (
            os.path.relpath(absolute, os.path.abspath(self.root)),
            os.path.relpath(real, os.path.realpath(self.root)),
        )
        return named[0].replace(os.sep, "/"), named[1].replace(os.sep, "/")


def _same_box(a: Box, b: Box | None) -> bool:
    return b is not None and all(abs(x - y) < 0.01 for x, y in zip(a, b, strict=True))


def _from_array(path: Path, truth: GroundTruth) -> Rankings:
    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy parses the file's head as Python, and raises whatever comes of it
        raise DatasetError(f"{path}: not an array file that can be read ({first_line(error)})") from error
    queries, size = len(truth.queries), len(truth.gallery)
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind not in "iu":
        shape = getattr(array, "shape", None)
        raise DatasetError(
            f"{path}: expected whole numbers (queries, answers), not {getattr(array, 'dtype', '?')} {shape}"
        )
    if len(array) != queries:
        turned = array.shape[1] == queries
        raise DatasetError(
            f"{path}: {len(array)} rows for {queries} queries",
            "It has a column for each query: transpose it." if turned else "Give a row for each query.",
        )
    rankings = []
    for i, row in enumerate(array.astype(np.int64)):
        end = int(np.argmax(row < 0)) if np.any(row < 0) else len(row)
        if np.any(row[end:] != -1):
            raise DatasetError(f"{path}, row {i}: only -1 may stand for a missing answer, and only at the end")
        ids = row[:end]
        if len(ids) and ids.max() >= size:
            raise DatasetError(
                f"{path}, row {i}: position {ids.max()} is not in a gallery of {size} (they count from 0)"
            )
        values, counts = np.unique(ids, return_counts=True)
        if np.any(counts > 1):
            raise DatasetError(f"{path}, row {i}: position {values[counts > 1][0]} is there more than once")
        rankings.append(ids)
    return rankings

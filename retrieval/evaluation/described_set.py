"""The descriptors of a retrieval set: its gallery's in a :class:`Gallery` that serves as a cache, its queries' beside them.

What is described once is found again by content, so a second evaluation describes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.placing import present, without
from retrieval.errors import DatasetError
from retrieval.evaluation.queries import Queries
from retrieval.files.digest import content_hash
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.local_features import LocalMatchers
from retrieval.gallery.store.catalog import Record
from retrieval.gallery.store.view import DerivedArrays, VectorView
from retrieval.messages import Bars, Say, no_bars, say_nothing
from retrieval.models.whitening import Whitening
from retrieval.ranking.method import Context


@dataclass(frozen=True)
class DescribedSet:
    """A set with its descriptors.

    ``queries`` float32 (Q, D); ``gallery`` (N, D), memory-mapped, in the order of ``pictures``: absolute path and content
    hash of the ground truth's gallery, followed by distractors where there are any; ``query_hashes`` likewise.
    """

    truth: GroundTruth
    folder: Path
    queries: np.ndarray
    gallery: VectorView
    pictures: list[tuple[str, str]]
    query_hashes: list[str]

    @property
    def hashes(self) -> list[str]:
        """Content hashes of all pictures of the set."""
        return [digest for _, digest in self.pictures] + self.query_hashes


class SetContext:
    """What re-rankers may use of a described set; ``context`` is for ``Evaluator.reranked``."""

    def __init__(
        self,
        described: DescribedSet,
        *,
        exif: bool,
        stored: bool = True,
        warn: Callable[[str], None] | None = None,
    ) -> None:
        """``stored``: the vectors in use are those of the gallery, so what is computed from them is worth keeping beside it."""
        self.described = described
        self.matchers = LocalMatchers(described.folder, described.pictures.__getitem__, exif=exif, warn=warn)
        if stored:
            self.context = Context(DerivedArrays(described.folder, described.gallery), self._matches)
        else:
            self.context = Context(matches=self._matches)

    def waited(self) -> float:
        """Seconds spent so far on finding local features of gallery pictures, which is done once for each."""
        return self.matchers.seconds

    def _matches(self, kind: str, query: int, positions: np.ndarray) -> np.ndarray:
        truth = self.described.truth
        asked = truth.queries[query]
        matcher = self.matchers.of(kind)
        features = matcher.query(os.path.join(truth.root, asked.image), asked.bbox)
        return matcher.inliers(features, positions)


def describe_set(
    truth: GroundTruth,
    gallery: Gallery,
    *,
    distractors: bool = False,
    say: Say = say_nothing,
    bars: Bars = no_bars,
) -> DescribedSet:
    """Describe what ``gallery`` does not hold yet of the set's pictures, and its queries, each cropped to its box.

    ``distractors``: all other pictures of the gallery are ranked too, except the queries' own. All files must be there before
    anything is described. Each is opened once, the queries first; what cannot be used, and boxes that reach out of their
    pictures, are named together. Raises DatasetError. A set that is whatever lies in a folder goes on without what cannot be
    used, which ``say`` is told: ``truth`` of the result is what is left.
    """
    truth = present(truth, say)
    paths = [os.path.abspath(os.path.join(truth.root, path)) for path in truth.gallery]
    queries, own = Queries(truth, gallery), set(paths)
    whole = [i for i, path in enumerate(queries.paths) if path in own and truth.queries[i].bbox is None]
    queries.describe([i for i in range(len(queries.paths)) if i not in set(whole)], bars)
    known = _known(gallery, paths)
    todo = [path for path in paths if path not in known]
    if todo:
        with bars(truth.name) as update:
            gallery.index(todo, progress=update)
    records = dict(gallery.records())
    if troubles := _troubles(truth, paths, records, gallery):
        truth = without(truth, troubles, say)
        return describe_set(truth, gallery, distractors=distractors, say=say, bars=bars)
    chosen = [(path, records[path]) for path in paths]
    queries.take_whole(whole, [str(records[queries.paths[i]].hash) for i in whole])
    query_hashes = queries.hashes
    if distractors:
        hidden = set(query_hashes)
        chosen += [(p, r) for p, r in records.items() if p not in own and r.hash not in hidden]
    store = gallery.store()
    store.check_sizes(gallery.catalog.number("vector_count"))
    return DescribedSet(
        truth,
        gallery.folder,
        queries.vectors,
        VectorView(store, np.array([record.row for _, record in chosen], np.int64)),
        [(path, str(record.hash)) for path, record in chosen],
        query_hashes,
    )


def set_hashes(truth: GroundTruth, gallery: Gallery) -> list[str]:
    """Content hashes of a set's pictures, all of which are there, before anything is described. Raises DatasetError where one
    cannot be read."""
    paths = dict.fromkeys(
        os.path.abspath(os.path.join(truth.root, path))
        for path in (*truth.gallery, *(query.image for query in truth.queries))
    )
    known = _known(gallery, list(paths))
    hashes = {path: str(record.hash) for path, record in gallery.records() if path in known}
    return [hashes[path] if path in hashes else _hash(path) for path in paths]


def _hash(path: str) -> str:
    try:
        return content_hash(path)
    except OSError as error:
        raise DatasetError(f"{path} cannot be read ({error.strerror})") from error


def _known(gallery: Gallery, paths: list[str]) -> set[str]:
    """Which of the pictures the gallery holds as they are on the disk now."""
    wanted = set(paths)
    known = set()
    for path, record in gallery.records():
        if path in wanted:
            with suppress(OSError):
                status = os.stat(path)
                if (record.size, record.mtime_ns) == (status.st_size, status.st_mtime_ns):
                    known.add(path)
    return known


def _troubles(
    truth: GroundTruth, paths: list[str], records: dict[str, Record], gallery: Gallery
) -> list[tuple[str, str]]:
    """The set's pictures (path, reason) that could not be described."""
    folders = {root.id: gallery.folder_of(root) for root in gallery.catalog.roots()}
    reasons = {os.path.join(folders[r.root], r.path): r.error or "" for r in gallery.catalog.troubled()}
    return [
        (name, reasons.get(path) or "not described")
        for name, path in zip(truth.gallery, paths, strict=True)
        if path not in records or path in reasons
    ]


def whitened_vectors(described: DescribedSet, whitening: Whitening) -> tuple[np.ndarray, np.ndarray]:
    """Queries (Q, d) and gallery (N, d) of a set after a whitening, float32. Copies keep equal vectors."""
    rows, place = np.unique(described.gallery.rows, return_inverse=True)
    different = VectorView(described.gallery.store, rows)
    out = np.empty((len(rows), len(whitening.projection)), np.float32)
    for begin in range(0, len(rows), 8192):
        out[begin : begin + 8192] = whitening.apply(different[begin : begin + 8192])
    return np.asarray(whitening.apply(described.queries), np.float32), out[place]


def matching_pairs(described: DescribedSet) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The different pictures of a set, float32 (M, D), and pairs of rows (query, right answer), for learning a whitening."""
    truth = described.truth
    rows: dict[tuple[str, object], int] = {}

    def row_of(digest: str, box: object) -> int:
        return rows.setdefault((digest, box), len(rows))

    pairs = []
    asked = [row_of(digest, q.bbox) for digest, q in zip(described.query_hashes, truth.queries, strict=True)]
    held = [row_of(digest, None) for digest in (digest for _, digest in described.pictures)]
    for i, query in enumerate(truth.queries):
        right = np.concatenate([truth.positions(query, "easy"), truth.positions(query, "hard")])
        pairs += [(asked[i], held[position]) for position in right if held[position] != asked[i]]
    vectors = np.empty((len(rows), described.queries.shape[1]), np.float32)
    vectors[held] = described.gallery
    vectors[asked] = described.queries
    return vectors, list(dict.fromkeys(pairs))

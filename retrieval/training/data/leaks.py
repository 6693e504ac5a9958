"""Training pictures that show what a benchmark asks for: found by descriptor, shown on a sheet, left out of the training.

A model that has trained on the landmark of a query is judged too kindly. The content hashes by which a whitening's
pictures are recognised (:func:`retrieval.models.whitening_origin.leak`) find only the very same files; here another photo of the
same thing counts too, so similarity decides, by whatever model does the looking.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from retrieval.datasets.groundtruth import Box, GroundTruth
from retrieval.datasets.placing import check_boxes
from retrieval.describe.extraction import describe_all
from retrieval.describe.model import Model
from retrieval.errors import DatasetError, UsageError
from retrieval.messages import no_update
from retrieval.ranking.neighbours import exact_similarities, rounding_bound
from retrieval.training.data.mining import finite_rows, longest
from retrieval.training.data.training_set import TrainingSet
from retrieval.views.sheet import SheetCell, SheetRow, contact_sheet

_SCORES_AT_ONCE = 1 << 23  # float32 products in memory: 32 MiB
_PICTURES_AT_ONCE = 4096


# Measured with the embedded model at 512 pixels on photos of paintings: three in four clean crops and half of the photos on a
# wall are closer than this to their own painting; of other paintings one in a thousand is closer than 0.80, the closest 0.87.
# Other models need other values: look at the sheet.
THRESHOLD = 0.85


@dataclass(frozen=True)
class Leak:
    """``query``: number of the query, ``picture``: position in the training set, ``similarity``: the cosine."""

    query: int
    picture: int
    similarity: float


@dataclass(frozen=True, eq=False)
class LeakCheck:
    """``leaks``, the closest first. ``keep``: bool (N,), which training pictures may stay. ``notes``: a line each."""

    leaks: list[Leak]
    keep: np.ndarray
    notes: list[str]


def find_leaks(query_descriptors: np.ndarray, training_descriptors: np.ndarray, threshold: float) -> list[Leak]:
    """Pairs of a query and a training picture with an inner product of at least ``threshold``, the closest first.

    Descriptors (Q, D) and (N, D) of unit length; a row that is not finite leaks nothing. Equal similarities are ordered by
    query, then by picture. Takes 32 MiB beside the descriptors. Raises UsageError for shapes that do not fit, or a
    threshold outside [-1, 1].
    """
    shapes = query_descriptors.shape, training_descriptors.shape
    if len(shapes[0]) != 2 or len(shapes[1]) != 2 or shapes[0][1] != shapes[1][1]:
        raise UsageError(f"descriptors of shapes {shapes[0]} and {shapes[1]} do not fit", "Give (Q, D) and (N, D).")
    if not -1 <= threshold <= 1:
        raise UsageError(f"a similarity lies between -1 and 1, not at {threshold}")
    queries = np.asarray(query_descriptors, np.float32)
    asked = np.flatnonzero(finite_rows(queries))
    found: list[Leak] = []
    step = max(1, _SCORES_AT_ONCE // max(1, len(asked), shapes[1][1]))
    for start in range(0, shapes[1][0], step):
        part = np.asarray(training_descriptors[start : start + step], np.float32)
        fine = finite_rows(part)
        part = np.where(fine[:, None], part, 0)
        close = part @ queries[asked].T >= threshold - 2 * rounding_bound(shapes[1][1]) * longest(part) * longest(
            queries[asked]
        )
        close &= fine[:, None]
        for column in np.flatnonzero(close.any(axis=0)):
            rows = np.flatnonzero(close[:, column])
            exact = exact_similarities(queries[asked[column]], part, rows)
            found += [
                Leak(int(asked[column]), int(start + row), float(similarity))
                for row, similarity in zip(rows, exact, strict=True)
                if similarity >= threshold
            ]
    return sorted(found, key=_closest_first)


def without_leaks(data: TrainingSet, leaks: Sequence[Leak], *, whole_clusters: bool = True) -> np.ndarray:
    """Which pictures may stay in the training: bool (N,).

    ``whole_clusters`` also takes out all others of a leaking picture's cluster. That is right where a cluster is one object
    or place, because its other photos teach the same thing even if none of them looks like the query's view; and it is too
    much where clusters are broad classes, of which one look-alike is no evidence against the others.
    """
    keep = np.ones(len(data), bool)
    keep[[leak.picture for leak in leaks]] = False
    if whole_clusters:
        touched = np.unique(data.clusters[~keep])
        keep &= ~np.isin(data.clusters, touched[touched >= 0])
    return keep


def check_leaks(
    truth: GroundTruth,
    data: TrainingSet,
    model: Model,
    threshold: float = THRESHOLD,
    *,
    whole_clusters: bool = True,
    progress: Callable[[int, int], object] = no_update,
) -> LeakCheck:
    """Describe a benchmark's queries and a training set by ``model``, and find what leaks.

    A query with a box is looked for by its box and by its whole picture, since training pictures show the surroundings too;
    the greater similarity counts. Only the queries of the benchmark need to be on disk. Training pictures that cannot be
    read leak nothing. ``progress`` is called with the training pictures described and their number. Raises DatasetError
    where a query cannot be read or its box lies outside its picture.
    """
    check_boxes(truth, oriented=model.spec.image.exif)
    asked: list[tuple[str, Box | None]] = []
    owner: list[int] = []
    for number, query in enumerate(truth.queries):
        for box in dict.fromkeys((query.bbox, None)):
            asked.append((os.path.join(truth.root, query.image), box))
            owner.append(number)
    queries, troubles = _describe(asked, model)
    for row, why in sorted(troubles.items()):
        raise DatasetError(f"{truth.name}: queries[{owner[row]}] {asked[row][0]} cannot be used: {why}")
    best: dict[tuple[int, int], Leak] = {}
    unread = 0
    for start in range(0, len(data), _PICTURES_AT_ONCE):
        part = data.paths[start : start + _PICTURES_AT_ONCE]
        described, troubles = _describe([(os.fspath(path), None) for path in part], model)
        unread += len(troubles)
        for found in find_leaks(queries, described, threshold):  # the closest first
            leak = Leak(owner[found.query], start + found.picture, found.similarity)
            best.setdefault((leak.query, leak.picture), leak)
        progress(start + len(part), len(data))
    leaks = sorted(best.values(), key=_closest_first)
    keep = without_leaks(data, leaks, whole_clusters=whole_clusters)
    pictures = len({leak.picture for leak in leaks})
    notes = [
        f"{pictures:,} of {len(data):,} training pictures are as close as {threshold:g} to a query of {truth.name}"
    ]
    if taken := int((~keep).sum()) - pictures:
        notes.append(f"{taken:,} further pictures of their clusters are left out with them")
    if unread:
        notes.append(f"{unread:,} training pictures cannot be read and were not compared")
    return LeakCheck(leaks, keep, notes)


def leak_sheet(truth: GroundTruth, data: TrainingSet, leaks: Sequence[Leak], *, thumb: int = 160) -> Image.Image:
    """A contact sheet: a line for each query that leaks, the closest first, with its training pictures framed red and their
    similarities. Queries with the closest pictures come first."""
    rows: dict[int, list[SheetCell]] = {}
    for leak in sorted(leaks, key=_closest_first):
        path = data.paths[leak.picture]
        cell = SheetCell(path, f"{leak.similarity:.3f}", path.name, "negative")
        rows.setdefault(leak.query, []).append(cell)
    shown = []
    for number, cells in rows.items():
        query = truth.queries[number]
        path = Path(truth.root) / query.image
        shown.append(SheetRow(SheetCell(path, "", path.name, bbox=query.bbox), cells))
    title = f"{data.name}: training pictures too close to the queries of {truth.name}"
    return contact_sheet(shown, title=title, thumb=thumb)


def _closest_first(leak: Leak) -> tuple[float, int, int]:
    return -leak.similarity, leak.query, leak.picture


def _describe(pictures: Sequence[tuple[str, Box | None]], model: Model) -> tuple[np.ndarray, dict[int, str]]:
    """Descriptors, float32 (N, D), with NaN in the rows of pictures that cannot be used, and why by row."""
    out = np.full((len(pictures), model.spec.dim), np.nan, np.float32)
    troubles = {}
    for result in describe_all(range(len(pictures)), lambda i: model.load(*pictures[i]), model.engine):
        if result.descriptor is not None:
            out[result.item] = result.descriptor
        else:
            troubles[result.item] = str(result.error)
    return out, troubles

"""Approximate search against exact search, in whole galleries: what is lost, what is won, and what keeping up costs.

For each size a gallery of vectors that look like descriptors is made in a temporary folder (:mod:`descriptors`), with a
labelled set hidden in it; every kind of index answers the same queries, one at a time, through :meth:`Gallery.search`, the
catalog and exact scores included. Everything is a ratio to the exact index of the same run, threads and queries.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retrieval.benchmarks.ann.descriptors import Things, drawn_things, things_of
from retrieval.benchmarks.ann.results import AnnReport, AnnRow
from retrieval.describe.model import Model
from retrieval.errors import UsageError
from retrieval.evaluation.metrics import average_precision
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.search import candidates
from retrieval.gallery.search.index import searched_beside
from retrieval.gallery.store.catalog import Catalog
from retrieval.messages import say_nothing
from retrieval.models.spec import ImageRule, ModelSpec, WeightsRef

DEPTH = 100  # ranks that recall and mAP look at
_BLOCK = 16_384
_TIMED = 100  # queries asked for their time
_LABELLED = (3, 50)  # a labelled thing has so many pictures


@dataclass(frozen=True)
class _Questions:
    """Queries (Q, D), the true score of each at ranks 1, 10 and 100, the ids of the right answers of the labelled ones."""

    vectors: np.ndarray
    limits: dict[int, np.ndarray]
    right: list[np.ndarray]


def benchmark_ann(
    sizes: Sequence[int] = (10_000, 100_000),
    kinds: Sequence[str] = ("ivf",),
    *,
    gallery: Gallery | None = None,
    dim: int = 512,
    recall: float = 0.98,
    queries: int = 200,
    labelled: int = 100,
    threads: int | None = None,
    dtype: str = "float32",
    folder: str | os.PathLike[str] | None = None,
    seed: int = 0,
    say: Callable[[str], None] = say_nothing,
) -> AnnReport:
    """Measure ``kinds`` (see :meth:`Gallery.configure_search`) against the exact index at each of ``sizes``.

    ``gallery``: whose vectors to vary, with its dimension; None draws them with ``dim`` dimensions. ``recall``: what approximate
    kinds must reach. ``queries`` without and ``labelled`` with right answers; ``threads`` for FAISS (default: all). Galleries are
    made below ``folder`` (default: the system's temporary one) and take 4 bytes a value, the exact index as many again.
    Raises UsageError.
    """
    import faiss

    if not sizes or min(sizes) < 1000:
        raise UsageError("sizes of at least 1,000 vectors are needed")
    if threads is not None:
        faiss.omp_set_num_threads(threads)
    rng = np.random.default_rng(seed)
    known = None
    if gallery is not None:
        rows = gallery.catalog.live_rows()
        known = things_of(gallery.store().take(rows, check=True), str(gallery.folder), rng)
        dim = known.points.shape[1]
    out: list[AnnRow] = []
    for size in sizes:
        things = known or drawn_things(size, dim, rng)
        with tempfile.TemporaryDirectory(prefix="retrieval-ann-", dir=folder) as place:
            say(f"{size} vectors")
            with _Subject(Path(place) / "gallery", things, size, dtype, rng) as subject:
                questions = subject.questions(queries, labelled)
                exact: AnnRow | None = None
                for kind in ("flat", *(k for k in kinds if k != "flat")):
                    say(f"{size} vectors, {kind}")
                    row = subject.measure(kind, recall, questions, exact)
                    exact = exact or row
                    out.append(row)
    from retrieval.system.environment import environment

    setting = {
        "vectors": known.origin if known else "drawn",
        "recall": recall,
        "queries": queries,
        "labelled": labelled,
        "faiss_threads": faiss.omp_get_max_threads(),
        "dtype": dtype,
        "seed": seed,
        **environment(),
    }
    return AnnReport(out, setting)


class _Subject:
    """A gallery of vectors without pictures. ``rng`` draws them."""

    def __init__(self, folder: Path, things: Things, size: int, dtype: str, rng: np.random.Generator) -> None:
        self.things, self.size, self.rng = things, size, rng
        dim = things.points.shape[1]
        spec = ModelSpec("none", WeightsRef("none", "0" * 64), {"name": "none"}, dim, None, ImageRule(size=64))
        self.gallery = Gallery.create(folder, Model(spec), dtype=dtype)
        self.written = 0
        with self.gallery.writing() as catalog:
            with catalog.writing():
                self.root = catalog.add_root("pictures", "folder").id
            # Which thing picture id - 1 shows.
            self.shown = things.choose(size, rng)
            for begin in range(0, size, _BLOCK):
                self._add(catalog, self.shown[begin : begin + _BLOCK])

    def __enter__(self) -> _Subject:
        return self

    def __exit__(self, *_: object) -> None:
        self.gallery.close()

    def _add(self, catalog: Catalog, things: np.ndarray) -> None:
        names = range(self.written, self.written + len(things))
        hashes = [f"{n + 1:056x}" for n in names]
        first = catalog.number("vector_count")
        self.gallery.store(catalog).write(first, self.things.pictures_of(things, self.rng), hashes)
        with catalog.writing():
            catalog.add_described(self.root, (f"{n:09d}.jpg" for n in names), hashes, first)
            catalog.set_meta("vector_count", first + len(things))
            catalog.bump_version()
        self.written += len(things)

    def questions(self, queries: int, labelled: int) -> _Questions:
        """Queries with their exact answers: first the labelled ones, new pictures of things that the gallery shows."""
        things, counts = np.unique(self.shown, return_counts=True)
        fit = things[(counts >= _LABELLED[0]) & (counts <= _LABELLED[1])]
        chosen = self.rng.choice(fit, min(labelled, len(fit)), replace=False)
        others = self.rng.choice(self.shown, queries)
        vectors = self.things.pictures_of(np.concatenate([chosen, others]), self.rng)
        right = [np.flatnonzero(self.shown == thing) + 1 for thing in chosen]
        scores = self._best_scores(vectors)
        return _Questions(vectors, {k: scores[:, k - 1] for k in (1, 10, DEPTH)}, right)

    def _best_scores(self, vectors: np.ndarray) -> np.ndarray:
        """The true 100 best cosines of each query, descending, by brute force."""
        import faiss

        best = np.empty((len(vectors), 0), np.float32)
        for _, block in self.gallery.store().blocks(self.size, _BLOCK):
            block = candidates.unit(block)
            scores, _ = faiss.knn(vectors, block, min(DEPTH, len(block)), faiss.METRIC_INNER_PRODUCT)
            best = -np.sort(-np.concatenate([best, scores], axis=1), axis=1)[:, :DEPTH]
        return best

    def measure(self, kind: str, recall: float, questions: _Questions, exact: AnnRow | None) -> AnnRow:
        """Build, search, add, remove; afterwards the gallery holds the same vectors as before."""
        self.gallery.configure_search(kind, recall)
        started = time.monotonic()
        with self.gallery.writing() as catalog:
            self.gallery.refresh_index(catalog)
        build = time.monotonic() - started
        note = self.gallery.info().search
        assert note is not None
        times, recalls, precision, cold = self._ask(questions, exact=exact is None)
        changed, add, remove = self._change(questions)
        milliseconds, cpu = (float(value) for value in np.median(times, axis=0))
        return AnnRow(
            size=self.size,
            dim=note.dim,
            kind=kind,
            factory=note.factory,
            effort=note.effort,
            recall_1=recalls[1],
            recall_10=recalls[10],
            recall_100=recalls[DEPTH],
            mAP=precision,
            change=precision - (exact.mAP if exact else precision),
            milliseconds=milliseconds,
            p95=float(np.percentile([wall for wall, _ in times], 95)),
            cold=cold,
            ratio=(exact.milliseconds if exact else milliseconds) / milliseconds,
            cpu=cpu,
            cpu_ratio=(exact.cpu if exact else cpu) / cpu,
            milliseconds_changed=changed,
            bytes=note.bytes,
            memory=note.bytes / (4 * self.size * note.dim),
            build=build,
            add=add,
            remove=remove,
            add_share=add / build,
            remove_share=remove / build,
        )

    def _ask(
        self, questions: _Questions, exact: bool
    ) -> tuple[list[tuple[float, float]], dict[int, float], float, float]:
        """Times of the queries (first 10 answers), recalls, mAP, milliseconds of the first query after opening."""
        with Gallery.open(self.gallery.folder) as gallery:
            started = time.perf_counter()
            gallery.search(questions.vectors[:1], 10)
            cold = 1000 * (time.perf_counter() - started)
            times = self._times(gallery, questions)
            found = {DEPTH: [gallery.search(vector[None], DEPTH)[0] for vector in questions.vectors]}
            for k in (1, 10):  # exact search looks for fewer in the same way
                deep = found[DEPTH]
                found[k] = deep if exact else [gallery.search(vector[None], k)[0] for vector in questions.vectors]
        recalls = {}
        for k, limits in questions.limits.items():
            hits = [sum(m.score >= s - 1e-6 for m in a[:k]) for a, s in zip(found[k], limits, strict=True)]
            recalls[k] = float(np.mean(hits)) / k
        precisions = []
        for answer, right in zip(found[DEPTH], questions.right, strict=False):
            ranks = [m.rank - 1 for m in answer if m.id in set(right.tolist())]
            precisions.append(average_precision(ranks, len(right)))
        return times, recalls, float(np.mean(precisions)) if precisions else math.nan, cold

    @staticmethod
    def _times(gallery: Gallery, questions: _Questions) -> list[tuple[float, float]]:
        """For each query milliseconds that passed, and milliseconds of processor time."""
        times = []
        for vector in questions.vectors[-_TIMED:]:
            started, worked = time.perf_counter(), time.process_time()
            gallery.search(vector[None], 10)
            times.append((1000 * (time.perf_counter() - started), 1000 * (time.process_time() - worked)))
        return times

    def _change(self, questions: _Questions) -> tuple[float, float, float]:
        """Median milliseconds with as many changes beside the file as are searched there, which is 1 % up to 1.6 million
        vectors of 512 dimensions; seconds to take 1 % more, then 1 % less, into it."""
        more = self.size // 100
        beside = min(more, searched_beside(self.size, self.things.points.shape[1]))
        first = self.written + 1
        with self.gallery.writing() as catalog:
            self._add(catalog, self.things.choose(beside, self.rng))
            self.gallery.refresh_index(catalog)
        with Gallery.open(self.gallery.folder) as gallery:
            changed = float(np.median(self._times(gallery, questions), axis=0)[0])
        with self.gallery.writing() as catalog:
            # A little more than is searched beside the file, now and when it is taken out again.
            self._add(catalog, self.things.choose(more - beside + more // 20 + 2, self.rng))
            add = self._refreshed(catalog)
            with catalog.writing():
                catalog.delete(range(first, self.written + 1))
                catalog.bump_version()
            remove = self._refreshed(catalog)
        return changed, add, remove

    def _refreshed(self, catalog: Catalog) -> float:
        """Seconds to bring the index files in line with the catalog; next to none where the changes are searched beside them."""
        started = time.monotonic()
        self.gallery.refresh_index(catalog)
        return time.monotonic() - started

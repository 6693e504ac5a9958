"""What an index finds of what it should: measured on the gallery's own vectors, against exact search.

No query is a member of the gallery. Each begins at a stored vector, which is then no answer to it, and leaves it in one of
three ways: moved along the difference of two other vectors, 0.5 to 1.25 long, which keeps to the directions in which
descriptors vary; noisy, by 0.3 to 0.8 in any direction; or part of the way to another stored vector, between two subjects.
The least recall of the three is what is told. Recall counts ties: whatever scores as much as the last of the true best is
right. A mean hides queries that find nothing right at all, which is how a part of a graph shows to which no path leads: so
they are counted too.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import Any

import numpy as np

from retrieval.gallery.search import candidates as ann_search
from retrieval.gallery.search import looking
from retrieval.gallery.search.looking import Effort, K
from retrieval.gallery.store.vectors import VectorStore

QUERIES = 900
WAYS = 3  # in which queries leave the gallery; query i goes way i % 3
MEMBERS = 4096  # stored vectors that have to find themselves in a graph
_TRUTH = 64  # true neighbours kept, so that ties with the tenth are known
_EQUAL = 1e-6  # scores that differ by less tie
_TIMED = 40
_BLOCK = 8192


class Trial:
    """Held queries with their exact answers, for any number of indexes over the same vectors."""

    def __init__(self, store: VectorStore, ids: np.ndarray, rows: np.ndarray, *, count: int = QUERIES, seed: int = 0):
        rng = np.random.default_rng(seed)
        self.store, self.ids, self.rows = store, ids, rows
        chosen = rng.choice(len(ids), min(count, len(ids)), replace=False)
        self.own = ids[chosen]
        self.queries = _moved(store, rows, chosen, rng)
        self._members = rng.choice(len(ids), min(MEMBERS, len(ids)), replace=False)

    @property
    def right(self) -> int:
        """How many a full answer has."""
        return min(K, len(self.ids) - 1)

    @cached_property
    def _truth(self) -> tuple[list[np.ndarray], np.ndarray]:
        """For each query the ids of its true best, with those that tie with the last as far as 64 reach, and for queries with
        more ties what they score, float32; inf for the others. Looks at all vectors, so only once asked."""
        import faiss

        wanted = min(_TRUTH + 1, len(self.ids))
        best_ids = np.full((len(self.queries), wanted), -1, np.int64)
        best = np.full((len(self.queries), wanted), -np.inf, np.float32)
        for begin in range(0, len(self.ids), _BLOCK):
            part = ann_search.unit(self.store.take(self.rows[begin : begin + _BLOCK]))
            scores, positions = faiss.knn(self.queries, part, min(wanted, len(part)), faiss.METRIC_INNER_PRODUCT)
            both_ids = np.concatenate([best_ids, self.ids[begin + positions]], axis=1)
            both = np.concatenate([best, scores], axis=1)
            order = np.argsort(-both, axis=1, kind="stable")[:, :wanted]
            best_ids, best = np.take_along_axis(both_ids, order, 1), np.take_along_axis(both, order, 1)
        right, truth = self.right, []
        crowded = np.full(len(self.queries), np.inf, np.float32)
        for query, (own, ids, scores) in enumerate(zip(self.own, best_ids, best, strict=True)):
            ids, scores = ids[ids != own], scores[ids != own]
            truth.append(ids[scores >= scores[right - 1] - _EQUAL] if right else ids[:0])
            if len(truth[-1]) >= _TRUTH:
                crowded[query] = scores[right - 1] - _EQUAL
        return truth, crowded

    @cached_property
    def _truth_columns(self) -> np.ndarray:
        """The first true best of each query, the second, ...: (most, queries); -2, no id, where there are fewer."""
        truth, _ = self._truth
        columns = np.full((max(map(len, truth), default=0), len(truth)), -2, np.int64)
        for query, ids in enumerate(truth):
            columns[: len(ids), query] = ids
        return columns

    def are_right(self, found: np.ndarray) -> np.ndarray:
        """Which of the ids found for each query, (queries, n), are among its true best, or as good as the last of them: bool. The
        picture that it begins at is not."""
        right = np.zeros(found.shape, bool)
        for ids in self._truth_columns:
            right |= found == ids[:, None]
        least = self._truth[1]
        crowded = np.flatnonzero(np.isfinite(least))
        if len(crowded):  # a picture that stands there a hundred times and more: a placeholder, a white page
            asked = np.unique(found[crowded])
            asked = asked[asked >= 0]
            order = np.argsort(self.ids)
            for begin in range(0, len(asked), _BLOCK):
                some = asked[begin : begin + _BLOCK]
                rows = self.rows[order[np.searchsorted(self.ids, some, sorter=order)]]
                good = self.queries[crowded] @ ann_search.unit(self.store.take(rows)).T >= least[crowded, None]
                places = np.minimum(np.searchsorted(some, found[crowded]), len(some) - 1)
                right[crowded] |= (some[places] == found[crowded]) & np.take_along_axis(good, places, 1)
        return np.asarray(right & (found != self.own[:, None]))

    def recalls(self, index: Any, effort: Effort, wanted: int) -> np.ndarray:
        """Recall among the best 10 of each query if the first 1, 2, ... ``wanted`` candidates were scored exactly:
        float64 (queries, wanted)."""
        found = looking.search(index, self.queries, wanted + 1, effort)
        hits = np.minimum(np.cumsum(self.are_right(found), axis=1), self.right) / max(self.right, 1)
        # The picture that a query begins at is no answer to it: what comes after it moves up by one.
        own = found == self.own[:, None]
        place = np.where(own.any(axis=1), own.argmax(axis=1), wanted)
        result: np.ndarray = np.where(np.arange(wanted) < place[:, None], hits[:, :-1], hits[:, 1:])
        return result

    def missed(self, index: Any, effort: Effort, wanted: int) -> float:
        """The share of stored vectors that do not find themselves (nor a copy): no path of a graph leads to them. Needs no
        exact answers, so that many can be asked, and rare gaps show."""
        ids, vectors = self.ids[self._members], ann_search.unit(self.store.take(self.rows[self._members]))
        found = looking.search(index, vectors, wanted, effort)
        gone = np.flatnonzero((found != ids[:, None]).all(axis=1))
        place = {int(i): row for i, row in zip(self.ids, self.rows, strict=True)} if len(gone) else {}
        count = 0
        for i in gone:
            rows = np.array([place[int(j)] for j in found[i] if j >= 0], np.int64)
            best = float((ann_search.unit(self.store.take(rows)) @ vectors[i]).max()) if len(rows) else -1.0
            count += best < float(vectors[i] @ vectors[i]) - _EQUAL
        return count / max(len(ids), 1)

    def milliseconds(self, index: Any, effort: Effort, wanted: int) -> np.ndarray:
        """What some queries take, one at a time: candidates, their vectors read, scored in float64."""
        order = np.argsort(self.ids)
        times = []
        for query in self.queries[:_TIMED]:
            started = time.perf_counter()
            found = np.sort(looking.search(index, query[None], wanted, effort)[0])
            rows = self.rows[order[np.searchsorted(self.ids, found[found >= 0], sorter=order)]]
            self.store.take(rows, check=True).astype(np.float64) @ query.astype(np.float64)
            times.append(time.perf_counter() - started)
        return 1000 * np.array(times)


def together(parts: list[ann_search.Part], trial: Trial) -> tuple[float, float]:
    """Recall among the first 10 of shards that are all asked, each as its note says, and median milliseconds of one query at a
    time; ``trial``: of the pictures of all, ids ascending."""
    exact = all(part.note.kind == "flat" for part in parts)
    found, times = [], []
    for number, query in enumerate(trial.queries):
        started = time.perf_counter()
        ids = np.sort(np.concatenate([_looked(part, query, trial.ids) for part in parts]))
        places = np.minimum(np.searchsorted(trial.ids, ids), len(trial.ids) - 1)
        held = trial.ids[places] == ids
        found.append(ids[held])
        if number < _TIMED:
            trial.store.take(trial.rows[places[held]], check=True).astype(np.float64) @ query.astype(np.float64)
            times.append(time.perf_counter() - started)
    milliseconds = round(1000 * float(np.median(times)), 3)
    if exact:
        return 1.0, milliseconds
    others = np.full((len(found), max(map(len, found), default=0)), -1, np.int64)
    for row, ids, own in zip(others, found, trial.own, strict=True):
        kept = ids[ids != own]
        row[: len(kept)] = kept
    right = trial.are_right(others).sum(axis=1)
    hits = np.minimum(right, trial.right) / max(trial.right, 1)
    least = min(float(np.mean(hits[way::WAYS])) for way in range(min(WAYS, len(hits))))
    return round(least, 4), milliseconds


def _looked(part: ann_search.Part, query: np.ndarray, ids: np.ndarray) -> np.ndarray:
    found = part.candidates(query, K, 0)
    return ids[(ids >= part.note.first) & (ids <= (part.note.last or ids.max()))] if found is None else found


def _moved(store: VectorStore, rows: np.ndarray, chosen: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Unit vectors (len(chosen), D) that leave the chosen ones, one in each way after the other; mostly at cosines of 0.95 to
    0.6."""
    base = store.take(rows[chosen])
    one, other = (store.take(rows[rng.integers(0, len(rows), len(chosen))]) for _ in range(2))
    step = one - other
    step /= np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-12)
    noise = rng.standard_normal(base.shape)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    count = (len(chosen), 1)
    ways = (
        base + step * rng.uniform(0.5, 1.25, count),
        base + noise * rng.uniform(0.3, 0.8, count),
        base + (one - base) * rng.uniform(0.2, 0.5, count),
    )
    out = np.empty(base.shape)
    for way, made in enumerate(ways):
        out[way::WAYS] = made[way::WAYS]
    return np.ascontiguousarray(out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12), np.float32)

"""How hard an index is to be looked through: the cheapest way that finds what was asked for, by trial (``recall.py``)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from retrieval.gallery.search import kind as ann_kind
from retrieval.gallery.search import lists, looking
from retrieval.gallery.search.looking import Effort, K
from retrieval.gallery.search.recall import WAYS, Trial

_MISSED = 1 / 2000  # of the stored vectors may not find themselves in a graph
_LOST = 1 / 400  # of the queries may find nothing that is right
_MOST_CANDIDATES = 1000
_MOST_NODES = 4096
_FARTHEST = math.pi / 4  # lists so far beyond the answers are never needed
_NEAREST = 0.01  # radians: a reach below that is none
_SURE = 1.645  # standard errors: the true recall reaches the target with 95 % confidence
_FINE = 16  # effort and reach are found to a sixteenth
_RESERVE = 1 / 3  # of what may be missed: a reach is chosen among many by the same queries, which flatters it


@dataclass(frozen=True)
class Operation:
    """How to search an index, see :class:`retrieval.gallery.search.note.ShardNote`, and what was measured so; ``reached``:
    whether that is what was asked for."""

    effort: int | None
    reach: float | None
    shortlist: int
    recall: float | None
    milliseconds: float | None
    queries: int
    reached: bool = True


class Tuning:
    """The search for the cheapest way to look through ``index`` that reaches the recall ``target``.

    The target counts as reached when a one-sided 95 % confidence bound of the recall is above it, when each way of leaving
    the gallery has that recall, and when next to no query finds nothing. In a graph, stored vectors have to find
    themselves, too. ``most``: the greatest effort there is, 1 where the kind knows none.
    """

    def __init__(self, index: Any, trial: Trial, target: float) -> None:
        import faiss

        self.index, self.trial, self.target = index, trial, target
        inner = ann_kind.core(index)
        self.graph = isinstance(inner, faiss.IndexHNSW)
        self.most = inner.nlist if isinstance(inner, faiss.IndexIVF) else _MOST_NODES if self.graph else 1
        self.in_steps = lists.can_be_told(index)
        self.wanted = min(_MOST_CANDIDATES, max(len(trial.ids) - 1, 1))
        self.plain = min(looking.least(K), self.wanted)

    def operation(self) -> Operation:
        """The cheapest, or the best there is."""
        tried: list[Operation] = []
        low, high = 0, 1
        reached = self._attempt(high, None, tried)
        while reached is None and high < self.most:
            low, high = high, min(2 * high, self.most)
            reached = self._attempt(high, None, tried)
        if reached is None:
            return self._timed(max(tried, key=lambda operation: operation.recall or 0.0))
        while high - low > max(1, high // _FINE):
            middle = (low + high) // 2
            less = self._attempt(middle, None, tried)
            if less is None:
                low = middle
            else:
                high, reached = middle, less
        ways = [self._timed(reached)]
        if reached.shortlist > self.plain and high < self.most:
            # Codes are rough: a second look at fewer candidates may be worth a longer first look.
            more = self._attempt(min(2 * high, self.most), None, tried)
            ways += [self._timed(more)] if more else []
        effort = min(ways, key=_median).effort or 1
        if self.in_steps and effort > lists.FIRST:
            ways += map(self._timed, self._nearest(effort, tried))
        return min(ways, key=_median)

    def _nearest(self, effort: int, tried: list[Operation]) -> list[Operation]:
        """With the least reach that will do, and with the least that will do with the fewest candidates."""
        low, high = 0.0, _FARTHEST
        enough = [way for way in [self._attempt(effort, high, tried)] if way]
        while enough and high > _NEAREST and high - low > high / _FINE:
            middle = (low + high) / 2
            less = self._attempt(effort, middle, tried)
            if less is None:
                low = middle
            else:
                high = middle
                enough.append(less)
        fewest = min((way.shortlist for way in enough), default=0)
        return list(dict.fromkeys([*enough[-1:], *[way for way in enough if way.shortlist == fewest][-1:]]))

    def _attempt(self, effort: int, reach: float | None, tried: list[Operation]) -> Operation | None:
        """The shortest list of candidates that reaches the target so, not timed yet; None if none does."""
        how = Effort(K, effort, reach)
        target = self.target if reach is None else 1 - (1 - self.target) * (1 - _RESERVE)
        recalls = self.trial.recalls(self.index, how, self.wanted)
        means = recalls.mean(axis=0)
        errors = recalls.std(axis=0) / np.sqrt(len(recalls))
        least = np.min([recalls[way::WAYS].mean(axis=0) for way in range(min(WAYS, len(recalls)))], axis=0)
        lost = (recalls == 0).mean(axis=0)
        sure = means - _SURE * errors * (means < 1) >= target
        enough = np.flatnonzero(sure & (least >= target) & (lost <= _LOST))
        shortlist = max(int(enough[0]) + 1 if len(enough) else self.wanted, self.plain)
        found = len(enough) > 0 and (not self.graph or self.trial.missed(self.index, how, self.plain) <= _MISSED)
        made = Operation(effort, reach, shortlist, round(float(least[shortlist - 1]), 4), None, len(recalls), found)
        tried.append(made)
        return made if found else None

    def _timed(self, way: Operation) -> Operation:
        """With the median of its milliseconds, by which it is compared with others: what a query usually takes."""
        times = self.trial.milliseconds(self.index, Effort(K, way.effort or 1, way.reach), way.shortlist)
        effort = way.effort if self.most > 1 else None
        return replace(way, effort=effort, milliseconds=round(float(np.median(times)), 3))


def _median(way: Operation) -> float:
    return way.milliseconds or 0.0


def exact(index: Any, trial: Trial) -> Operation:
    """That of an index that leaves nothing out: there is nothing to choose."""
    plain = looking.least(K)
    times = trial.milliseconds(index, Effort(K, 1), plain)
    return Operation(None, None, plain, 1.0, round(float(np.median(times)), 3), 0)

"""Candidates by outline: pictures that look alike when they are tiny, at whatever size they are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from retrieval.gallery.duplicates.looks import Looks
from retrieval.gallery.duplicates.thumbnails import OUTLINE
from retrieval.messages import Update, no_update
from retrieval.ranking.joins import similar_pairs

Ids = npt.NDArray[np.int64]

NEAREST = 8
LEVEL = 0.9  # correlation
_AT_ONCE = 256


class Outlines:
    """Of all contents: of the whole picture, and of what lies within plain borders where there are some. A kilobyte each."""

    def __init__(self, looks: Looks, count: int, update: Update = no_update) -> None:
        owners: list[int] = []
        vectors: list[npt.NDArray[np.float32]] = []
        self._looks = looks
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="thumbnail") as pool:
            for start in range(0, count, _AT_ONCE):
                part = range(start, min(start + _AT_ONCE, count))
                for content, found in zip(part, pool.map(self._of, part), strict=True):
                    owners += [content] * len(found)
                    vectors += found
                update(part.stop, count)
        self.owners = np.array(owners, np.int64)
        self.vectors = np.stack(vectors) if vectors else np.zeros((0, OUTLINE * OUTLINE), np.float32)

    def _of(self, content: int) -> list[npt.NDArray[np.float32]]:
        picture = self._looks.thumbnail(content)
        if picture is None:
            return []
        found = [picture.outline(inner) for inner in ((False, True) if picture.bordered else (False,))]
        return [vector for vector in found if vector is not None]

    def pairs(self, contents: Ids, others: Ids | None) -> list[tuple[int, int]]:
        """Pairs of positions in ``contents`` and ``others`` (or twice in ``contents``) that look alike."""
        mine = np.flatnonzero(np.isin(self.owners, contents))
        theirs = mine if others is None else np.flatnonzero(np.isin(self.owners, others))
        if not len(mine) or not len(theirs):
            return []
        pairs: set[tuple[int, int]] = set()
        for vectors in (self.vectors, *_upright(self.vectors)):
            found = similar_pairs(vectors[mine], None if others is None else vectors[theirs], least=LEVEL, k=NEAREST)
            first = _places(contents, self.owners[mine[found.first]])
            second = _places(contents if others is None else others, self.owners[theirs[found.second]])
            pairs.update(zip(first.tolist(), second.tolist(), strict=True))
        return sorted(pair for pair in pairs if others is not None or pair[0] != pair[1])


def _upright(vectors: npt.NDArray[np.float32]) -> Iterator[npt.NDArray[np.float32]]:
    """Each outline turned and mirrored so that most lies to the right, and more to the right than below: of what is light, and
    again of what stands out. A picture that is balanced in one way, so that chance decides, is seldom so in both."""
    squares = vectors.reshape(-1, OUTLINE, OUTLINE)
    ramp = np.arange(OUTLINE, dtype=np.float32) - (OUTLINE - 1) / 2
    for weights in (squares, squares * squares):
        across, down = weights.sum(axis=1) @ ramp, weights.sum(axis=2) @ ramp
        laid = squares.copy()
        laid[across < 0] = laid[across < 0][:, :, ::-1]
        laid[down < 0] = laid[down < 0][:, ::-1]
        swap = np.abs(down) > np.abs(across)
        laid[swap] = laid[swap].transpose(0, 2, 1)
        yield laid.reshape(len(vectors), -1)


def _places(contents: Ids, wanted: Ids) -> Ids:
    order = np.argsort(contents, kind="stable")
    return np.asarray(order[np.searchsorted(contents, wanted, sorter=order)], np.int64)

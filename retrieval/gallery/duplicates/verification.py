"""Is a pair of pictures a copy, altered perhaps, or another shot of a scene, or nothing of the kind?

A way to lay one on the other is sought, the cheapest first: whole on whole by their outlines, then by local points and a
homography (:mod:`retrieval.ranking.geometry`), upright and mirrored, then, for pictures with few points, by a shift, turn and
scale that some of them agree on, and by searching one in the other. It makes them copies where it is nearly affine and the
pixels agree (:mod:`retrieval.gallery.duplicates.agreement`), and where the points show no parallax
(:mod:`retrieval.gallery.duplicates.parallax`). Points that agree on a homography while the pixels do not make a scene.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from retrieval.gallery.duplicates import alignment
from retrieval.gallery.duplicates.agreement import (
    NONE,
    Agreement,
    Mapping,
    affine_part,
    best_agreement,
    is_affine,
    scale_of,
)
from retrieval.gallery.duplicates.candidates import Pair
from retrieval.gallery.duplicates.kept import KeptVerdicts, Verdict
from retrieval.gallery.duplicates.looks import Looks
from retrieval.gallery.duplicates.parallax import has_parallax
from retrieval.gallery.duplicates.thumbnails import Thumbnail
from retrieval.gallery.local_features import SIDE
from retrieval.messages import Update, no_update
from retrieval.ranking.geometry import LocalFeatures, Verification, similarity, verify
from retrieval.ranking.mirrored import mirrored

FEW_POINTS = 60
SCENE_INLIERS = 21  # unrelated pictures of one kind share a score now and then
SAME_DESCRIPTOR = 0.95  # cosine from which on pictures are taken for copies where no pixels can be had
_AT_ONCE = 64  # pairs


class Verifier:
    """Judges pairs of contents, each once. ``alone(a, b)``: cosine similarity, by which alone contents are judged that have no
    pixels; ``same_level``: from which on they are copies; ``unverified``: those pairs. ``kept``: verdicts of before, and where
    those of now go, if any."""

    kept: KeptVerdicts | None = None

    def __init__(self, looks: Looks, alone: Callable[[int, int], float], same_level: float) -> None:
        self.looks, self.alone, self.same_level = looks, alone, same_level
        self.verdicts: dict[Pair, Verdict] = {}
        self.unverified: set[Pair] = set()
        self._alike: dict[Pair, bool] = {}  # as wholes, whether mirrored: copies, or other photos

    def judge(self, pairs: Sequence[Pair], update: Update = no_update) -> list[Verdict]:
        """Of pairs ``(a, b)``, in whatever order."""
        asked = [(min(pair), max(pair)) for pair in pairs]
        new = sorted({pair for pair in asked if pair not in self.verdicts})
        if self.kept is not None:
            self.verdicts.update(self.kept.known(new))
            new = [pair for pair in new if pair not in self.verdicts]
        if new:
            self._judge(new, update)
        return [self.verdicts[pair] for pair in asked]

    def _judge(self, new: Sequence[Pair], update: Update) -> None:
        from threadpoolctl import threadpool_limits

        workers = min(4, os.cpu_count() or 1)
        # A core works on pairs of its own: products this small lose their time where cores share one.
        with (
            threadpool_limits(1, user_api="blas"),
            ThreadPoolExecutor(workers, thread_name_prefix="duplicates") as pool,
        ):
            for start in range(0, len(new), _AT_ONCE):
                part = new[start : start + _AT_ONCE]
                found = list(pool.map(self._whole, part))
                self.verdicts.update((pair, verdict) for pair, verdict in zip(part, found, strict=True) if verdict)
                rest = [pair for pair, verdict in zip(part, found, strict=True) if verdict is None]
                list(pool.map(self.looks.points, sorted({i for pair in rest for i in pair})))
                self._by_points(rest, pool)
                if self.kept is not None:
                    self.kept.add({pair: self.verdicts[pair] for pair in part if all(map(self.looks.seen, pair))})
                update(min(start + _AT_ONCE, len(new)), len(new))

    def _whole(self, pair: Pair) -> Verdict | None:
        """By their outlines; None where that does not decide."""
        a, b = (self.looks.thumbnail(i) for i in pair)
        if a is None or b is None:
            self.unverified.add(pair)
            return "copy" if self.alone(*pair) >= self.same_level else "none"
        for mapping in alignment.whole_on_whole(a, b):
            agreement = best_agreement(a, b, mapping)
            if agreement.copies("whole"):
                if agreement.equal:
                    return "copy"
                self._alike[pair] = bool(np.linalg.det(mapping[:2, :2]) < 0)
                break
        return None

    def _by_points(self, pairs: Sequence[Pair], pool: ThreadPoolExecutor) -> None:
        by_first: dict[int, list[int]] = {}
        for a, b in pairs:
            by_first.setdefault(a, []).append(b)
        for a, others in by_first.items():
            mine = self.looks.points(a)
            theirs = [self.looks.points(b) for b in others]
            self.verdicts.update(((a, b), "copy" if (a, b) in self._alike else "none") for b in others)
            if mine is None:
                continue
            read = [(b, other) for b, other in zip(others, theirs, strict=True) if other is not None]
            for points, mirror in ((mine, False), (mirrored(mine), True)):
                found = verify(points, [other for _, other in read])
                cases = [(a, b, points, other, one, mirror) for (b, other), one in zip(read, found, strict=True)]
                self.verdicts.update(pool.map(lambda case: self._verdict(*case), cases))
                read = [(b, other) for b, other in read if self.verdicts[a, b] == "none"]

    def _verdict(
        self, a: int, b: int, mine: LocalFeatures, other: LocalFeatures, found: Verification, mirror: bool
    ) -> tuple[Pair, Verdict]:
        if (a, b) in self._alike:
            if mirror != self._alike[a, b]:
                return (a, b), "none"  # in the mirror it is asked again
            moved = found.inliers >= SCENE_INLIERS and has_parallax(mine, other, found)
            return (a, b), "scene" if moved else "copy"
        first, second = self.looks.thumbnail(a), self.looks.thumbnail(b)
        if first is None or second is None:  # gone since
            return (a, b), "none"
        agreement = self._agreement(first, second, mine, other, found, mirror)
        if agreement.copies("points", _scale(found, mine)):
            if agreement.equal or not has_parallax(mine, other, found):
                return (a, b), "copy"
        elif min(len(mine.points), len(other.points)) < FEW_POINTS:
            placed = similarity(mine, other)
            if self._agreement(first, second, mine, other, placed, mirror).copies("placed", _scale(placed, mine)):
                return (a, b), "copy"
            if not mirror and _part(first, second, mine, other):
                return (a, b), "copy"
        return (a, b), "scene" if found.inliers >= SCENE_INLIERS and not mirror else "none"

    @staticmethod
    def _agreement(
        a: Thumbnail, b: Thumbnail, mine: LocalFeatures, other: LocalFeatures, found: Verification, mirror: bool
    ) -> Agreement:
        if found.homography is None or not is_affine(found.homography, mine.size[::-1]):
            return NONE
        flip = np.array([[-1, 0, mine.size[0] - 1], [0, 1, 0], [0, 0, 1]], np.float64) if mirror else np.eye(3)
        to_points = alignment.box_to_box(alignment.whole(a), (0, 0, *mine.size))
        from_points: Mapping = alignment.box_to_box((0, 0, *other.size), alignment.whole(b))
        # What perspective the points found is their noise in a copy, and another place of the camera in a flat scene.
        return best_agreement(a, b, affine_part(from_points @ found.homography @ flip @ to_points, a.grey.shape))


def _scale(found: Verification, mine: LocalFeatures) -> float:
    """Pixels of the second picture for one of the first; 0 where nothing was found."""
    return 0.0 if found.homography is None else scale_of(found.homography, mine.size[::-1])


def _part(a: Thumbnail, b: Thumbnail, mine: LocalFeatures, other: LocalFeatures) -> bool:
    """Whether one is found within the other, turned in no way."""
    ratio = (b.grey.shape[1] / other.size[0]) / (a.grey.shape[1] / mine.size[0])
    unreduced = max(*mine.size, *other.size) < SIDE
    for first, second, native in ((a, b, ratio), (b, a, 1 / ratio)):
        for mapping in alignment.part_of_whole(first.grey, second.grey, native if unreduced else None):
            if best_agreement(first, second, mapping).copies("searched"):
                return True
    return False

"""Duplicates in a gallery, between two, or of files that are new: from candidates to groups. Changes nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import GalleryMismatch, UsageError
from retrieval.gallery.duplicates import candidates
from retrieval.gallery.duplicates.answers import LEVELS, Duplicates, Group, Level, Member, Relation
from retrieval.gallery.duplicates.candidates import Pair
from retrieval.gallery.duplicates.items import Item, described_files, file_items, gallery_items
from retrieval.gallery.duplicates.kept import KeptVerdicts
from retrieval.gallery.duplicates.looks import Looks, matcher_of
from retrieval.gallery.duplicates.outlines import Outlines
from retrieval.gallery.duplicates.quality import UNKNOWN, Quality, best_first, quality
from retrieval.gallery.duplicates.thumbnails import Thumbnails
from retrieval.gallery.duplicates.verification import SAME_DESCRIPTOR, Verifier
from retrieval.gallery.local_features import LocalMatcher
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.view import VectorView
from retrieval.messages import Bars, no_bars
from retrieval.ranking.geometry import LocalFeatures
from retrieval.ranking.grouping import star_groups
from retrieval.ranking.neighbours import exact_similarities

_HUB = 0.9  # of the most links in a connected part


def find_duplicates(
    gallery: OpenedGallery,
    level: Level = "copies",
    other: OpenedGallery | None = None,
    files: Sequence[str | os.PathLike[str]] | None = None,
    *,
    bars: Bars = no_bars,
) -> Duplicates:
    """Groups of pictures that are the same, see :meth:`retrieval.Gallery.duplicates`."""
    if level not in LEVELS:
        raise UsageError(f"the level is one of {', '.join(LEVELS)}, not {level!r}")
    if other is not None and files is not None:
        raise UsageError("a gallery is compared with another one or with files, not with both")
    search = _Search(gallery, level, other, files, bars)
    if level != "exact":
        search.compare()
    return search.answer()


class _Search:
    """One search. Contents that several pictures share are compared once: ``contents[i]`` are the items of content ``i``."""

    def __init__(
        self,
        gallery: OpenedGallery,
        level: Level,
        other: OpenedGallery | None,
        files: Sequence[str | os.PathLike[str]] | None,
        bars: Bars,
    ) -> None:
        self.gallery, self.level, self.bars = gallery, level, bars
        self.exif = gallery.spec.image.exif
        self.unread: dict[str, str] = {}
        # Which sides are compared, one with another or (None) in itself, and which a group must have to be an answer.
        self.joins: tuple[tuple[int, int | None], ...] = ((0, None),)
        self.required: frozenset[str] = frozenset()
        self.whole: Any = None  # of named files: all vectors of the gallery, also of those that are named
        self.galleries = {"gallery": gallery} if other is None else {"gallery": gallery, "other": other}
        items, vectors = gallery_items(gallery, "gallery")
        sources: list[tuple[list[Item], Any]] = [(items, vectors)]
        if other is not None:
            if os.path.samefile(other.folder, gallery.folder):
                raise UsageError("a gallery cannot be the other one of itself", "Leave out the other one.")
            if level != "exact" and other.spec.fingerprint != gallery.spec.fingerprint:
                raise GalleryMismatch(
                    f"the galleries {gallery.folder} and {other.folder} were made with different models",
                    "Ask for exact copies alone, or index one of them anew with the other's model.",
                )
            self.joins, self.required = ((1, 0),), frozenset(("gallery", "other"))
            sources.append(gallery_items(other, "other"))
        elif files is not None:
            self.joins, self.required = ((1, 0), (1, None)), frozenset(("file",))
            stored = {item.digest: place for place, item in enumerate(items)}
            self.whole = _rows(vectors, _numbers(sorted(stored.values())))
            named, self.unread = file_items(files, self.exif)
            if level == "exact":
                sources.append((named, np.zeros((len(named), gallery.spec.dim), np.float32)))
            else:
                named, found, unread = described_files(named, gallery, stored, vectors)
                self.unread |= unread
                sources.append((named, found))
        if len(sources) > 1:  # a picture that is on both sides is no copy of itself
            sources[0] = _without(*sources[0], {item.path for item in sources[1][0]})
        places: dict[str, int] = {}
        self.contents: list[list[Item]] = []
        # Of each side: the contents that it holds, and where the vector of each lies among the side's own.
        self.held: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Any]] = []
        for items, vectors in sources:
            first: dict[int, int] = {}
            for position, item in enumerate(items):
                content = places.setdefault(item.digest, len(self.contents))
                if content == len(self.contents):
                    self.contents.append([])
                self.contents[content].append(item)
                first.setdefault(content, position)
            self.held.append((_numbers(first.keys()), _numbers(first.values()), vectors))
        self.pictures = sum(map(len, self.contents))
        # Later sides win: a file's vector is in memory.
        self._vector = {
            int(c): (vectors, int(p)) for held, at, vectors in self.held for c, p in zip(held, at, strict=True)
        }
        self.looks = Looks(self.contents, self._thumbnails(), self._matchers())
        self.verifier = Verifier(self.looks, self._cosine, SAME_DESCRIPTOR)
        self.qualities: dict[int, Quality] = {}
        self.copies: list[list[int]] = []  # contents, best first
        self.scenes: list[list[int]] = []  # heads of copies, or single contents

    def _thumbnails(self) -> dict[str, Thumbnails]:
        found = {side: Thumbnails(g.folder, g.spec.image.exif) for side, g in self.galleries.items()}
        return {**found, "file": Thumbnails(None, self.exif)}

    def _matchers(self) -> dict[str, LocalMatcher[LocalFeatures]]:
        found = {side: matcher_of(gallery) for side, gallery in self.galleries.items()}
        return {**found, "file": matcher_of(self.gallery)}

    def _cosine(self, a: int, b: int) -> float:
        one, other = (
            np.asarray(vectors[place : place + 1], np.float32) for vectors, place in (self._vector[a], self._vector[b])
        )
        lengths = float(np.linalg.norm(one.astype(np.float64)) * np.linalg.norm(other.astype(np.float64)))
        return float(np.clip(exact_similarities(one[0], other, np.zeros(1, np.int64))[0] / max(lengths, 1e-12), -1, 1))

    # -- comparing -----------------------------------------------------------------------------------------------

    def compare(self) -> None:
        kept = KeptVerdicts(self.gallery.folder, lambda i: self.contents[i][0].digest, self.exif)
        self.verifier.kept = kept
        try:
            self._compare()
            if not self.required:  # of all pictures
                kept.forget_others(self.verifier.verdicts)
        finally:
            kept.write()

    def _compare(self) -> None:
        pairs = self._candidates()
        with self.bars("comparing") as update:
            verdicts = self.verifier.judge(pairs, update)
        links = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict == "copy"]
        self._measure({i for pair in links for i in pair})
        self.copies = star_groups(self._order(links), links, self._linked("copy"))
        if self.level == "scenes":
            head = {i: group[0] for group in self.copies for i in group}
            seen = [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict != "none"]
            lifted = {(head.get(a, a), head.get(b, b)) for a, b in seen}
            lifted = {(min(pair), max(pair)) for pair in lifted if pair[0] != pair[1]}
            asked = sorted(lifted)
            judged = zip(asked, self.verifier.judge(asked), strict=True)
            scenes = [pair for pair, verdict in judged if verdict != "none"]
            self._measure({i for pair in scenes for i in pair})
            self.scenes = star_groups(self._order(scenes), scenes, self._linked("scene"))

    def _linked(self, least: Relation) -> Callable[[int, Sequence[int]], list[bool]]:
        wanted = ("copy",) if least == "copy" else ("copy", "scene")

        def linked(centre: int, others: Sequence[int]) -> list[bool]:
            return [verdict in wanted for verdict in self.verifier.judge([(centre, other) for other in others])]

        return linked

    def _candidates(self) -> list[Pair]:
        """Pairs of contents, each once."""
        with self.bars("thumbnails") as update:
            outlines = Outlines(self.looks, len(self.contents), update)
        # What unrelated pictures are like is shown by most of them, neither by a few named ones nor by what those leave.
        background = self._side(0)[1]
        if self.whole is not None:
            background = max(self.whole, self._side(1)[1], key=len)
        pairs: set[Pair] = set()
        for mine, theirs in self.joins:
            first, vectors = self._side(mine)
            second, others = (first, None) if theirs is None else self._side(theirs)
            near = candidates.by_descriptor(vectors, others, background)
            alike = outlines.pairs(first, None if theirs is None else second)
            pairs |= {(int(first[a]), int(second[b])) for a, b in (*near, *alike)}
        return sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]})

    def _side(self, number: int) -> tuple[npt.NDArray[np.int64], Any]:
        """The contents of a side and their vectors."""
        contents, at, vectors = self.held[number]
        return contents, _rows(vectors, at)

    def _measure(self, wanted: set[int]) -> None:
        """The quality of contents that lie in groups."""
        new = sorted(wanted - self.qualities.keys())
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            self.qualities.update(zip(new, pool.map(self._quality, new), strict=True))

    def _quality(self, i: int) -> Quality:
        look = self.looks.thumbnail(i)
        found = (quality(item, look, self.exif) for item in self.contents[i])
        return next((one for one in found if one is not UNKNOWN), UNKNOWN)

    def _order(self, links: Sequence[Pair]) -> list[int]:
        """Everything that is linked, best first within each connected part. Only what has nearly as many links as any other
        can be best: text over a picture is sharp, but lies far from the other copies."""
        degree = Counter(i for pair in links for i in pair)
        order: list[int] = []
        for part in _parts(links):
            most = max(degree[i] for i in part)
            hubs = [i for i in part if degree[i] >= _HUB * most]
            for some in (hubs, [i for i in part if degree[i] < _HUB * most]):
                order += [some[i] for i in best_first([self.qualities[m] for m in some])]
        return order

    # -- answering -----------------------------------------------------------------------------------------------

    def answer(self) -> Duplicates:
        head = {i: group[0] for group in self.copies for i in group}
        whole = {group[0]: group for group in self.copies}
        groups: list[Group] = []
        done: set[int] = set()
        for scene in self.scenes:
            ranked: list[tuple[int, Relation]] = []
            for place, member in enumerate(scene):
                near: Relation = "copy" if place == 0 else "scene"
                ranked += [(i, near) for i in whole.get(member, [member])]
            groups.append(self._group("scenes", ranked))
            done.update(i for i, _ in ranked)
        for group in self.copies:
            if group[0] not in done:
                groups.append(self._group("copies", [(i, "copy") for i in group]))
                done.update(group)
        for i, items in enumerate(self.contents):
            if i not in done and i not in head and len(items) > 1:
                groups.append(self._group("exact", [(i, "exact")]))
        kept = [group for group in groups if self.required <= {member.side for member in group.members}]
        kept.sort(key=lambda group: (LEVELS.index(group.kind), group.best.path))
        unread = dict(sorted({**self.unread, **self.looks.unread}.items()))
        return Duplicates(self.level, kept, self.pictures, unread)

    def _group(self, kind: Level, ranked: list[tuple[int, Relation]]) -> Group:
        best = ranked[0][0]
        members: list[Member] = []
        for content, relation in ranked:
            score = 1.0 if content == best else None if self.level == "exact" else self._cosine(best, content)
            pair = (min(best, content), max(best, content))
            for item in self._readable_first(content):
                members.append(
                    Member(
                        path=item.name,
                        id=item.id,
                        side=item.side,
                        width=item.width,
                        height=item.height,
                        bytes=item.bytes,
                        score=None if score is None else round(score, 6),
                        relation="exact" if content == best else relation,
                        verified=pair not in self.verifier.unverified,
                        best=not members,
                        digest=item.digest,
                    )
                )
        return Group(kind, members)

    def _readable_first(self, content: int) -> list[Item]:
        """Of the same content the file that is there, then the one with the lowest id."""
        return sorted(self.contents[content], key=lambda item: not (item.path and os.path.isfile(item.path)))


def _without(items: list[Item], vectors: VectorView, paths: set[str]) -> tuple[list[Item], VectorView]:
    """The items of other paths than these; keys stay."""
    kept = [i for i, item in enumerate(items) if not item.path or item.path not in paths]
    return [items[i] for i in kept], VectorView(vectors.store, vectors.rows[kept])


def _rows(vectors: Any, at: npt.NDArray[np.int64]) -> Any:
    """These rows of a view, as a view; of an array, as an array."""
    return VectorView(vectors.store, vectors.rows[at]) if isinstance(vectors, VectorView) else vectors[at]


def _numbers(values: Any) -> npt.NDArray[np.int64]:
    return np.fromiter(values, np.int64)


def _parts(links: Sequence[Pair]) -> list[list[int]]:
    """What is connected, each part ascending, by its first."""
    above: dict[int, int] = {}

    def top(i: int) -> int:
        while above.setdefault(i, i) != i:
            above[i] = i = above[above[i]]
        return i

    for a, b in links:
        one, other = sorted((top(a), top(b)))
        above[other] = one
    parts: dict[int, list[int]] = {}
    for i in sorted(above):
        parts.setdefault(top(i), []).append(i)
    return [parts[i] for i in sorted(parts)]

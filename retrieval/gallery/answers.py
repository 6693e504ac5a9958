"""What a query is answered with. Light to import: who only prints answers needs no array."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from retrieval.errors import BoxError, ImageError, UsageError
from retrieval.ranking.verdicts import LIKELY, SAME


@dataclass(frozen=True)
class Match:
    """One answer: ``score`` is the cosine similarity in [-1, 1]; ``path`` opens as printed from the current folder, or is the
    key under which a program added the picture; ``metadata`` is what it added with it.

    Where the gallery has a local index: ``probability`` that it shows the same thing, ``verdict`` what that is in a word ("same",
    "likely", "similar" or None, by :mod:`retrieval.ranking.verdicts`), ``fused`` the log-odds that the order follows, ``local``
    the similarity of local features in [0, 1], ``inliers`` how many of these agree in one pose. None where it was not computed.

    ``copies``: paths of the copies that were folded into this answer, by rank.
    """

    rank: int
    score: float
    id: int
    path: str
    metadata: dict[str, Any] | None = None
    local: float | None = None
    fused: float | None = None
    inliers: int | None = None
    probability: float | None = None
    verdict: str | None = None
    copies: tuple[str, ...] = ()


@dataclass(frozen=True)
class QueryResult:
    """The ranking for one query picture; ``query`` is its path, "" for one in memory. ``error``: why there is none.
    ``filtered``: how many of the first k were left out by a least score or probability.

    Iterating it gives its matches, best first, ``len()`` their number; so one without matches is false."""

    query: str
    bbox: tuple[float, float, float, float] | None
    matches: list[Match] = field(default_factory=list)
    error: ImageError | None = None
    filtered: int = 0

    def __iter__(self) -> Iterator[Match]:
        return iter(self.matches)

    def __len__(self) -> int:
        return len(self.matches)

    @property
    def found(self) -> bool | None:
        """Whether a match shows the same thing, for sure or likely; None where no verdict was given."""
        if not any(match.probability is not None for match in self.matches):
            return None
        return any(match.verdict in (SAME, LIKELY) for match in self.matches)


def one_box(bbox: Sequence[float] | None, pictures: int) -> tuple[float, float, float, float] | None:
    """A query's box (x1, y1, x2, y2) as numbers. Raises UsageError for what is none, or a box beside several ``pictures``."""
    if bbox is None:
        return None
    if pictures != 1:
        raise UsageError("a box goes with one picture, not with a list")
    try:
        left, top, right, bottom = (float(edge) for edge in bbox)
    except (TypeError, ValueError, OverflowError):
        raise BoxError(f"a box is four numbers, x1, y1, x2, y2 in pixels, not {bbox!r:.60}") from None
    return left, top, right, bottom

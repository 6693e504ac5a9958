"""Which shards of a search index are made anew after changes, and what they take in with them.

A gallery of up to a shard's rows has one file, which takes all changes in. In a larger one, pictures that came lie behind the
last shard and become one of their own; it takes in the shards before it that are no larger than twice its size, so a row is
written again only when what it lies in doubles, and there are few shards. A shard of which much went or changed is made anew
alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from retrieval.gallery.search.note import ShardNote

SHARD_ROWS = 1 << 20


@dataclass(frozen=True)
class Stretch:
    """Ids ``first`` to ``last`` (None: all later ones), which ``files`` shards cover so far, none behind the last one.

    ``shard``: the one, where it is sound and of the right kind. ``rows``: pictures with a vector there; ``live``: those of them
    that no file holds; ``stale``: what a file holds and is no longer so, or came late. ``remake``: whether a new file is due;
    ``alone``: without its neighbours.
    """

    first: int
    last: int | None
    files: int = 0
    shard: ShardNote | None = None
    rows: int = 0
    live: int = 0
    stale: int = 0
    remake: bool = False
    alone: bool = False


def planned(stretches: Sequence[Stretch], beside: int, most_stale: Sequence[int]) -> list[Stretch]:
    """The stretches in order, with what is to be made anew. ``beside``: how many live changes may stay without a file;
    ``most_stale``: of each stretch, how many of its file's pictures may be masked. The last stretch is what lies behind all
    shards."""
    plan = [
        replace(stretch, remake=stretch.remake or stretch.stale > most)
        for stretch, most in zip(stretches, most_stale, strict=True)
    ]
    while sum(stretch.live for stretch in plan if not stretch.remake) > beside:
        most = max((s.live, i) for i, s in enumerate(plan) if not s.remake)[1]
        plan[most] = replace(plan[most], remake=True)
    return _joined(plan)


def _joined(plan: list[Stretch]) -> list[Stretch]:
    """Neighbours that are made anew become one stretch, and take in others beside them that are not much larger."""
    at = 0
    while at + 1 < len(plan):
        if _belong(plan[at], plan[at + 1]):
            plan[at : at + 2] = [_union(plan[at], plan[at + 1])]
            at = max(at - 1, 0)
        else:
            at += 1
    return plan


def _belong(one: Stretch, other: Stretch) -> bool:
    if one.alone or other.alone:
        return False
    if one.remake and other.remake:
        return True
    made, kept = (one, other) if one.remake else (other, one)
    return made.remake and kept.rows < 2 * made.rows and kept.rows + made.rows <= SHARD_ROWS


def _union(one: Stretch, other: Stretch) -> Stretch:
    files = one.files + other.files
    return Stretch(
        one.first,
        other.last,
        files,
        (one.shard or other.shard) if files == 1 else None,
        one.rows + other.rows,
        one.live + other.live,
        one.stale + other.stale,
        remake=True,
    )

"""Groups of pairs: stars around their best member, so that no group is a chain of things that are less and less alike.

In connected components A is with C because both are like B, and a single wrong pair, or a collage, joins what has nothing to do
with each other. Here every member of a group is linked with the group's best member itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def star_groups(
    order: Sequence[T], links: Iterable[tuple[T, T]], linked: Callable[[T, Sequence[T]], Sequence[bool]] | None = None
) -> list[list[T]]:
    """Groups of at least two, each with its centre first; every member is linked with the centre, and lies in one group.

    ``order``: everything that ``links`` names, best first: centres are taken in this order among what is left, members are
    listed in it. ``linked(centre, others)``: whether these are linked with the centre; asked for what is two links away from
    it, so that a link that was never looked for is not missed. Without it, no link is added.
    """
    place = {thing: i for i, thing in enumerate(order)}
    near: dict[T, set[T]] = {}
    for a, b in links:
        if a != b:
            near.setdefault(a, set()).add(b)
            near.setdefault(b, set()).add(a)
    free = set(near)
    groups = []
    for centre in sorted(near, key=place.__getitem__):
        if centre not in free:
            continue
        members = near[centre] & free
        if linked is not None:
            further = set().union(*(near[m] for m in members)) - near[centre] - {centre} if members else set()
            asked = sorted(further & free, key=place.__getitem__)
            if asked:
                members |= {thing for thing, yes in zip(asked, linked(centre, asked), strict=True) if yes}
        if members:
            groups.append([centre, *sorted(members, key=place.__getitem__)])
            free -= {centre, *members}
    return groups

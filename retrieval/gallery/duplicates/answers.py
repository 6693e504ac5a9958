"""What a search for duplicates answers: groups of pictures, each with its best member first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["exact", "copies", "scenes"]
LEVELS: tuple[Level, ...] = ("exact", "copies", "scenes")
Relation = Literal["exact", "copy", "scene"]


@dataclass(frozen=True)
class Member:
    """A picture of a group. ``path`` opens as printed, or is a key; ``id`` is its own gallery's, None for a file that is in
    none; ``side``: "gallery", "other" or "file". Sizes are None where unknown (a key). ``score``: cosine similarity to the
    best member, None where there is no descriptor. ``relation`` to the best member: "exact" for the same content,
    "copy" for an altered copy, "scene". ``verified`` is false where only descriptors could be compared. ``digest``: content
    hash."""

    path: str
    id: int | None
    side: Literal["gallery", "other", "file"]
    width: int | None
    height: int | None
    bytes: int | None
    score: float | None
    relation: Relation
    verified: bool
    best: bool
    digest: str


@dataclass(frozen=True)
class Group:
    """``kind``: "exact" where all members have the same content, "copies" where all are copies of the best one, "scenes" where
    some are other shots. The best member comes first."""

    kind: Level
    members: list[Member]

    @property
    def best(self) -> Member:
        return self.members[0]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"kind": self.kind, "members": [dict(member.__dict__) for member in self.members]}


@dataclass(frozen=True)
class Duplicates:
    """``groups``: exact ones first, then copies, then scenes, each by the best member's path. ``pictures``: how many were
    compared; ``unread``: path -> why its pixels could not be looked at (its content hash and descriptor were)."""

    level: Level
    groups: list[Group]
    pictures: int
    unread: dict[str, str] = field(default_factory=dict)

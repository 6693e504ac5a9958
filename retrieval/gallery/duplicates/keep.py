"""Which files need not be kept: copies of a better one that is there. A list; nothing is deleted here or anywhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator

from retrieval.errors import UsageError
from retrieval.files.digest import content_hash
from retrieval.gallery.duplicates.answers import Duplicates, Group, Member
from retrieval.gallery.duplicates.edits import worth_keeping
from retrieval.gallery.duplicates.look import Look
from retrieval.messages import Say, Update, no_update, say_nothing

_CHANGED = "it is no file that is as it was compared"
_SHOT, _UNVERIFIED = "it is another shot", "it was compared by its descriptor alone"
_INDEXED, _SAME = "it is in the gallery already", "it is the best one by another name"
_PLAIN = (_SHOT, _UNVERIFIED, _INDEXED, _SAME)  # go without saying in a list


def superfluous(found: Duplicates, warn: Say = say_nothing) -> list[str]:
    """Paths of all verified copies but the best of each group, and but those that are worth keeping, which are told.

    Each file is read again: a group whose best is no file, or not the content that was compared, is left alone, and so is a
    copy that changed, that is not there, that is the best one itself by another name (a link), or that says anything the best
    does not (:func:`retrieval.gallery.duplicates.edits.worth_keeping`). Where single files were looked for in a gallery, they
    alone are named: what is indexed already stays, if it is the lesser copy too. Raises UsageError for groups of scenes, which
    hold different pictures.
    """
    if found.level == "scenes":
        raise UsageError("other shots of a scene are no copies", "Ask for exact copies or copies.")
    paths: list[str] = []
    for group in found.groups:
        if not _as_compared(group.best):
            warn(f"the copies of {group.best.path} are left alone: {_CHANGED}")
            continue
        for member, why in _looked_at(group):
            if why is None:
                paths.append(member.path)
            elif why == _CHANGED:
                warn(f"{member.path} is left alone: {why}")
            elif why not in _PLAIN:
                warn(f"{member.path} is left alone beside {group.best.path}: {why}")
    return paths


def reasons_to_keep(found: Duplicates, update: Update = no_update) -> dict[str, str]:
    """Why a picture is kept beside the best of its group, by path: all but the best ones and such as need not be kept."""
    kept: dict[str, str] = {}
    for done, group in enumerate(found.groups, 1):
        if _as_compared(group.best):
            kept |= {member.path: why for member, why in _looked_at(group) if why is not None}
        else:
            kept |= {member.path: f"the best one: {_CHANGED}" for member in group.members[1:]}
        update(done, len(found.groups))
    return kept


def _looked_at(group: Group) -> Iterator[tuple[Member, str | None]]:
    """Members but the best, each with why it is worth keeping; None where nothing speaks for it."""
    look = Look(group.best.path)
    new = any(member.side == "file" for member in group.members)
    for member in group.members[1:]:
        if member.relation == "scene":
            yield member, _SHOT
        elif not member.verified:
            yield member, _UNVERIFIED
        elif new and member.side != "file":
            yield member, _INDEXED
        elif os.path.realpath(member.path) == os.path.realpath(group.best.path):
            yield member, _SAME
        elif not _as_compared(member):
            yield member, _CHANGED
        else:
            yield member, None if member.relation == "exact" else worth_keeping(Look(member.path), look)


def _as_compared(member: Member) -> bool:
    try:
        return os.path.isfile(member.path) and content_hash(member.path) == member.digest
    except OSError:
        return False

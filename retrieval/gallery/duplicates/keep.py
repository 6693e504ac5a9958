"""Which files need not be kept: copies of a better one that is there. A list; nothing is deleted here or anywhere else."""

from __future__ import annotations

import os

from retrieval.errors import UsageError
from retrieval.files.digest import content_hash
from retrieval.gallery.duplicates.answers import Duplicates, Member
from retrieval.gallery.duplicates.edits import Look, worth_keeping
from retrieval.messages import Say, say_nothing


def superfluous(found: Duplicates, warn: Say = say_nothing) -> list[str]:
    """Paths of all verified copies but the best of each group.

    Each file is read again: a group whose best is no file, or not the content that was compared, is left alone, and so is a
    copy that changed, that is not there, that is the best one itself by another name (a link), or that looks different and is
    about as large: an edit is no lesser copy, and which of two is the original cannot be known. Where single files were looked
    for in a gallery, they alone are named: what is indexed already stays, if it is the lesser copy too. Raises UsageError for
    groups of scenes, which hold different pictures.
    """
    if found.level == "scenes":
        raise UsageError("other shots of a scene are no copies", "Ask for exact copies or copies.")
    paths: list[str] = []
    for group in found.groups:
        if not _as_compared(group.best):
            warn(f"the copies of {group.best.path} are left alone: it is no file that is as it was compared")
            continue
        best, look = os.path.realpath(group.best.path), Look(group.best.path)
        new = any(member.side == "file" for member in group.members)
        for member in group.members[1:]:
            if new and member.side != "file":
                continue
            if member.verified and os.path.realpath(member.path) != best:
                if not _as_compared(member):
                    warn(f"{member.path} is left alone: it is no file that is as it was compared")
                elif member.relation != "exact" and (why := worth_keeping(Look(member.path), look)):
                    warn(f"{member.path} is left alone beside {group.best.path}: {why}")
                else:
                    paths.append(member.path)
    return paths


def _as_compared(member: Member) -> bool:
    try:
        return os.path.isfile(member.path) and content_hash(member.path) == member.digest
    except OSError:
        return False

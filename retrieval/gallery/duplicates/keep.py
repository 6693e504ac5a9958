"""Which files need not be kept: copies of a better one that is there. A list; nothing is deleted here or anywhere else."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from retrieval.errors import UsageError
from retrieval.files.digest import content_hash
from retrieval.gallery.duplicates.answers import Duplicates, Group, Member
from retrieval.gallery.duplicates.edits import worth_keeping
from retrieval.gallery.duplicates.look import Look, Once
from retrieval.messages import Say, Update, no_update, say_nothing
from retrieval.pictures.gate import Gate
from retrieval.pictures.limits import Limits

_CHANGED = "it is no file that is as it was compared"
_BEST_CHANGED = f"the best one: {_CHANGED}"
_SHOT, _UNVERIFIED = "it is another shot", "it was compared by its descriptor alone"
_INDEXED, _SAME = "it is in the gallery already", "it is the best one by another name"
_BYTES = 8  # that a pixel of a picture takes while it is compared
_PLAIN = (_SHOT, _UNVERIFIED, _INDEXED, _SAME)  # go without saying in a list


def superfluous(found: Duplicates, warn: Say = say_nothing, update: Update = no_update) -> list[str]:
    """Paths of all verified copies but the best of each group, and but those that are worth keeping, which are told.

    Each file is read again: a group whose best is no file, or not the content that was compared, is left alone, and so is a
    copy that changed, that is not there, that is the best one itself by another name (a link), or that says anything the best
    does not (:func:`retrieval.gallery.duplicates.edits.worth_keeping`). Where single files were looked for in a gallery, they
    alone are named: what is indexed already stays, if it is the lesser copy too. ``update(done, total)`` of pictures. Raises
    UsageError for groups of scenes, which hold different pictures.
    """
    if found.level == "scenes":
        raise UsageError("other shots of a scene are no copies", "Ask for exact copies or copies.")
    paths: list[str] = []
    for group, reasons in _looked_at(found.groups, update):
        if _BEST_CHANGED in reasons:
            warn(f"the copies of {group.best.path} are left alone: {_CHANGED}")
            continue
        for member, why in zip(group.members[1:], reasons, strict=True):
            if why is None:
                paths.append(member.path)
            elif why == _CHANGED:
                warn(f"{member.path} is left alone: {why}")
            elif why not in _PLAIN:
                warn(f"{member.path} is left alone beside {group.best.path}: {why}")
    return paths


def reasons_to_keep(found: Duplicates, update: Update = no_update) -> dict[str, str]:
    """Why a picture is kept beside the best of its group, by path: all but the best ones and such as need not be kept.
    ``update(done, total)`` of pictures."""
    kept: dict[str, str] = {}
    for group, reasons in _looked_at(found.groups, update):
        told = zip(group.members[1:], reasons, strict=True)
        kept |= {member.path: why for member, why in told if why is not None}
    return kept


class _Best:
    """The best one of a group, which several threads compare with its copies."""

    def __init__(self, group: Group) -> None:
        self.member, self.look = group.best, Look(group.best.path)
        self.new = any(member.side == "file" for member in group.members)
        self.turn = threading.RLock()

    @Once
    def as_compared(self) -> bool:
        return _as_compared(self.member)


def _looked_at(groups: Sequence[Group], update: Update) -> Iterator[tuple[Group, list[str | None]]]:
    """Groups in their order, and why each member but the best is worth keeping; None where nothing speaks for it.

    Several pictures are looked at beside each other, as many as the memory for pictures allows."""
    from threadpoolctl import threadpool_limits

    gate, limits = Gate(), Limits.from_environment()

    def look(member: Member, best: _Best) -> str | None:
        with gate.room(_BYTES * (_pixels(member) + _pixels(best.member)), limits.memory):
            return _why(member, best) if best.as_compared else _BEST_CHANGED

    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="keep")

    def begun(group: Group) -> list[Future[str | None]]:
        best = _Best(group)  # held by what is to be done alone, so that it goes with the last of its copies
        return [pool.submit(look, member, best) for member in group.members[1:]]

    # The products are small: threads of their own would wait for each other longer than they take.
    with threadpool_limits(1, user_api="blas"):
        try:
            running = [begun(group) for group in groups]
            done, total = 0, sum(map(len, running))
            for group, futures in zip(groups, running, strict=True):
                reasons = []
                for future in futures:
                    reasons.append(future.result())
                    done += 1
                    update(done, total)
                yield group, reasons
        finally:
            pool.shutdown(cancel_futures=True)


def _why(member: Member, best: _Best) -> str | None:
    if member.relation == "scene":
        return _SHOT
    if not member.verified:
        return _UNVERIFIED
    if best.new and member.side != "file":
        return _INDEXED
    if os.path.realpath(member.path) == os.path.realpath(best.member.path):
        return _SAME
    if not _as_compared(member):
        return _CHANGED
    return None if member.relation == "exact" else worth_keeping(Look(member.path), best.look)


def _pixels(member: Member) -> int:
    return (member.width or 0) * (member.height or 0)


def _as_compared(member: Member) -> bool:
    try:
        return os.path.isfile(member.path) and content_hash(member.path) == member.digest
    except OSError:
        return False

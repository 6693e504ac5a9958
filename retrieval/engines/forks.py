"""Threads of a network stay in the process where it ran: what was forked from that would wait for them for ever."""

from __future__ import annotations

import os

from retrieval.errors import ModelError

_at_work = False  # whether a network was made in this process
_forked = False  # from one where one was


def note_at_work() -> None:
    global _at_work
    _at_work = True


def was_forked() -> bool:
    """Whether this process was forked from one where a network was made."""
    return _forked


def require_own_threads() -> None:
    """Raises ModelError in a process that was forked from one where a network was made."""
    if _forked:
        raise ModelError(
            "a network ran before this process was forked, and its threads stayed behind",
            'Start processes with multiprocessing.get_context("spawn"), or describe in one of them only.',
        )


def _after_fork() -> None:
    global _forked
    _forked = _at_work


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)

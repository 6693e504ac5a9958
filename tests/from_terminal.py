"""Processes that are sent signals, as they are started from a terminal."""

from __future__ import annotations

import signal


def usual_signals() -> None:
    """``preexec_fn`` of a process that is to end by SIGINT or SIGHUP: where the tests run in the background of a shell, or under
    nohup, these are ignored, and so they would be by what the tests start."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)

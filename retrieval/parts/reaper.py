"""Ends what is left of a Ray that `describe --on ray` started, should its driver be killed: some of Ray's helpers never do.

``python reaper.py FOLDER`` reads its standard input, which ends with the driver. Then every process of this user that holds a
file below FOLDER open, as all of Ray's do, has a few seconds to end by itself; and FOLDER, which has Ray's logs, goes. It is
run as a file and needs the standard library alone. Processes are found in /proc, so on Linux; elsewhere nothing is ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress

_PATIENCE = 5.0  # seconds
_LOOK = 0.2


def holders(folder: str) -> list[int]:
    """Processes other than this one that have a file below ``folder`` open."""
    below, found = os.path.join(folder, ""), []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self/fd") else []:
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        with suppress(OSError):  # another user's, or gone
            for number in os.listdir(f"/proc/{name}/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/{name}/fd/{number}").startswith(below):
                        found.append(int(name))
                        break
    return found


def reap(folder: str, patience: float = _PATIENCE) -> None:
    """Until no process holds ``folder`` any more; after ``patience`` seconds they are killed."""
    end = time.monotonic() + patience
    while left := holders(folder):
        if time.monotonic() > end:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    reap(os.path.realpath(sys.argv[1]))

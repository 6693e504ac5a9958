"""Ends what is left of a Ray that `describe --on ray` started, should its driver be killed: some of Ray's helpers never do.

``python reaper.py FOLDER`` reads its standard input, which ends with the driver, or when that is done with Ray. Then every other
process of this user that holds a file below FOLDER open, as all of Ray's do, has two seconds to end by itself; and FOLDER,
which has Ray's logs, goes. It is run as a file and needs the standard library alone. Processes are found in /proc, so on
Linux; elsewhere nothing is ended.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from contextlib import suppress

_PATIENCE = 2.0  # seconds
_LOOK = 0.2


def holders(folder: str) -> list[int]:
    """Processes other than this one and its parent that have a file below ``folder`` open."""
    below, found = os.path.join(folder, ""), []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self/fd") else []:
        if not name.isdecimal() or int(name) in (os.getpid(), os.getppid()):
            continue
        with suppress(OSError):  # another user's, or gone
            for number in os.listdir(f"/proc/{name}/fd"):
                with suppress(OSError):
                    if os.readlink(f"/proc/{name}/fd/{number}").startswith(below):
                        found.append(int(name))
                        break
    return found


def reap(folder: str) -> None:
    """Until no process holds ``folder`` any more; after two seconds they are killed."""
    end = time.monotonic() + _PATIENCE
    while left := holders(folder):
        if time.monotonic() > end:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK)
    shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    sys.stdin.buffer.read()
    reap(os.path.realpath(sys.argv[1]))


if __name__ == "__main__":
    main()

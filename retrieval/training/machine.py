"""Where a run happens and who hears of it: all that its configuration leaves out, as none of it decides the result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from retrieval.messages import Bars, Say, no_bars, say_nothing
from retrieval.system.processes import Processes, join_processes, leave_processes
from retrieval.training.data.pictures import decode_workers


@dataclass(frozen=True)
class Machine:
    """``processes``: those that train one model together, each with its device; ``workers``: threads that decode pictures in
    each of them; ``say`` gets lines for a person, and ``bars`` makes progress bars."""

    processes: Processes = field(default_factory=Processes)
    workers: int = field(default_factory=decode_workers)
    say: Say = say_nothing
    bars: Bars = no_bars


@contextmanager
def joined(device: str, workers: int | None, say: Say, bars: Bars) -> Iterator[Machine]:
    """Within this, one of the processes that train together, or the only one. The first one alone speaks."""
    processes = join_processes(device)
    try:
        if not processes.first:
            say, bars = say_nothing, no_bars
        yield Machine(processes, decode_workers(workers), say, bars)
    finally:
        leave_processes()

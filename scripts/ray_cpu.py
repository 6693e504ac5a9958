"""CPU seconds of the processes that describe: `retrieve describe --on ray` beside `retrieve index`, on the same photos.

    python scripts/ray_cpu.py /photos --pictures 2000           # drawn from all below /photos by a seed

Both run one after the other, as often as ``--rounds`` says, in turn; the least of each is told. User and system seconds are
those of the processes that describe: for Ray its workers, start-up and all; the driver, which imports and waits, and Ray's
daemons (raylet, GCS, agents, log monitor) are told apart. Processes are looked at ten times a second, so of each its last
tenth may be missing.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent))
from ray_attack.families import Family

from retrieval.pictures.scan import walk

MODEL = ("--model", "efficientnet_lite0-gem", "--size", "128", "-q")
COMMAND = (sys.executable, "-m", "retrieval")


class Watched(Family):
    """Keeps the seconds and the kind of each process as they were last seen."""

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.seconds: dict[tuple[int, float], float] = {}
        self.kinds: dict[tuple[int, float], str] = {}

    def _look(self) -> None:
        super()._look()
        for key, process in list(self._known.items()):
            with suppress(psutil.Error):
                title = " ".join(process.cmdline())
                times = process.cpu_times()
                self.seconds[key] = times.user + times.system
                worker = "default_worker" in title or ("ray::" in title and "Agent" not in title)
                if worker or self.kinds.get(key) != "workers":
                    self.kinds[key] = "workers" if worker else "daemons"

    def totals(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for key, seconds in self.seconds.items():
            found[self.kinds.get(key, "daemons")] += seconds
        return found


def drawn(source: str, folder: Path, count: int, seed: int) -> None:
    """So many photos below ``source``, linked or copied into ``folder``."""
    files = [found.path for found in walk(os.path.abspath(source)).files]
    for number, name in enumerate(sorted(random.Random(seed).sample(files, min(count, len(files))))):
        shutil.copyfile(os.path.join(source, name), folder / f"{number:06d}{Path(name).suffix}")


def indexed(photos: Path, work: Path) -> float:
    """Seconds of `retrieve index`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*COMMAND, "index", str(photos), "--index", str(work / "gallery"), *MODEL], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def on_ray(photos: Path, work: Path, shard_size: int) -> Counter[str]:
    """Seconds of `retrieve describe --on ray` by kind."""
    command = [*COMMAND, "describe", str(photos), "--out", str(work / "parts"), "--on", "ray", *MODEL]
    driver = subprocess.Popen([*command, "--shard-size", str(shard_size)])
    with Watched(driver.pid) as family:
        _, status, used = os.wait4(driver.pid, 0)
        driver.returncode = os.waitstatus_to_exitcode(status)
    assert driver.returncode == 0, driver.returncode
    found = family.totals()
    found["driver"] = used.ru_utime + used.ru_stime
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--shard-size", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    alone: list[float] = []
    shared: list[Counter[str]] = []
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory(prefix="cpu-") as folder:
            photos = Path(folder) / "photos"
            photos.mkdir()
            drawn(given.photos, photos, given.pictures, given.seed)
            alone.append(indexed(photos, Path(folder)))
            shared.append(on_ray(photos, Path(folder), given.shard_size))
            print(f"{alone[-1]:.1f} s, {dict(shared[-1])}", file=sys.stderr, flush=True)
    best = min(shared, key=lambda seconds: seconds["workers"])
    print(f"retrieve index: {min(alone):.1f} s; describe --on ray: workers {best['workers']:.1f} s ", end="")
    print(f"({best['workers'] / min(alone):.2f}), driver {best['driver']:.1f} s, Ray's daemons {best['daemons']:.1f} s")

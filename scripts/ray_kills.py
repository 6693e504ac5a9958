"""Kill workers, nodes and drivers of `retrieve describe --on ray`, and compare what comes out with an undisturbed run.

    python scripts/ray_kills.py --report report                     # 50 kills, 2,000 pictures in 20 shards, two nodes
    python scripts/ray_kills.py --kills 6 --pictures 300 --seed 7   # a short one

Runs follow each other until so many kills were done. In each the command is started again as often as its driver is killed or
gives up. The last fifth of the kills meets `--on ray`, which starts a Ray of its own beside the cluster. The seed decides whom
and when; what is hit then is up to the machine. After each run: every shard has its part, and the merged gallery equals
that of an undisturbed run in names, vectors (bit for bit), local codes and rankings; no shard was begun more often than kills
explain (one for each worker that a kill took or left without its driver); nothing that a driver started outlives it for long.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
import tiny  # noqa: F401  # makes its backbone known
from ray_attack.families import Family
from ray_attack.nodes import CPUS, TwoNodes
from textures import write_textures

from retrieval import load_model
from retrieval.gallery.gallery import Gallery
from retrieval.parts.manifest import Manifest, read_manifest
from retrieval.parts.merge import merge_parts
from retrieval.parts.part import read_part
from retrieval.parts.run import describe_parts

HERE = Path(__file__).resolve().parent
MODEL, SIZE = "tiny-gem@random:0", 64
COMMAND = [sys.executable, "-c", "from ray_attack.watched import main; main()"]
KILLS_A_RUN = 5
PATIENCE = 300.0  # seconds for one driver
GRACE = 60.0  # seconds in which what a killed driver started must have ended
MOST_STARTS = 30  # of one run
QUERIES = 50


@dataclass
class Run:
    """What was done and found. ``allowed``: shards that its kills explain to be begun again."""

    where: str
    kills: list[str] = field(default_factory=list)
    starts: int = 0
    again: int = 0
    allowed: int = 0
    given_up: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Attack:
    """The pictures, the undisturbed gallery, and the runs against them, in ``work``."""

    def __init__(self, work: Path, pictures: int, shards: int, seed: int) -> None:
        self.work, self.shard_size, self.rng = work, -(-pictures // shards), random.Random(seed)
        self.notes = work / "notes"
        self.photos = work / "photos"
        for path in write_textures(self.photos, pictures, size=(64, 48)):
            os.utime(path, ns=(10**18, 10**18))  # of a file that is too young no time is kept
        self.model = load_model(MODEL, size=SIZE, engine="torch")
        describe_parts(str(self.photos), work / "calm", self.model, shard_size=self.shard_size)
        self.calm = self._merged(read_manifest(work / "calm"), "calm")

    def run(self, number: int, kills: int, nodes: TwoNodes, alone: bool) -> Run:
        """One run, with at most so many kills. ``alone``: with ``--on ray``, a Ray of its own."""
        done = Run("its own Ray" if alone else "two nodes")
        began = time.monotonic()
        self.notes.unlink(missing_ok=True)
        parts = self.work / f"parts{number}"
        code = None
        while code != 0 and done.starts < MOST_STARTS:
            done.starts += 1
            code = self._drive(parts, done, kills, nodes, alone)
        if code != 0:
            done.failures.append(f"not done after {done.starts} starts")
        else:
            done.failures += self._differences(parts, number)
        begun = Counter(line["shard"] for line in self._noted() if line["event"] == "begun")
        done.again = sum(begun.values()) - len(begun)
        if done.again > done.allowed:
            done.failures.append(f"{done.again} shards were begun again, kills explain {done.allowed}")
        done.seconds = time.monotonic() - began
        return done

    def _drive(self, parts: Path, done: Run, kills: int, nodes: TwoNodes, alone: bool) -> int | None:
        """Start the command, and kill. Its exit status; None where its driver was killed."""
        mark = f"driver{parts.name}-{done.starts}"
        command = [*COMMAND, "describe", str(self.photos), "--out", str(parts), "--model", MODEL, "--size", str(SIZE)]
        command += [
            "--engine",
            "torch",
            "--shard-size",
            str(self.shard_size),
            "--on",
            "ray" if alone else nodes.address,
        ]
        told = self.work / "told"
        own = {"ATTACK_MARK": mark, **({"RAY_ADDRESS": nodes.own_address} if alone else {})}  # a cluster not to pick up
        with open(told, "wb") as out:
            driver = subprocess.Popen(command, env={**os.environ, **own}, stdout=out, stderr=subprocess.STDOUT)
        with Family(driver.pid) as family:
            end = time.monotonic() + PATIENCE
            try:
                while driver.poll() is None and len(done.kills) < kills and time.monotonic() < end:
                    self._wait(driver, self.rng.uniform(0.2, 4.0))
                    if driver.poll() is None and self._kill(driver, family, done, nodes, alone):
                        break
                driver.wait(max(end - time.monotonic(), 1))
            except subprocess.TimeoutExpired:
                done.failures.append(f"start {done.starts} does not end")
            finally:
                driver.kill()
                driver.wait()
        if left := family.left_after(GRACE):
            done.failures.append(f"left by start {done.starts}: {'; '.join(left)}")
        if alone and (foreign := {n["mark"] for n in self._noted() if not n["mark"].startswith("driver")}):
            done.failures.append(f"it picked up the Ray of {foreign}")
        text = told.read_text(errors="replace")
        if driver.returncode not in (0, -9):
            done.given_up.append(" ".join(text.split())[-300:])
        if "Traceback" in text:
            done.failures.append(f"a traceback: {text[-600:]}")
        return None if driver.returncode == -9 else driver.returncode

    def _kill(self, driver: subprocess.Popen[bytes], family: Family, done: Run, nodes: TwoNodes, alone: bool) -> bool:
        """Whether it was the driver."""
        kind = self.rng.choice(["worker", "worker while it writes", "node", "driver"])
        room = 1 if alone else 2 * CPUS - 1
        if kind.startswith("worker"):
            victim = self._worker(driver, "writing" if "writes" in kind else "begun")
            if victim is None:
                return False
            if "writes" in kind:
                time.sleep(self.rng.uniform(0, 0.02))
            try:
                victim.kill()
            except psutil.NoSuchProcess:
                return False
            allowed = 1
        elif kind == "node" and not alone:
            kind, allowed = nodes.kill_second(self.rng), CPUS
        elif kind == "node":
            raylets = [p for p in family.alive() if "raylet" in p.name()]
            if not raylets:
                return False
            raylets[0].kill()
            kind, allowed = "its raylet", room
        else:
            driver.kill()
            allowed = room
        done.kills.append(kind)
        done.allowed += allowed
        return kind == "driver"

    def _worker(self, driver: subprocess.Popen[bytes], event: str) -> psutil.Process | None:
        """A process that has come so far with a shard and no farther; None where none comes up soon."""
        end = time.monotonic() + 20
        while time.monotonic() < end and driver.poll() is None:
            last = {line["pid"]: line for line in self._noted()}
            found = [pid for pid, line in last.items() if line["event"] == event and psutil.pid_exists(pid)]
            if found:
                return psutil.Process(self.rng.choice(found))
            time.sleep(0.001)
        return None

    @staticmethod
    def _wait(driver: subprocess.Popen[bytes], seconds: float) -> None:
        try:
            driver.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def _noted(self) -> list[dict[str, Any]]:
        text = self.notes.read_text() if self.notes.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    # -- comparing -----------------------------------------------------------------------------------------------

    def _merged(self, manifest: Manifest, name: str) -> dict[str, Any]:
        """What a gallery of these parts answers, and what the parts say besides."""
        with Gallery.create(self.work / f"gallery-{name}", self.model) as gallery:
            merge_parts(gallery, manifest)
            vectors = gallery.vectors()
            asked = vectors[:: max(1, len(vectors) // QUERIES)]
            rows = [row for shard in range(len(manifest.shards)) if (p := read_part(manifest, shard)) for row in p.rows]
            return {
                "names": list(gallery),
                "vectors": vectors.tobytes(),
                "rankings": gallery.search(asked, 10),
                "rows": rows,
            }

    def _differences(self, parts: Path, number: int) -> list[str]:
        found = self._merged(read_manifest(parts), str(number))
        wrong = [what for what in found if found[what] != self.calm[what]]
        if "rows" in wrong:
            pairs = zip(found["rows"], self.calm["rows"], strict=False)
            fields = {name for a, b in pairs for name in a._fields if getattr(a, name) != getattr(b, name)}
            wrong[wrong.index("rows")] = f"the parts' {', '.join(sorted(fields)) or 'numbers of rows'}"
        return [f"{what} differ from those of an undisturbed run" for what in wrong]


def markdown(runs: list[Run], seed: int, pictures: int) -> str:
    rows = [
        "| run | on | kills | starts | shards begun again (explained by kills) | failures | seconds |",
        "|" + "---|" * 7,
    ]
    for number, run in enumerate(runs, 1):
        kills = ", ".join(f"{n} {kind}" for kind, n in Counter(run.kills).items()) or "none"
        rows.append(
            f"| {number} | {run.where} | {kills} | {run.starts} | {run.again} ({run.allowed}) | {len(run.failures)} "
            f"| {run.seconds:.0f} |"
        )
    total = Counter(kind for run in runs for kind in run.kills)
    told = ", ".join(f"{n} of {kind}" for kind, n in total.items())
    text = [f"Seed {seed}, {pictures} pictures; {sum(total.values())} kills: {told}.", "", *rows, ""]
    text += [f"- run {number}: {failure}" for number, run in enumerate(runs, 1) for failure in run.failures]
    text += [
        f"- run {number} gave up and was started again: {why}"
        for number, run in enumerate(runs, 1)
        for why in run.given_up
    ]
    return "\n".join(text) + "\n"


@click.command()
@click.option("--kills", default=50, show_default=True)
@click.option("--pictures", default=2000, show_default=True)
@click.option("--shards", default=20, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--report", type=click.Path(path_type=Path), help="Folder for ray_kills.json and ray_kills.md.")
def main(kills: int, pictures: int, shards: int, seed: int, report: Path | None) -> None:
    """Kill workers, nodes and drivers of `retrieve describe --on ray`. Exit status 1 where anything failed."""
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="rk-") as folder:  # a short name: Ray's sockets lie below it
        work = Path(folder)
        paths = [str(HERE), str(HERE.parent / "tests"), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
        os.environ.update(
            PYTHONPATH=os.pathsep.join(filter(None, paths)),
            ATTACK_NOTES=str(work / "notes"),
            ATTACK_MARK="cluster",
            RAY_USAGE_STATS_ENABLED="0",
        )
        attack = Attack(work, pictures, shards, seed)
        with Family(os.getpid()) as family:
            nodes = TwoNodes(work / "r")
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # Ray has one of its own, which waits for its nodes
            try:
                left = kills
                while left > 0 and len(runs) < kills + 5:
                    alone = left <= kills // 5
                    runs.append(attack.run(len(runs), min(left, KILLS_A_RUN), nodes, alone))
                    left -= len(runs[-1].kills)
                    print(f"run {len(runs)}: {runs[-1]}", file=sys.stderr, flush=True)
            finally:
                nodes.stop()
                remaining = family.left_after(GRACE)  # ends it, too, should the attack itself be ended
        if remaining:
            runs[-1].failures.append(f"left at the end: {'; '.join(remaining)}")
    table = markdown(runs, seed, pictures)
    print(table)
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)
        (report / "ray_kills.json").write_text(json.dumps([vars(run) for run in runs], indent=1))
        (report / "ray_kills.md").write_text(table)
    sys.exit(1 if any(run.failures for run in runs) else 0)


if __name__ == "__main__":
    main()

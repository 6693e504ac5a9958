"""Attack `retrieval` with damaged files, and report what was tried and what failed.

    python scripts/torture.py --report report                       # every phase, a short run
    python scripts/torture.py pictures=20000 truths=5000 --seed 7   # these phases, so often
    python scripts/torture.py --only pictures:1234 --seed 7         # one trial again, with its traceback

A trial is decided by the seed, its phase and its number. Trials run in processes of their own, in batches: one that ends a
process, or never ends, is found, named and passed over. A phase is a module of `torture_phases` (see its `base.py`).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parent))
from torture_phases import PHASES
from torture_phases.base import Outcome, Phase, generator

BATCH = 500
PATIENCE = 120.0  # seconds without a trial's end after which a batch is ended


@click.command()
@click.argument("phases", nargs=-1, metavar="[PHASE[=TRIALS]]...")
@click.option("--seed", default=0, show_default=True, help="Another seed, other damages.")
@click.option("--report", type=click.Path(path_type=Path), help="Folder for report.json and report.md.")
@click.option("--only", metavar="PHASE:NUMBER", help="One trial, here, with its traceback.")
@click.option("--batch", nargs=3, hidden=True, help="PHASE FIRST LAST: what a process of its own does.")
def main(phases: tuple[str, ...], seed: int, report: Path | None, only: str | None, batch: tuple[str, ...]) -> None:
    """Attack `retrieval` with damaged files. Exit status 1 where anything failed."""
    if batch:
        run_batch(PHASES[batch[0]], int(batch[1]), int(batch[2]), seed)
        return
    if only:
        name, _, number = only.partition(":")
        needed = PHASES[name].environment()
        if any(os.environ.get(key) != value for key, value in needed.items()):  # they count from a process's start
            os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **needed})
        with tempfile.TemporaryDirectory() as folder:
            print(trial(PHASES[name], int(number), seed, Path(folder), reraise=True))
        return
    wanted = dict(asked(text) for text in phases) or {name: phase.trials for name, phase in PHASES.items()}
    results = [run(PHASES[name], count, seed) for name, count in wanted.items()]
    table = markdown(results, seed)
    print(table)
    if report is not None:
        report.mkdir(parents=True, exist_ok=True)
        (report / "report.json").write_text(json.dumps({"seed": seed, "phases": results}, indent=1))
        (report / "report.md").write_text(table)
    sys.exit(1 if any(result["failures"] for result in results) else 0)


def asked(text: str) -> tuple[str, int]:
    name, _, count = text.partition("=")
    if name not in PHASES:
        raise click.UsageError(f"there is no phase {name!r}; there are: {', '.join(PHASES)}")
    return name, int(count) if count else PHASES[name].trials


def trial(phase: Phase, number: int, seed: int, folder: Path, *, reraise: bool = False) -> Outcome:
    """One trial; whatever it raises is a failure."""
    try:
        rng = generator(seed, phase.name, number)
        return phase.trial(rng, folder, number) if phase.numbered else phase.trial(rng, folder)
    except Exception as error:
        if reraise:
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Outcome(
            "failed", "", f"{type(error).__name__}: {error!s:.200} ({Path(where.filename).name}:{where.lineno})"
        )


def run_batch(phase: Phase, first: int, last: int, seed: int) -> None:
    """Trials ``first`` to ``last`` - 1, a line of JSON on standard output for each; at the end, the memory that they took."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        phase.prepare()
        for number in range(first, last):
            started = time.monotonic()
            outcome = trial(phase, number, seed, Path(folder))
            line = {"number": number, "seconds": time.monotonic() - started, **vars(outcome)}
            print(json.dumps(line), flush=True)
    kilobytes = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps({"megabytes": kilobytes / 1000}), flush=True)


def run(phase: Phase, count: int, seed: int) -> dict[str, Any]:
    """All trials of a phase, in batches; what ends a batch is a failure of the trial that was running."""
    started = time.monotonic()
    tried: Counter[str] = Counter()
    kinds: dict[str, Counter[str]] = {}
    failures: list[dict[str, Any]] = []
    slowest = most = 0.0
    number = 0
    while number < count:
        last = min(number + BATCH, count)
        for line in lines(phase, number, last, seed):
            if "megabytes" in line:
                most = max(most, line["megabytes"])
                continue
            number = line["number"] + 1
            tried[line["result"]] += 1
            kinds.setdefault(line["kind"], Counter())[line["result"]] += 1
            slowest = max(slowest, line["seconds"])
            if line["result"] == "failed" or line["seconds"] > phase.most_seconds:
                failures.append(line)
        if number < last:  # the process ended within a trial
            failures.append({"number": number, "result": "failed", "detail": "ended its process, or did not end"})
            tried["failed"] += 1
            number += 1
        print(f"{phase.name}: {number:,} of {count:,}, {len(failures)} failed", file=sys.stderr)
    return {
        "phase": phase.name,
        "what": phase.what,
        "tried": sum(tried.values()),
        "results": dict(tried),
        "kinds": {kind: dict(results) for kind, results in sorted(kinds.items())},
        "failures": failures,
        "slowest_seconds": round(slowest, 2),
        "most_megabytes": round(most),
        "seconds": round(time.monotonic() - started),
    }


def lines(phase: Phase, first: int, last: int, seed: int) -> list[dict[str, Any]]:
    """What a process says that does these trials, up to where it ends or falls silent."""
    command = [sys.executable, str(Path(__file__).resolve()), "--seed", str(seed)]
    command += ["--batch", phase.name, str(first), str(last)]
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryDirectory(prefix="torture-", ignore_cleanup_errors=True) as home,
    ):
        environment = {**os.environ, "TMPDIR": home, **phase.environment()}  # what trials leave goes with the batch
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, env=environment)
        said, heard = 0, time.monotonic()
        while process.poll() is None and time.monotonic() - heard < PATIENCE:
            time.sleep(0.05)
            if (size := out.seek(0, 2)) != said:
                said, heard = size, time.monotonic()
        process.kill()
        process.wait()
        out.seek(0)
        return [json.loads(line) for line in out.read().splitlines() if line.endswith(b"}")]


def markdown(results: list[dict[str, Any]], seed: int) -> str:
    rows = ["| phase | what was damaged | tried | read | refused | failed | slowest | memory |", "|" + "---|" * 8]
    for result in results:
        counts = result["results"]
        known = {"read", "refused", "failed"}
        other = "".join(f", {n:,} {name}" for name, n in counts.items() if name not in known)
        rows.append(
            f"| {result['phase']} | {result['what']} | {result['tried']:,} | {counts.get('read', 0):,}{other} "
            f"| {counts.get('refused', 0):,} | {len(result['failures'])} | {result['slowest_seconds']} s "
            f"| {result['most_megabytes']} MB |"
        )
    text = [f"Seed {seed}.", "", *rows, ""]
    for result in results:
        for failure in result["failures"][:20]:
            text.append(f"- {result['phase']}:{failure['number']}: {failure.get('kind', '')}: {failure['detail']}")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()

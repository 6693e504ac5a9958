"""A short run of ``scripts/torture.py``: nothing fails, every trial can be had again, and what fails is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
sys.path.insert(0, str(SCRIPTS))

import torture  # noqa: E402
from torture_phases import PHASES  # noqa: E402
from torture_phases.base import Outcome, Phase, damaged, generator  # noqa: E402


def failures(told: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Of each phase. Trials that only took long are among those of a report, but how busy a machine is fails no test."""
    return [[one for one in phase["failures"] if one["result"] == "failed"] for phase in told]


@pytest.mark.slow
def test_a_short_run_fails_nowhere(tmp_path: Path) -> None:
    """Slow: three processes, one of which imports torch."""
    command = [
        sys.executable,
        str(SCRIPTS / "torture.py"),
        "pictures=120",
        "checkpoints=60",
        "truths=60",
        "--seed",
        "11",
    ]
    done = subprocess.run([*command, "--report", str(tmp_path / "report")], capture_output=True, text=True)
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert failures(told["phases"]) == [[], [], []], done.stdout
    assert done.returncode == any(phase["failures"] for phase in told["phases"])
    assert [phase["tried"] for phase in told["phases"]] == [120, 60, 60]
    pictures = told["phases"][0]
    assert len(pictures["kinds"]) > 25
    assert min(pictures["results"].values()) > 10  # both ends occur: the damages are neither too mild nor too wild
    assert "| pictures |" in (tmp_path / "report" / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("cc") is None and shutil.which("gcc") is None, reason="calls are watched by a C library"
)
def test_kills_power_cuts_and_damages_of_galleries_fail_nowhere(tmp_path: Path) -> None:
    """Slow: galleries are made, and every writer rehearsed, first. One process does all three, as kills and power cuts take the
    same rehearsals."""
    phases = ("kills", "power", "galleries")
    code = "import sys, torture; [torture.run_batch(torture.PHASES[name], 0, 40, 11) for name in sys.argv[1:]]"
    environment = {**os.environ, **PHASES["kills"].environment(), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *phases], cwd=SCRIPTS, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr
    lines = [line for line in map(json.loads, done.stdout.splitlines()) if "number" in line]
    assert [line["number"] for line in lines] == [*range(40)] * 3
    told = [lines[first : first + 40] for first in (0, 40, 80)]
    assert [line for line in lines if line["result"] == "failed"] == []
    results = [Counter(line["result"] for line in phase) for phase in told]
    assert [result["killed"] > 20 for result in results] == [True, True, False]
    assert results[2]["refused"] > 5


def test_a_trial_is_decided_by_seed_phase_and_number(tmp_path: Path) -> None:
    def drawn(seed: int, phase: str, number: int) -> bytes:
        return damaged(bytes(range(256)) * 9, generator(seed, phase, number), b"other" * 99)[0]

    assert drawn(1, "pictures", 5) == drawn(1, "pictures", 5)
    assert len({drawn(seed, phase, n) for seed in (1, 2) for phase in ("a", "b") for n in range(20)}) > 70
    first, second = (torture.trial(PHASES["truths"], 3, 8, tmp_path) for _ in range(2))
    assert first == second


def test_whatever_a_trial_raises_is_a_failure(tmp_path: Path) -> None:
    def raises(rng: np.random.Generator, folder: Path) -> Outcome:
        raise KeyError("unexpected")

    outcome = torture.trial(Phase("x", "x", 1, raises), 0, 0, tmp_path)
    assert outcome.result == "failed"
    assert "KeyError" in outcome.detail


def test_a_trial_that_ends_its_process_is_found_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def said(phase: Phase, first: int, last: int, seed: int) -> list[dict[str, object]]:
        line = {"result": "read", "kind": "k", "detail": "", "seconds": 0.1}
        return [{"number": n, **line} for n in range(first, min(last, 7) if first < 7 else last)]  # number 7 ends it

    monkeypatch.setattr(torture, "lines", said)
    result = torture.run(Phase("x", "x", 1, lambda rng, folder: Outcome("read", "k")), 20, 0)
    assert [failure["number"] for failure in result["failures"]] == [7]
    assert result["results"] == {"read": 19, "failed": 1}
    assert "x:7" in torture.markdown([result], 0)

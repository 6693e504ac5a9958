"""A short run of ``scripts/ray_kills.py``: a cluster of two nodes, some kills, and a gallery that equals the undisturbed one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "ray_kills.py"


@pytest.mark.slow
def test_a_short_attack(tmp_path):
    """Slow: Ray starts on two nodes, and again for each driver that is killed."""
    pytest.importorskip("ray")
    command = [
        sys.executable,
        str(SCRIPT),
        "--kills",
        "3",
        "--pictures",
        "160",
        "--shards",
        "8",
        "--seed",
        "1557",  # a node, the driver and a worker are killed, each soon
        "--report",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    runs = json.loads((tmp_path / "ray_kills.json").read_text())
    assert sum(len(run["kills"]) for run in runs) == 3
    assert all(run["again"] <= run["allowed"] and not run["failures"] for run in runs)

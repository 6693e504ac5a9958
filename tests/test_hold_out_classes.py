"""Classes held out of a labelled set: scripts/hold_out_classes.py."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "hold_out_classes.py"


def rows(file: Path) -> list[tuple[str, str]]:
    with open(file, newline="", encoding="utf-8") as lines:
        return [(row[0], row[1]) for row in csv.reader(lines)]


def test_no_class_is_trained_on_and_tested_on(tmp_path: Path) -> None:
    for name in ("train", "test"):
        lines = [f'"{name}/a, {i}.jpg",{i % 12}' for i in range(60)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    command = [sys.executable, str(SCRIPT), "train.txt", "test.txt", "--share", "0.25", "--out", "lists"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    kept, held = rows(tmp_path / "lists/kept.txt"), rows(tmp_path / "lists/heldout.txt")
    assert {path.split("/")[0] for path, _ in kept} == {"train"}
    assert {path.split("/")[0] for path, _ in held} == {"test"}
    classes, others = {label for _, label in kept}, {label for _, label in held}
    assert (len(classes), len(others)) == (9, 3)
    assert not classes & others
    assert (len(kept), len(held)) == (45, 15)

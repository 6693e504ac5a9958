"""The curves of a training run: drawn with its first epoch, seldom after that, and at its end with all that came."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from retrieval.training.record.journal import Journal
from retrieval.training.record.run_folder import RunFolder


@pytest.mark.parametrize(
    ("seconds", "drawn"), [(30.0, [[1], [1, 2, 3]]), (0.0, [[1], [1, 2], [1, 2, 3]])], ids=["quick", "slow"]
)
def test_curves_end_with_the_run(
    seconds: float, drawn: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[list[int]] = []
    monkeypatch.setattr("retrieval.training.record.drawing._SECONDS", seconds)
    monkeypatch.setattr(
        "retrieval.training.record.journal.plot_curves",
        lambda lines, path, title: found.append([x["epoch"] for x in lines]),
    )
    machine = SimpleNamespace(processes=SimpleNamespace(first=True))
    journal = Journal(RunFolder(tmp_path), SimpleNamespace(), machine)  # type: ignore[arg-type]
    for epoch in (1, 2, 3):
        journal.add({"epoch": epoch})
    journal.finish()
    assert found == drawn

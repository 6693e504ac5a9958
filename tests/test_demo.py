"""The demo's pictures: small, openly licensed, each named with its source; and what `make demo` says of them."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "data" / "demo"


def test_every_picture_has_its_source() -> None:
    files = {p.relative_to(PICTURES).as_posix() for p in PICTURES.rglob("*.jpg")}
    named = set(re.findall(r"^\| ((?:album|queries)/\S+) \|", (PICTURES / "SOURCES.md").read_text(), re.MULTILINE))
    assert files == named
    assert len(files) > 50
    assert sum(p.stat().st_size for p in PICTURES.rglob("*")) < 3_000_000


@pytest.mark.slow
def test_the_demo_answers_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Slow: the real model, in seven processes, as a user starts them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    runpy.run_path(str(ROOT / "scripts" / "demo.py"), run_name="__main__")
    out, err = capfd.readouterr()
    assert "5 of 5 answers are right" in out
    assert (tmp_path / "demo" / "sheet.jpg").stat().st_size > 10_000
    assert err.count("no match") == 1

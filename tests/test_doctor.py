"""``retrieve doctor``: what it says of this machine against what others say, and of machines where something is wrong."""

from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fakes import fake_gallery
from textures import write_textures

from retrieval import checkup
from retrieval.cli.doctor import command

ROOT = Path(__file__).resolve().parent.parent


def told(*words: str, status: int = 0) -> dict[str, dict[str, Any]]:
    """What is told, by what was looked at."""
    done = CliRunner().invoke(command, [*words, "--format", "json"], standalone_mode=False)
    assert done.exception is None, done.exception
    assert done.return_value == status
    form = json.loads(done.stdout)
    assert form["ok"] is (status == 0)
    return {check["what"]: check for check in form["checks"]}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETRIEVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RETRIEVE_INDEX", raising=False)
    return tmp_path


def test_versions_cores_and_cache_are_what_others_say(place: Path) -> None:
    (place / "cache").mkdir()
    (place / "cache" / "file").write_bytes(b"x" * 2_500_000)
    found = told()
    for name in ("torch", "numpy", "pillow"):
        assert found[name] == {"state": "ok", "what": name, "told": version(name), "do": ""}
    assert f"of {os.cpu_count()} cores" in found["processor"]["told"]
    assert (found["cache"]["state"], "2.5 MB" in found["cache"]["told"]) == ("ok", True)
    assert found["gallery"]["state"] == "note"
    assert "retrieve index FOLDER" in found["gallery"]["do"]


def test_what_is_needed_and_what_extras_bring_are_those_of_the_installation() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    wanted = dict(line.split(">=") for line in setup["options"]["install_requires"].split() if ">=" in line)
    for name, least in checkup.REQUIRED.items():
        assert wanted[name] == ".".join(map(str, least))
    extras = dict(setup["options.extras_require"])
    assert set(checkup.EXTRAS) == set(extras) - {"dev"}
    for extra, (modules, _) in checkup.EXTRAS.items():
        packages = extras[extra].replace("-", "_").lower()
        assert all(module in packages for module in modules)


def test_what_is_missing_or_old_is_a_problem_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"torch": "2.3.1", "timm": None, "openvino": None}
    real = checkup.versions_of
    monkeypatch.setattr(
        checkup, "versions_of", lambda names: [numbers.get(n, v) for n, v in zip(names, real(names), strict=True)]
    )
    monkeypatch.setattr(checkup, "importable", lambda module: module not in ("timm", "ray"))
    found = told(status=1)
    assert (found["torch"]["state"], found["torch"]["do"]) == ("problem", "pip install 'torch>=2.4'")
    assert (found["timm"]["state"], found["openvino"]["state"]) == ("problem", "note")  # torch does without openvino
    assert found["[ray]"]["do"] == "pip install 'retrieval[ray]'"
    assert "[web]" not in found


def test_a_cache_that_cannot_be_written_is_a_problem(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "file").write_bytes(b"")
    monkeypatch.setenv("RETRIEVE_CACHE", str(place / "file" / "cache"))
    found = told(status=1)["cache"]
    assert (found["state"], found["do"]) == ("problem", "RETRIEVE_CACHE names another folder.")
    assert not (place / "cache").exists()  # looking makes nothing


def test_the_gallery_is_found_and_its_damage_told(place: Path) -> None:
    write_textures(place / "album", 3)
    with fake_gallery(place / ".retrieval") as gallery:
        gallery.index(["album"])
    (place / "below").mkdir()
    os.chdir(place / "below")
    found = told()
    assert found["gallery"]["state"] == "ok"
    assert "3 pictures" in found["gallery"]["told"]
    assert "no `retrieve serve` answers" in found["server"]["told"]
    segment = next((place / ".retrieval" / "vectors").glob("*"))
    for file in (place / ".retrieval" / "vectors").iterdir():
        file.unlink()
    assert not segment.exists()
    found = told(status=1)
    assert (found["gallery"]["state"], found["gallery"]["do"] != "") == ("problem", True)
    table = CliRunner().invoke(command, ["-q"], standalone_mode=False).stdout.splitlines()
    assert not any(line.startswith("ok") for line in table)
    assert any(line.startswith("problem  gallery") and " -> " in line for line in table)
    assert table[-1] == "1 problem"


def test_it_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['retrieve', 'doctor']\n"
        "from retrieval.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'torchvision', 'openvino', 'cv2', 'faiss', 'timm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "engine" in done.stdout

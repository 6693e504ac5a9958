"""No photo is lost to an output that is named like it: not to text, not to numbers, not to a sheet."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fakes import fake_gallery, write_pictures
from PIL import Image

from retrieval.cli.main import cli
from retrieval.errors import UsageError
from retrieval.evaluation.report import save_report
from retrieval.files.whole import write_whole
from retrieval.views.plots import Curve, plot_robustness
from retrieval.views.sheet import check_sheet_path, contact_sheet, save_sheet


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (path,) = write_pictures(tmp_path, 1)
    return path


@pytest.mark.parametrize(
    "words",
    [
        ["duplicates", "--keep", "best", "--out"],
        ["evaluate", "truth.json", "--save"],
        ["query", "x.jpg", "--explain"],
        ["benchmark", "ann", "--save"],
        ["benchmark", "speed", "--save"],
        ["benchmark", "tokens", "truth.json", "--save"],
        ["export"],
        ["datasets", "convert", "in.pkl"],
    ],
)
@pytest.mark.parametrize("name", ["photo.jpg", "victim", "page.html", "list.json"])
def test_text_and_numbers_spare_every_picture(words: list[str], name: str, photo: Path) -> None:
    photo.rename(name)
    before = Path(name).read_bytes()
    result = CliRunner().invoke(cli, [*words, name])
    assert isinstance(result.exception, UsageError)
    assert str(result.exception) == f"{name} is a picture. Name another file."
    assert Path(name).read_bytes() == before


def test_what_is_written_from_python_spares_pictures_too(photo: Path, tmp_path: Path) -> None:
    before = photo.read_bytes()
    with pytest.raises(UsageError, match="is a picture"):
        save_report({}, photo)
    target = photo.rename(tmp_path / "x.npy")
    gallery = fake_gallery(tmp_path / "g")
    with pytest.raises(UsageError, match="is a picture"):
        gallery.export(target)
    assert target.read_bytes() == before
    target.write_text("P5 is the name of a list\n")  # no picture, though it begins as one
    gallery.export(target)
    assert len(np.load(target)) == 0
    save_report({"a": 1}, "new.json")
    save_report({"a": 2}, "new.json")
    assert json.loads(Path("new.json").read_text()) == {"a": 2}


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_sheet_takes_the_place_of_a_sheet_and_of_no_photo(suffix: str, photo: Path, tmp_path: Path) -> None:
    sheet, target = contact_sheet([]), tmp_path / f"sheet{suffix}"
    for _ in range(2):
        save_sheet(sheet, target)
    with Image.open(target) as image:
        assert image.size == sheet.size
    Image.open(photo).save(target)
    before = target.read_bytes()
    for attempt in (check_sheet_path, lambda path: save_sheet(sheet, path)):
        with pytest.raises(UsageError, match="is a picture that retrieve did not draw"):
            attempt(target)
    assert target.read_bytes() == before
    target.write_text("no picture")
    save_sheet(sheet, target)
    target.unlink()
    target.symlink_to(tmp_path / "nothing")  # is no picture
    save_sheet(sheet, target)


def test_a_plot_takes_the_place_of_a_plot_and_of_no_photo(photo: Path) -> None:
    curves = [Curve("one", [0.2, 0.1])]
    for _ in range(2):
        plot_robustness("plot.png", [0, 1], curves, title="t")
    plot_robustness("plot.svg", [0, 1], curves, title="t")
    before = photo.read_bytes()
    with pytest.raises(UsageError, match="did not draw"):
        plot_robustness(photo, [0, 1], curves, title="t")
    assert photo.read_bytes() == before


def test_what_cannot_be_read_is_spared(photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.pictures import replacing

    def failing(path: object) -> bool:
        from retrieval.errors import ImageError

        raise ImageError("permission denied", transient=True)

    monkeypatch.setattr(replacing, "begins_as_picture", failing)
    with pytest.raises(UsageError, match="may be a picture"):
        save_report({}, photo)


def test_commands_say_it_before_they_begin(photo: Path) -> None:
    for words in (["train", "data", "--out", "run", "--preview"], ["duplicates", "--sheet"]):
        result = CliRunner().invoke(cli, [*words, photo.name])
        assert isinstance(result.exception, UsageError)
        assert "did not draw" in str(result.exception)
    photo.rename("race.png")
    result = CliRunner().invoke(cli, ["benchmark", "pooling", "synthetic", "--out", "."])
    assert "race.png is a picture that" in str(result.exception)


def test_what_is_no_file_is_written_into_and_a_link_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_whole(tmp_path / "pipe", "a line\n")
    reader.join(timeout=20)
    assert got == [b"a line\n"]
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "list.txt").write_text("old")
    (tmp_path / "list.txt").symlink_to("far/list.txt")
    write_whole(tmp_path / "list.txt", "new")
    assert (tmp_path / "list.txt").is_symlink()
    assert (tmp_path / "far" / "list.txt").read_text() == "new"
    assert sorted(os.listdir(tmp_path / "far")) == ["list.txt"]

"""Pictures whose names do not say that they are: taken in by their first bytes, kept, and counted once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes import fake_gallery, write_pictures
from PIL import Image

from retrieval import Gallery
from retrieval.cli.expand import expand_pictures
from retrieval.datasets.labelled import read_folders
from retrieval.errors import ImageError
from retrieval.pictures import scan
from retrieval.pictures.scan import walk
from retrieval.pictures.unnamed import may_be_picture

TAKEN = ("IMG_0001", "a.JPG_large", "b.jpeg:large", "c.jpg!d", "d.png?w=80", "scan1", "scan2.")
PASSED = ("._side", ".hidden", "e.jpg.part", "f.jpg~", "g.jpg_original", "h.txt", "i.xjpg", "scan3~")


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    monkeypatch.chdir(tmp_path)
    return fake_gallery(tmp_path / "g")


def picture(path: Path, seed: int, form: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.linear_gradient("L").rotate(seed).resize((60, 40)).save(path, form)


def album(folder: Path) -> None:
    for seed, name in enumerate((*TAKEN, *PASSED)):
        picture(folder / name, 11 * seed)
    (folder / "README").write_text("no picture")
    (folder / "j.jpg_large").write_text("no picture")
    (folder / "empty").touch()
    os.mkfifo(folder / "pipe")


def test_the_first_bytes_tell_where_the_name_leaves_it_open(gallery: Gallery, tmp_path: Path) -> None:
    album(tmp_path / "album")
    found = walk("album")
    assert [file.path for file in found.files] == sorted(TAKEN)
    assert all(file.problem is None for file in found.files)
    assert expand_pictures(("album",)) == [f"album/{name}" for name in sorted(TAKEN)]
    report = gallery.index("album")
    assert (report.added, len(gallery), report.troubles) == (len(TAKEN), len(TAKEN), [])
    assert gallery.query("album/scan1").matches[0].path == "album/scan1"


@pytest.mark.parametrize("form", ["JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000"])
def test_every_format_that_is_read_is_known_by_its_first_bytes(form: str, tmp_path: Path) -> None:
    picture(tmp_path / "scan", 3, form)
    assert [file.path for file in walk(str(tmp_path)).files] == ["scan"]


def test_what_was_named_stays_and_nothing_is_counted_twice(gallery: Gallery, tmp_path: Path) -> None:
    album(tmp_path / "album")
    assert gallery.index("album/scan1").added == 1
    report = gallery.index("album")
    assert (report.added, report.unchanged, report.removed) == (len(TAKEN) - 1, 1, 0)
    report = gallery.index()
    assert (report.added, report.unchanged, report.removed) == (0, len(TAKEN), 0)
    report = gallery.index(["album", "album/scan1"])
    assert (report.added, report.unchanged, report.removed) == (0, len(TAKEN), 0)
    (tmp_path / "album" / "scan1").rename(tmp_path / "album" / "scan1.png")
    assert gallery.index().renamed == 1
    (tmp_path / "album" / "scan1.png").unlink()
    (tmp_path / "album" / "IMG_0001").write_text("it was one")
    assert gallery.index().removed == 2


def test_one_that_cannot_be_read_just_now_is_kept(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "album", 3)
    picture(tmp_path / "album" / "scan1", 5)
    gallery.index("album")
    picture(tmp_path / "album" / "new", 50)

    def failing(path: str) -> bool:
        raise ImageError("Input/output error", transient=True)

    with monkeypatch.context() as patched:
        patched.setattr(scan, "begins_as_picture", failing)
        report = gallery.index()
    assert (report.removed, len(gallery)) == (0, 4)
    assert report.warnings == ["album/scan1 could not be opened (Input/output error); it is kept"]
    (tmp_path / "album" / "scan1").unlink()
    report = gallery.index()
    assert (report.removed, report.added, report.warnings) == (1, 1, [])


def test_only_names_that_leave_it_open_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    album(tmp_path / "album")
    opened: list[str] = []
    monkeypatch.setattr(scan, "begins_as_picture", lambda path: bool(opened.append(os.path.basename(path))))
    picture(tmp_path / "album" / "k.png", 1)
    assert [file.path for file in walk(str(tmp_path / "album")).files] == ["k.png"]
    assert sorted(opened) == sorted([*TAKEN, "README", "j.jpg_large", "empty"])


def test_class_folders_hold_the_same_pictures(tmp_path: Path) -> None:
    album(tmp_path / "set" / "one")
    picture(tmp_path / "set" / "two" / "k.png", 1)
    assert read_folders(tmp_path / "set") == [*((f"one/{name}", "one") for name in sorted(TAKEN)), ("two/k.png", "two")]


def test_names_that_say_it_are_not_in_doubt() -> None:
    assert not any(map(may_be_picture, ("a.jpg", "b.HEIC", "c.mp4", "d.tar.gz", "e.json")))

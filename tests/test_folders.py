"""Disks that take their mount points along, folders that moved whichever is named, roots dropped by name, and patterns."""

from __future__ import annotations

import os
import shutil
import sqlite3
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine, fake_gallery, write_pictures
from PIL import Image

from retrieval import Gallery
from retrieval.errors import GalleryDamaged, UsageError
from retrieval.gallery.repair import repair
from retrieval.pictures import scan
from retrieval.pictures.leave_out import LeaveOut
from retrieval.pictures.scan import walk


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    monkeypatch.chdir(tmp_path)
    return fake_gallery(tmp_path / "g")


def described(gallery: Gallery) -> int:
    engine = gallery.model._engine
    assert isinstance(engine, FakeEngine)
    return engine.described


def bmp(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((40, 30)).save(path)


@pytest.mark.parametrize("after", ["gone", "other files", "empty"])
def test_a_disk_that_takes_its_mount_point_along_loses_nothing(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    write_pictures(tmp_path / "media" / "own", 2)
    disk = tmp_path / "media" / "user" / "disk"
    write_pictures(disk / "2019", 5, seed=1)
    mounted = [True]  # whether what lies below ``disk`` is on another device
    monkeypatch.setattr(
        scan, "device", lambda path, status: status.st_dev + (mounted[0] and path.startswith(str(disk)))
    )
    gallery.index(["media"])
    (disk / "2019" / "0000.png").unlink()
    assert gallery.index().removed == 1  # on a disk that is there, what is gone is gone
    disk.rename(tmp_path / "away")
    mounted[0] = False
    if after != "gone":
        disk.mkdir()
    if after == "other files":  # what lies under the mount point
        write_pictures(disk, 1, seed=9)
    for _ in range(2):
        report = gallery.index()
        assert report.removed == 0
        assert any("4 pictures are kept" in warning for warning in report.warnings)
    assert len(gallery) == 6 + (after == "other files")
    shutil.rmtree(disk, ignore_errors=True)
    (tmp_path / "away").rename(disk)
    mounted[0] = True
    before = described(gallery)
    assert (gallery.index().warnings, len(gallery), described(gallery) - before) == ([], 6, 0)


def test_a_mount_point_that_was_taken_out_or_left_out_is_forgotten(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "album", 2)
    for seed, name in enumerate(("a", "b"), 1):
        write_pictures(tmp_path / "album" / name, 3, seed=seed)
    below = (str(tmp_path / "album" / "a"), str(tmp_path / "album" / "b"))
    monkeypatch.setattr(scan, "device", lambda path, status: status.st_dev + path.startswith(below))
    gallery.index(["album"])
    shutil.rmtree(tmp_path / "album" / "a")
    assert (gallery.index(exclude=["b"]).removed, len(gallery)) == (3, 5)  # what is left out goes, mounted or not
    gallery.remove_matching("album/a")
    for _ in range(2):
        assert (gallery.index().warnings, len(gallery)) == ([], 2)


@pytest.mark.parametrize("old", ["there, and empty", "there, with one picture", "gone, and named by nobody"])
def test_pictures_moved_between_indexed_folders_keep_their_ids_whichever_is_named(
    gallery: Gallery, tmp_path: Path, old: str
) -> None:
    paths = write_pictures(tmp_path / "a" / "deep", 4)
    gallery.index(["a"])
    ids = {Path(path).name: record.id for path, record in gallery.records()}
    (tmp_path / "b").mkdir()
    for path in paths[old.endswith("one picture") :]:
        path.rename(tmp_path / "b" / path.name)
    if old.startswith("gone"):
        shutil.rmtree(tmp_path / "a")
    gallery.index(["b"])  # nothing is said of a
    assert len(gallery) == 4
    assert {Path(path).name: record.id for path, record in gallery.records()} == ids
    assert [path for path, _ in gallery.records() if not os.path.exists(path)] == []


def test_a_root_is_dropped_by_name_whether_it_is_there_or_not(gallery: Gallery, tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b", "b [old]")):
        write_pictures(tmp_path / name, 2, seed=seed)
    gallery.index(["a", "b", "b [old]"])
    shutil.rmtree(tmp_path / "a")
    assert sorted(gallery.remove_root("a", dry_run=True)) == ["a/0000.png", "a/0001.png"]
    assert len(gallery) == 6
    assert len(gallery.remove_root("a")) == 2
    assert len(gallery.remove_root(tmp_path / "b [old]")) == 2
    assert gallery.info().roots == ["b"]
    with pytest.raises(UsageError, match="These were: b"):
        gallery.remove_root("b/deep")
    assert (gallery.index().warnings, len(gallery)) == ([], 2)
    gallery.index(["b [old]"])  # it is taken in anew: nothing of it was taken out picture by picture
    assert len(gallery) == 4


def test_a_name_through_a_link_means_the_picture_it_leads_to(gallery: Gallery, tmp_path: Path) -> None:
    write_pictures(tmp_path / "album" / "deep", 3)
    write_pictures(tmp_path / "other", 1, seed=5)
    (tmp_path / "link").symlink_to("album")
    gallery.index(["album", "other"])
    assert gallery.remove(["link/deep/0001.png"]) == ["album/deep/0001.png"]
    assert len(gallery.remove_matching("link/deep", dry_run=True)) == 2
    assert len(gallery.remove_matching("link", dry_run=True)) == 2


def test_a_gallery_of_before_learns_what_it_needs_in_a_run_that_finds_nothing_new(
    gallery: Gallery, tmp_path: Path
) -> None:
    folder = tmp_path / "album"
    folder.mkdir()
    for name, seed in (("a.bmp", 1), ("b.bmp", 2)):
        bmp(folder / name, seed)
        os.utime(folder / name, (10**9, 10**9))
    gallery.index(["album"])
    with gallery.writing() as catalog, catalog.writing():
        catalog._connection.execute("UPDATE images SET ctime_ns = -1, inode = -1")
    before = described(gallery)
    assert (gallery.index().unchanged, described(gallery) - before) == (2, 0)
    (folder / "a.bmp").rename(tmp_path / "t")
    (folder / "b.bmp").rename(folder / "a.bmp")
    (tmp_path / "t").rename(folder / "b.bmp")
    assert gallery.index().changed == 2


def test_a_picture_that_became_broken_is_tried_once(gallery: Gallery, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "album", 2)
    for path in paths:
        os.utime(path, (10**9, 10**9))
    gallery.index(["album"])
    paths[0].write_bytes(paths[0].read_bytes()[:60])
    os.utime(paths[0], (10**9, 10**9))
    gallery.index()
    seen: list[int] = []
    gallery.index(progress=lambda done, total: seen.append(total))
    assert len(gallery) == 1
    assert not seen


def test_a_pattern_that_is_a_path_means_that_path_from_the_current_folder(gallery: Gallery, tmp_path: Path) -> None:
    for seed, name in enumerate(("album", "album/drafts [1]", "album/x/drafts [1]", "album/drafts 1")):
        write_pictures(tmp_path / name, 1, seed=seed)
    gallery.index(["album"])
    assert gallery.index(exclude=["album/drafts [1]"]).removed == 1
    assert "album/drafts [1]/0000.png" not in set(gallery)
    gallery.index(["album/x"], exclude=["x/drafts*"])  # a part of a folder: patterns are still relative to the folder
    assert len(gallery) == 2
    with pytest.raises(UsageError, match="drafts"):
        gallery.index(include=["other"])
    gallery.index(include=["album/drafts [1]", "x/drafts*"])
    assert (len(gallery), gallery.exclude) == (4, [])


def test_a_pattern_in_the_other_unicode_form(tmp_path: Path) -> None:
    name = unicodedata.normalize("NFD", "Entwürfe")
    write_pictures(tmp_path / name, 1)
    assert walk(str(tmp_path), LeaveOut([unicodedata.normalize("NFC", name)])).files == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE images SET path = CAST(x'610062' AS TEXT) WHERE id = 2",
        "UPDATE roots SET path = CAST(x'610062' AS TEXT)",
        "UPDATE images SET metadata = 'x' WHERE id = 2",
        "UPDATE images SET metadata = '12' WHERE id = 2",
    ],
)
def test_entries_with_names_and_metadata_that_cannot_be_are_named_and_mended(
    gallery: Gallery, tmp_path: Path, change: str
) -> None:
    paths = write_pictures(tmp_path / "album", 4)
    gallery.index(["album"])
    expected = [(m.path, m.score) for m in gallery.query(paths[0]).matches]
    gallery.close()
    with sqlite3.connect(gallery.catalog_path, isolation_level=None) as damaged:
        damaged.execute(change)
    with fake_gallery(gallery.folder) as opened, pytest.raises(GalleryDamaged):
        opened.query(paths[0])
    assert repair(gallery.folder)
    with fake_gallery(gallery.folder) as mended:
        mended.index(["album"])
        assert [(m.path, m.score) for m in mended.query(paths[0]).matches] == expected

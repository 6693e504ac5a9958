"""A gallery's folder that is moved away or damaged while programs have it open: nothing is left in its place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from fakes import fake_gallery
from textures import write_textures

from retrieval.files.whole import keep_derived
from retrieval.gallery.duplicates.looks import matcher_of
from retrieval.gallery.duplicates.thumbnails import Thumbnails
from retrieval.gallery.thumbnails import ThumbnailCache


def test_what_is_derived_makes_its_folders_and_not_what_holds_them(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    assert keep_derived(tmp_path / "g" / "a" / "b" / "file", b"1", tmp_path / "g")
    assert keep_derived(tmp_path / "g" / "a" / "b" / "file", b"2", tmp_path / "g")
    assert keep_derived(tmp_path / "g" / "plain", b"3", tmp_path / "g")
    assert (tmp_path / "g" / "a" / "b" / "file").read_bytes() == b"2"
    shutil.rmtree(tmp_path / "g")
    assert not keep_derived(tmp_path / "g" / "a" / "b" / "file", b"1", tmp_path / "g")
    assert not (tmp_path / "g").exists()


def test_a_gallery_that_is_moved_away_can_be_moved_back(tmp_path: Path) -> None:
    """Thumbnails, outlines and points once made the folder anew, so that moving it back put it into that."""
    pytest.importorskip("cv2")
    write_textures(tmp_path / "album", 4)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index([tmp_path / "album"])
        names = [str(path) for path in sorted((tmp_path / "album").iterdir())]
        digest = gallery.catalog.by_ids([1])[1].hash
        assert digest is not None
        (tmp_path / "g").rename(tmp_path / "gone")
        assert ThumbnailCache(gallery.folder).load(names[0], digest)
        assert Thumbnails(gallery.folder, True).load(names[0], digest)
        assert matcher_of(gallery).features(names[0], digest)
        assert not (tmp_path / "g").exists()
        (tmp_path / "gone").rename(tmp_path / "g")
        assert [match.path for match in gallery.query(names[1], k=1).matches] == [names[1]]

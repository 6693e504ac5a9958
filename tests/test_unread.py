"""Files that the system does not let be read just now: no damage, and nothing is given up for them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_gallery, write_pictures
from PIL import Image
from vector_gallery import VectorGallery, clustered, same

from retrieval.errors import GalleryDamaged, GalleryError
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.repair import repair

PASSING = [errno.EACCES, errno.EMFILE, errno.ENOMEM, errno.EIO]


@pytest.fixture
def subject(tmp_path: Path) -> VectorGallery:
    made = VectorGallery(tmp_path / "g")
    made.add(clustered(50))
    return made


def withhold(patch: pytest.MonkeyPatch, part: str, number: int) -> None:
    """Mapping a file with ``part`` in its name fails with this error of the system."""
    mapped: Any = np.memmap

    def refused(path: Any, *arguments: Any, **options: Any) -> Any:
        if part in os.fspath(path):
            raise OSError(number, os.strerror(number), os.fspath(path))
        return mapped(path, *arguments, **options)

    patch.setattr(np, "memmap", refused)


@pytest.mark.parametrize("number", PASSING)
@pytest.mark.parametrize("part", [".f32", ".keys"])
def test_a_repair_gives_up_no_vectors_that_it_cannot_read(subject: VectorGallery, part: str, number: int) -> None:
    query = clustered(1, seed=5)[0]
    with pytest.MonkeyPatch.context() as patch:
        withhold(patch, part, number)
        with pytest.raises(GalleryError, match=os.strerror(number)) as caught:
            repair(subject.gallery.folder)
    assert not isinstance(caught.value, GalleryDamaged)
    assert repair(subject.gallery.folder) == []
    with Gallery.open(subject.gallery.folder) as opened:
        same([(m.id, m.score) for m in opened.search(query[None], 50)[0]], subject.brute(query, 50))


def test_a_query_does_not_send_for_a_repair_where_vectors_may_be_whole(subject: VectorGallery) -> None:
    with pytest.MonkeyPatch.context() as patch, Gallery.open(subject.gallery.folder) as opened:
        withhold(patch, ".f32", errno.EMFILE)
        with pytest.raises(GalleryError, match="Too many open files") as caught:
            opened.search(clustered(1), 3)
    assert "repair" not in str(caught.value)


def test_a_catalog_is_not_made_anew_while_the_vectors_cannot_be_listed(subject: VectorGallery) -> None:
    """It would know of none of them, and what comes next would be written over them."""
    folder = subject.gallery.folder
    subject.gallery.close()
    whole = (folder / "catalog.sqlite").read_bytes()
    (folder / "catalog.sqlite").write_bytes(b"\0" * len(whole))
    listed = os.listdir

    def refused(path: Any = ".") -> list[str]:
        if os.fspath(path).endswith("vectors"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), os.fspath(path))
        return listed(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", refused)
        with pytest.raises(GalleryError, match="Too many open files"):
            repair(folder)
    done = repair(folder)
    assert any("50 vectors kept" in line for line in done), done


def test_a_description_that_may_not_be_read_is_not_called_damaged(
    subject: VectorGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Path, *arguments: Any, **options: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", os.fspath(self))

    before = (subject.gallery.folder / "gallery.json").read_bytes()
    monkeypatch.setattr(Path, "read_text", refused)
    for look in (Gallery.open, repair):
        with pytest.raises(GalleryError, match="Permission denied") as caught:
            look(subject.gallery.folder)
        assert not isinstance(caught.value, GalleryDamaged)
    assert (subject.gallery.folder / "gallery.json").read_bytes() == before


def test_vectors_that_may_not_be_read_are_told_with_a_gallerys_facts(
    subject: VectorGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`index` would else write on below them, and `doctor` call them intact."""
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not os.fspath(path).endswith(".f32") and allowed(path, mode))
    with pytest.raises(GalleryError, match=r"0000-000000\.f32 cannot be read \(Permission denied\)"):
        subject.gallery.info()


class _Entry:
    """A directory entry whose file the system tells nothing of."""

    def __init__(self, entry: os.DirEntry[str]) -> None:
        self.name, self.path, self.is_symlink = entry.name, entry.path, entry.is_symlink

    def stat(self) -> os.stat_result:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), self.path)


@pytest.mark.parametrize("named", [False, True])
def test_pictures_of_which_the_system_tells_nothing_now_are_still_found(tmp_path: Path, named: bool) -> None:
    """As where a folder may be listed but not entered, or a server of files forgot its handles."""
    paths = write_pictures(tmp_path / "images", 4)
    gallery = fake_gallery(tmp_path / "g")
    gallery.index(paths if named else [tmp_path / "images"])
    listed, asked = os.scandir, os.stat

    @contextmanager
    def scandir(folder: Any) -> Iterator[list[Any]]:
        with listed(folder) as entries:
            yield [_Entry(entry) if entry.name.endswith(".png") else entry for entry in entries]

    def stat(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path).endswith(".png"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), os.fspath(path))
        return asked(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "scandir", scandir)
        patch.setattr(os, "stat", stat)
        report = gallery.index()
    assert report.removed == 0
    assert len(gallery.query(Image.open(paths[0]), k=9).matches) == 4
    assert {error for _, error in gallery.info().troubled} == {os.strerror(errno.ESTALE)}
    assert gallery.index().unchanged == 4
    assert gallery.info().troubled == []

"""Copies among the answers to a query: folded into one answer, or left out where they are what asks."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluation_set import retrieve, use_fake_engine
from fakes import fake_gallery
from PIL import Image
from textures import texture, turned

from retrieval import Gallery, UsageError
from retrieval.gallery.folding import Sifter


@pytest.fixture
def gallery(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gallery:
    """Of four textures; of one also 14 exact copies, a half-size JPEG and a crop; a view of it that is no copy."""
    monkeypatch.chdir(tmp_path)
    album = tmp_path / "album"
    album.mkdir()
    for i in range(4):
        Image.fromarray(texture(i)).save(album / f"{i}.png")
    for i in range(14):
        shutil.copyfile(album / "0.png", album / f"again-{i:02}.png")
    picture = Image.open(album / "0.png")
    picture.resize((240, 180), Image.Resampling.LANCZOS).save(album / "half.jpg", quality=85)
    picture.crop((40, 30, 440, 330)).save(album / "crop.jpg", quality=90)
    gallery = fake_gallery(tmp_path / ".retrieval")
    gallery.index(["album"])
    return gallery


def names(paths: list[str] | tuple[str, ...]) -> set[str]:
    return {Path(path).name for path in paths}


COPIES = {"0.png", "half.jpg", "crop.jpg", *(f"again-{i:02}.png" for i in range(14))}


@pytest.mark.parametrize("rank", ["fused", "cosine"])
def test_copies_are_named_beside_the_first_of_them(gallery: Gallery, rank: str) -> None:
    full = gallery.query("album/0.png", 10, rank=rank)
    assert names([m.path for m in full.matches]) <= COPIES  # they push every other picture out
    found = gallery.query("album/0.png", 4, rank=rank, fold=True).matches
    assert [m.rank for m in found] == [1, 2, 3, 4]
    assert names([found[0].path, *found[0].copies]) == COPIES
    assert names([m.path for m in found[1:]]) == {"1.png", "2.png", "3.png"}
    assert all(m.copies == () for m in found[1:])
    every = {m.path: m.score for m in gallery.query("album/0.png", 50, rank=rank).matches}
    assert {m.path: m.score for m in found}.items() <= every.items()
    assert found[0].path == next(iter(every))


def test_another_view_is_no_copy(gallery: Gallery, tmp_path: Path) -> None:
    Image.fromarray(turned(texture(1), 40, 0.6)).save(tmp_path / "album" / "view.png")
    gallery.index()
    found = gallery.query("album/1.png", 3, fold=True).matches
    assert "view.png" not in names([path for m in found for path in m.copies])


def test_what_asks_is_left_out_with_its_exact_copies(gallery: Gallery) -> None:
    found = gallery.query("album/0.png", 5, exclude_self=True).matches
    assert names([m.path for m in found]) == {"half.jpg", "crop.jpg", "1.png", "2.png", "3.png"}
    assert [m.rank for m in found] == [1, 2, 3, 4, 5]
    data = Path("album/0.png").read_bytes()
    assert gallery.query(data, 5, exclude_self=True).matches == found
    both = gallery.query(data, 5, exclude_self=True, fold=True).matches
    assert len(both) == 4
    assert sum(len(m.copies) for m in both) == 1
    with pytest.raises(UsageError, match="pixels have no file"):
        gallery.query(np.zeros((30, 40, 3), np.uint8), exclude_self=True)


@pytest.mark.parametrize("whole", [False, True])
def test_answers_that_a_writer_takes_out_meanwhile_are_passed_over(
    gallery: Gallery, tmp_path: Path, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the search and the look at its answers."""
    query = tmp_path / "query.png"
    Image.fromarray(texture(0)).save(query)
    before = [match.path for match in gallery.query(query, k=50, fold=True).matches]
    real = Sifter._know

    def late(self: Sifter, ids: list[int]) -> None:
        gone = before if whole else before[:1]
        with Gallery.open(gallery.folder) as writer:
            writer.remove([path for path in gone if os.path.exists(path)])
        real(self, ids)

    monkeypatch.setattr(Sifter, "_know", late)
    found = gallery.query(query, k=50, fold=True, exclude_self=True).matches
    assert not {match.path for match in found} & set(before if whole else before[:1])
    assert [match.rank for match in found] == list(range(1, len(found) + 1))


def test_keys_fold_by_content_or_descriptor(gallery: Gallery) -> None:
    file = io.BytesIO()
    Image.fromarray(texture(9)).save(file, "PNG")
    gallery.add(["one", "two"], image=[file.getvalue()] * 2)
    found = gallery.query(file.getvalue(), 3, fold=True).matches
    assert (found[0].path, found[0].copies) == ("one", ("two",))


def test_the_command_says_it(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake_engine(monkeypatch)
    table = retrieve("query", "album/0.png", "-k", 4, "--fold").splitlines()
    assert table[0].endswith("(+ 16 copies)")
    assert len(table) == 4
    line = json.loads(retrieve("query", "album/0.png", "-k", 4, "--fold", "--format", "json"))
    assert [len(r["copies"]) for r in line["results"]] == [16, 0, 0, 0]
    rows = retrieve("query", "album/0.png", "-k", 4, "--fold", "--format", "csv").splitlines()
    assert rows[0].endswith(",copies")
    assert rows[1].endswith(",16")
    paths = retrieve("query", "album/0.png", "--exclude-self", "--format", "paths").splitlines()
    assert len(names(paths)) == len(paths) == 5
    assert "copies" not in json.loads(retrieve("query", "album/0.png", "--format", "json"))["results"][0]

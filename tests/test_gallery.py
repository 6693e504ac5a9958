"""The gallery: answers against brute force, synchronisation, ties, roots, damage and repair."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import FakeEngine, fake_gallery, fake_model, write_pictures
from PIL import Image

from retrieval.errors import GalleryDamaged, GalleryError, GalleryMismatch, UsageError
from retrieval.gallery import compaction, creating, description
from retrieval.gallery.address import locate
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.repair import repair
from retrieval.gallery.store import making, vectors
from retrieval.gallery.store.lock import WriterLock


def names(gallery: Gallery) -> set[str]:
    return {os.path.basename(path) for path, _ in gallery.records()}


def described(gallery: Gallery) -> FakeEngine:
    engine = gallery.model._engine
    assert isinstance(engine, FakeEngine)
    return engine


def truth(paths: list[Path]) -> np.ndarray:
    """Descriptors one picture at a time, without extraction, gallery or index."""
    return np.concatenate([FakeEngine().describe(np.asarray(Image.open(p).convert("RGB"))[None]) for p in paths])


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    return write_pictures(tmp_path / "images", 60, sizes=((40, 30), (30, 40), (50, 50)))


@pytest.fixture
def gallery(tmp_path: Path, pictures: list[Path]) -> Gallery:
    made = fake_gallery(tmp_path / "g")
    made.index([tmp_path / "images"])
    return made


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_index_file", [True, False])
def test_rankings_equal_brute_force(gallery: Gallery, pictures: list[Path], with_index_file: bool) -> None:
    if not with_index_file:
        shutil.rmtree(gallery.folder / "ann")
    vectors_ = truth(pictures).astype(np.float64)
    for query in range(0, 60, 7):
        scores = vectors_ @ vectors_[query]
        expected = np.argsort(-scores, kind="stable")
        for k in (1, 10, 1000):
            matches = gallery.query(pictures[query], k=k, rank="cosine").matches
            assert [Path(m.path).name for m in matches] == [pictures[i].name for i in expected[:k]]
            np.testing.assert_allclose([m.score for m in matches], scores[expected[:k]], atol=1e-6)
            assert [m.rank for m in matches] == list(range(1, min(k, 60) + 1))


def test_stock_faiss_reads_the_index_file(gallery: Gallery, pictures: list[Path]) -> None:
    import faiss

    info = gallery.info()
    assert info.index_file is not None
    index = faiss.read_index(info.index_file)
    queries = truth(pictures[:10])
    _, ids = index.search(queries, 10)
    for row, matches in zip(ids, gallery.search(queries, 10), strict=True):
        assert [m.id for m in matches] == row.tolist()


def test_equal_scores_come_by_ascending_id_however_many(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    original = write_pictures(folder, 30)[3]
    for i in range(150):  # many more copies than candidates beyond k
        shutil.copy(original, folder / f"copy{i:03d}.png")
    gallery = fake_gallery(tmp_path / "g")
    gallery.index([folder])
    assert described(gallery).described == 30
    matches = gallery.query(original, k=20).matches
    assert {m.score for m in matches} == {matches[0].score}
    ids = [m.id for m in matches]
    every = sorted(r.id for path, r in gallery.records() if "copy" in path or path.endswith("0003.png"))
    assert ids == every[:20]


def test_float16_storage_is_half_the_size_and_nearly_the_same(tmp_path: Path, pictures: list[Path]) -> None:
    halves = fake_gallery(tmp_path / "half", dtype="float16")
    halves.index([tmp_path / "images"])
    stored = halves.vectors_of([r for _, r in halves.records()])
    np.testing.assert_allclose(stored, truth(pictures), atol=1e-3)
    assert not np.array_equal(stored, truth(pictures))
    segment = halves.store().segment_path(0)
    assert segment.stat().st_size == 60 * 48 * 2


def test_search_refuses_nonsense(gallery: Gallery) -> None:
    with pytest.raises(UsageError, match="shape"):
        gallery.search(np.zeros((1, 7), np.float32))
    with pytest.raises(UsageError, match="finite"):
        gallery.search(np.full((1, 48), np.nan, np.float32))
    with pytest.raises(UsageError, match="k must"):
        gallery.search(np.ones((1, 48), np.float32), k=0)


def test_an_empty_gallery_answers_nothing(tmp_path: Path) -> None:
    gallery = fake_gallery(tmp_path / "g")
    assert gallery.search(np.ones((2, 48), np.float32)) == [[], []]


# -- synchronisation ---------------------------------------------------------------------------------------------------


def test_only_the_edited_picture_is_described_again(tmp_path: Path, gallery: Gallery, pictures: list[Path]) -> None:
    before = {os.path.basename(p): r.id for p, r in gallery.records()}
    old = pictures[0].stat().st_mtime - 100
    for p in pictures:  # as pictures of yesterday, whose times can be trusted
        os.utime(p, (old, old))
    gallery.index([tmp_path / "images"])
    described(gallery).described = 0

    os.utime(pictures[0], (old + 50, old + 50))  # touch
    Image.new("RGB", (20, 20), (255, 0, 0)).save(pictures[1])  # edit
    pictures[2].rename(tmp_path / "images" / "renamed.png")
    shutil.copy(pictures[3], tmp_path / "images" / "copied.png")
    pictures[4].unlink()
    report = gallery.index([tmp_path / "images"])

    assert described(gallery).described == 1 == report.embedded
    assert (report.changed, report.renamed, report.copied, report.removed, report.added) == (1, 1, 1, 1, 0)
    assert report.unchanged == 57
    after = {os.path.basename(p): r.id for p, r in gallery.records()}
    assert after["renamed.png"] == before["0002.png"]
    assert set(after) == (set(before) - {"0002.png", "0004.png"}) | {"renamed.png", "copied.png"}
    red = FakeEngine().describe(np.full((1, 20, 20, 3), (255, 0, 0), np.uint8))
    assert Path(gallery.search(red, 1)[0][0].path).name == "0001.png"
    top = gallery.query(pictures[3], k=2).matches
    assert {Path(m.path).name for m in top} == {"0003.png", "copied.png"}


def test_a_second_run_describes_nothing_and_needs_no_engine(tmp_path: Path, gallery: Gallery) -> None:
    again = Gallery.open(tmp_path / "g")
    again.model.engine_name = "an engine that does not exist"
    report = again.index()
    assert (report.unchanged, report.embedded, report.added) == (60, 0, 0)


def test_a_change_within_the_clock_s_grain_is_seen(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    path = write_pictures(folder, 1)[0]
    gallery = fake_gallery(tmp_path / "g")
    gallery.index([folder])
    size, time = path.stat().st_size, path.stat().st_mtime_ns
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(5)
    while True:  # another picture of the same length in bytes and the same time
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path, compress_level=0)
        if path.stat().st_size >= size:
            break
    data = path.read_bytes()
    gallery.index([folder])
    first = described(gallery).described
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path, compress_level=0)
    assert len(path.read_bytes()) == len(data)
    os.utime(path, ns=(time, time))
    gallery.index([folder])
    assert described(gallery).described == first + 1


def test_a_removed_picture_that_comes_back_is_not_described_again(tmp_path: Path, gallery: Gallery) -> None:
    gone = gallery.remove_matching("000*.png")
    assert len(gone) == 10
    assert len(names(gallery)) == 50
    described(gallery).described = 0
    report = gallery.index([tmp_path / "images"])
    assert (report.stayed_out, len(names(gallery))) == (10, 50)
    report = gallery.index(restore=True)
    assert (report.copied, described(gallery).described, len(names(gallery))) == (10, 0, 60)


def test_remove_understands_relative_absolute_and_folder_patterns(
    tmp_path: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert gallery.remove_matching("nothing*") == []
    assert gallery.remove_matching("images/0001.png") == ["images/0001.png"]
    assert gallery.remove_matching(str(tmp_path / "images" / "0002.png")) == ["images/0002.png"]
    assert len(gallery.remove_matching("images")) == 58


def test_vanished_folders_and_unmounted_disks_lose_nothing(tmp_path: Path, gallery: Gallery) -> None:
    (tmp_path / "images").rename(tmp_path / "away")
    report = gallery.index()
    assert "not there any more" in report.warnings[0]
    assert len(names(gallery)) == 60
    (tmp_path / "images").mkdir()  # the empty mount point
    report = gallery.index()
    assert "not mounted" in report.warnings[0]
    assert report.warnings[0].endswith(f"to drop them: retrieve remove {tmp_path / 'images'}")
    assert len(names(gallery)) == 60
    with pytest.raises(UsageError, match="there is no"):
        gallery.index([tmp_path / "nowhere"])


def test_one_folder_needs_no_list(tmp_path: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "more" / "red.png")
    Image.new("RGB", (40, 30), "red").save(tmp_path / "more" / "red.tif")
    monkeypatch.chdir(tmp_path)
    assert gallery.index("more", exclude="*.tif").embedded == 1
    assert gallery.index(tmp_path / "more").embedded == 0


@pytest.mark.parametrize("box", [(1, 2, 3), "1,2,30,40", 7, (1, 2, 3, None), [1, 2, 3, 4, 5]])
def test_a_box_that_is_none_is_refused(gallery: Gallery, pictures: list[Path], box: Any) -> None:
    with pytest.raises(UsageError, match="a box is four numbers"):
        gallery.query(pictures[0], bbox=box)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may list every folder")
def test_a_folder_that_cannot_be_listed_keeps_its_pictures(tmp_path: Path) -> None:
    write_pictures(tmp_path / "images" / "sub", 5)
    write_pictures(tmp_path / "images", 5, seed=1)
    gallery = fake_gallery(tmp_path / "g")
    gallery.index([tmp_path / "images"])
    (tmp_path / "images" / "sub").chmod(0)
    try:
        report = gallery.index()
    finally:
        (tmp_path / "images" / "sub").chmod(0o755)
    assert "could not be listed" in report.warnings[0]
    assert len(names(gallery)) == 5
    assert len(gallery.records()) == 10


def test_roots_nest_and_single_files_join_their_folder(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", 3)
    write_pictures(tmp_path / "a" / "sub", 3, seed=1)
    gallery = fake_gallery(tmp_path / "g")
    report = gallery.index([tmp_path / "a" / "0000.png", tmp_path / "a" / "sub"])
    assert (report.added, len(gallery.records())) == (4, 4)
    assert gallery.index().unchanged == 4  # single files do not draw in their neighbours
    ids = {r.id for _, r in gallery.records()}
    report = gallery.index([tmp_path / "a", tmp_path / "a" / "sub"])
    assert (report.added, report.embedded) == (2, 2)
    assert ids < {r.id for _, r in gallery.records()}
    assert [r.path for r in gallery.catalog.roots()] == ["a"]
    (tmp_path / "a" / "sub" / "0001.png").unlink()
    (tmp_path / "a" / "0001.png").unlink()
    report = gallery.index([tmp_path / "a" / "sub"])  # looks at nothing else
    assert (report.removed, len(gallery.records())) == (1, 5)
    assert gallery.index().removed == 1


def test_gallery_and_pictures_can_move_together(tmp_path: Path) -> None:
    write_pictures(tmp_path / "album" / "images", 4)
    gallery = fake_gallery(tmp_path / "album" / ".retrieval")
    gallery.index([tmp_path / "album" / "images"])
    gallery.close()
    (tmp_path / "album").rename(tmp_path / "moved")
    moved = fake_gallery(tmp_path / "moved" / ".retrieval")
    report = moved.index()
    assert (report.unchanged, report.embedded, report.removed) == (4, 0, 0)
    assert all(os.path.exists(m.path) for m in moved.query(tmp_path / "moved" / "images" / "0001.png").matches)


def test_paths_open_as_printed(tmp_path: Path, gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    for here in (tmp_path, tmp_path / "images", Path("/")):
        monkeypatch.chdir(here)
        assert all(os.path.exists(m.path) for m in gallery.query(tmp_path / "images" / "0000.png").matches)


def test_locate_walks_up_as_git_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RETRIEVE_INDEX", raising=False)
    (tmp_path / ".retrieval").mkdir()
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert locate(start=tmp_path / "a" / "b") == tmp_path / ".retrieval"
    monkeypatch.setenv("RETRIEVE_INDEX", "elsewhere")
    assert locate(start=tmp_path) == Path("elsewhere")
    assert locate("named") == Path("named")
    monkeypatch.setenv("RETRIEVE_INDEX", str(tmp_path))
    assert locate(start=tmp_path) == tmp_path  # its .retrieval is no gallery


def test_a_folder_that_is_named_stands_for_the_gallery_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    album = tmp_path / "album"
    album.mkdir()
    fake_gallery(album / ".retrieval").close()
    assert Gallery.open(album).folder == album / ".retrieval"
    monkeypatch.setenv("RETRIEVE_INDEX", str(album))
    assert locate() == album / ".retrieval"
    assert locate(album / ".retrieval") == album / ".retrieval"
    shutil.copytree(album / ".retrieval", album, dirs_exist_ok=True)
    assert Gallery.open(album).folder == album  # a gallery itself


def test_broken_pictures_are_noted_once_and_tried_again_when_they_change(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    write_pictures(folder, 3)
    bad = folder / "bad.jpg"
    bad.write_text("no picture")
    os.utime(bad, (1e9, 1e9))
    gallery = fake_gallery(tmp_path / "g")
    report = gallery.index([folder])
    assert [os.path.basename(p) for p, _ in report.troubles] == ["bad.jpg"]
    assert len(gallery.records()) == 3
    Image.new("RGB", (9, 9)).save(bad)
    report = gallery.index()
    assert (report.added, report.troubles) == (1, [])
    bad.write_text("broken again")
    report = gallery.index()
    assert len(report.troubles) == 1
    assert "bad.jpg" not in names(gallery)  # what it showed is not what it is


def test_compaction_keeps_every_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_COMPACT_ROWS", 10)
    monkeypatch.setattr(vectors, "SEGMENT_ROWS", 16)
    pictures = write_pictures(tmp_path / "images", 60)
    gallery = fake_gallery(tmp_path / "g")
    gallery.index([tmp_path / "images"])
    for p in pictures[:40]:
        p.unlink()

    def rows() -> str:
        with sqlite3.connect(gallery.catalog_path) as db:
            return dict(db.execute("SELECT key, value FROM meta"))["vector_count"]

    gallery.index()
    assert rows() == "60"  # never in the run that dropped them: they may come back
    gallery.index()
    assert rows() == "20"
    gallery.index()  # clears what compaction left
    assert len(list((gallery.folder / "vectors").glob("*.f32"))) == 2
    stored = gallery.vectors_of([r for _, r in gallery.records()])
    np.testing.assert_array_equal(stored, truth(pictures[40:]))
    assert gallery.query(pictures[50], k=1).matches[0].path.endswith("0050.png")
    assert described(gallery).described == 61  # the query and nothing again


def test_segments_split_at_their_border(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "SEGMENT_ROWS", 10)
    store = vectors.VectorStore(tmp_path / "v", 4, "float32", 0)
    data = np.random.default_rng(0).standard_normal((37, 4)).astype(np.float32)
    keys = [f"{i + 1:056x}" for i in range(37)]
    store.write(0, data[:7], keys[:7])
    store.write(7, data[7:], keys[7:])
    assert len(list((tmp_path / "v").glob("*.f32"))) == 4
    np.testing.assert_array_equal(np.concatenate([b for _, b in store.blocks(37, rows=3)]), data)
    rows = np.array([36, 0, 9, 10, 11, 29, 30])
    np.testing.assert_array_equal(store.take(rows, check=True), data[rows])
    with monkeypatch.context() as many:  # as many rows are taken
        many.setattr(vectors, "_FEW", 0)
        np.testing.assert_array_equal(store.take(rows, check=True), data[rows])
        np.testing.assert_array_equal(store.take(rows[:0], check=True), data[:0])
    valid, hashes = store.verify(37)
    assert valid.all()
    assert bytes(hashes[20]).hex() == keys[20]
    with pytest.raises(GalleryDamaged):
        store.check_sizes(38)


# -- another model, damage, repair -------------------------------------------------------------------------------------


def test_another_model_is_refused(gallery: Gallery) -> None:
    gallery.require(fake_model())
    with pytest.raises(GalleryMismatch, match="was made with"):
        gallery.require(fake_model(weights="b"))


def test_a_name_means_published_weights() -> None:
    """A trained model has the short name of the one it came from: to ask with that name is to ask with another model."""
    from dataclasses import replace
    from types import SimpleNamespace

    from retrieval import load_model
    from retrieval.describe.choice import ModelChoice
    from retrieval.gallery.same_model import require_same_model

    published = load_model("lite0_instance-gem").spec
    trained = replace(published, weights=replace(published.weights, id=f"{published.weights.id} trained in mine"))
    choice = ModelChoice("lite0_instance-gem", None, None)
    for spec in (published, trained):
        held = SimpleNamespace(spec=spec, folder="g", require=lambda model: None)
        if spec is published:
            require_same_model(held, choice, print)
            continue
        with pytest.raises(GalleryMismatch, match=r"one's own \(lite0_instance-gem, .* trained in mine\)"):
            require_same_model(held, choice, print)
        require_same_model(held, ModelChoice(None, None, None), print)


def test_creating_twice_or_over_something_else_is_refused(tmp_path: Path, gallery: Gallery) -> None:
    with pytest.raises(GalleryError, match="already"):
        Gallery.create(tmp_path / "g", fake_model())
    with pytest.raises(GalleryError, match="not empty"):
        Gallery.create(tmp_path / "images", fake_model())
    with pytest.raises(GalleryError, match="no gallery"):
        Gallery.open(tmp_path / "images")
    assert sorted(os.listdir(tmp_path)) == ["g", "images"]


@pytest.mark.parametrize("when", ["before it begins", "while it is made", "at its first step"])
def test_who_loses_a_race_for_a_new_gallery_is_told_to_run_again(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gallery.create(tmp_path / "theirs", fake_model()).close()
    folder = tmp_path / "new"

    def theirs_first(*_: object) -> None:
        (tmp_path / "theirs").rename(folder)

    if when == "before it begins":
        theirs_first()
    elif when == "while it is made":
        monkeypatch.setattr(creating, "write_description", theirs_first)
    else:  # the folder is taken for what a killed run left, and deleted

        def late(made: Path) -> WriterLock:
            shutil.rmtree(made)
            return WriterLock(made)

        monkeypatch.setattr(making, "WriterLock", late)
    with pytest.raises(GalleryError, match=r"another run (has just made|is just making).*[Rr]un this again"):
        Gallery.create(folder, fake_model())
    assert not list(tmp_path.glob(".*"))


def damage_description(g: Gallery) -> str:
    (g.folder / "gallery.json").write_text('{"format": 1, "model"')
    return "gallery.json"


def lose_description(g: Gallery) -> str:
    (g.folder / "gallery.json").unlink()
    return "gallery.json"


def forge_description(g: Gallery) -> str:
    data = json.loads((g.folder / "gallery.json").read_text())
    data["model"]["image"]["size"] = 512
    (g.folder / "gallery.json").write_text(json.dumps(data))
    return "gallery.json"


def damage_catalog(g: Gallery) -> str:
    size = (g.folder / "catalog.sqlite").stat().st_size
    (g.folder / "catalog.sqlite").write_bytes(b"not a database " * (size // 15))
    return "catalog.sqlite"


def lose_catalog(g: Gallery) -> str:
    (g.folder / "catalog.sqlite").unlink()
    return "catalog.sqlite"


def truncate_segment(g: Gallery) -> str:
    path = next((g.folder / "vectors").glob("*.f32"))
    os.truncate(path, path.stat().st_size // 2 + 10)
    return path.name


def lose_segment(g: Gallery) -> str:
    path = next((g.folder / "vectors").glob("*.f32"))
    path.unlink()
    return path.name


def flip_segment_bit(g: Gallery) -> str:
    path = next((g.folder / "vectors").glob("*.f32"))
    data = bytearray(path.read_bytes())
    data[48 * 4 * 7 + 5] ^= 0x10
    path.write_bytes(data)
    return path.name


def truncate_keys(g: Gallery) -> str:
    path = next((g.folder / "vectors").glob("*.keys"))
    os.truncate(path, 100)
    return path.name


def damage_index(g: Gallery) -> str:
    path = next((g.folder / "ann").glob("*.faiss"))
    path.write_bytes(path.read_bytes()[:100])
    return path.name


ALL_DAMAGE = [
    damage_description,
    lose_description,
    forge_description,
    damage_catalog,
    lose_catalog,
    truncate_segment,
    lose_segment,
    flip_segment_bit,
    truncate_keys,
    damage_index,
]


@pytest.mark.parametrize("damage", ALL_DAMAGE, ids=lambda f: f.__name__)
def test_damage_is_named_and_repaired(tmp_path: Path, gallery: Gallery, pictures: list[Path], damage) -> None:
    expected = [[(m.path, m.score) for m in gallery.query(p, k=10).matches] for p in pictures[::6]]
    gallery.close()
    name = damage(gallery)
    warnings: list[str] = []

    def use() -> None:
        with Gallery.open(tmp_path / "g", warn=warnings.append) as opened:
            opened.model._engine = FakeEngine()
            for p in pictures:
                opened.query(p, k=60)
        raise GalleryDamaged(warnings[0])  # a damaged search index is worked around, with a warning

    with pytest.raises(GalleryDamaged, match=name):
        use()

    done = repair(tmp_path / "g")
    assert damage is damage_index or done
    with fake_gallery(tmp_path / "g") as mended:
        report = mended.index()
        lost = {truncate_segment: 30, lose_segment: 60, flip_segment_bit: 1, truncate_keys: 57}.get(damage, 0)
        assert described(mended).described == lost == report.embedded
        answers = [[(m.path, m.score) for m in mended.query(p, k=10).matches] for p in pictures[::6]]
        assert [[p for p, _ in a] for a in answers] == [[p for p, _ in a] for a in expected]
        np.testing.assert_allclose([s for a in answers for _, s in a], [s for a in expected for _, s in a], atol=1e-7)
        assert mended.info().index_file is not None


def test_repair_of_a_sound_gallery_changes_nothing(tmp_path: Path, gallery: Gallery) -> None:
    gallery.close()
    before = {p: p.read_bytes() for p in (tmp_path / "g" / "vectors").iterdir()}
    assert repair(tmp_path / "g") == []
    assert {p: p.read_bytes() for p in (tmp_path / "g" / "vectors").iterdir()} == before
    with fake_gallery(tmp_path / "g") as again:
        assert again.index().embedded == 0


def test_what_cannot_be_restored_is_said(tmp_path: Path, gallery: Gallery) -> None:
    gallery.close()
    lose_catalog(gallery)
    damage_description(gallery)
    with pytest.raises(GalleryError, match="lost"):
        repair(tmp_path / "g")


def test_a_later_format_is_refused(gallery: Gallery) -> None:
    path = gallery.folder / "gallery.json"
    data = json.loads(path.read_text())
    data["format"] = description.FORMAT + 1
    del data["check"]
    path.write_text(json.dumps({**data, "check": description.description_checksum(data)}))
    with pytest.raises(GalleryError, match="Update"):
        Gallery.open(gallery.folder)
    with pytest.raises(GalleryError, match="Update"):
        repair(gallery.folder)


@pytest.mark.parametrize("place", [18, 19])
def test_a_damaged_version_in_the_catalog_s_header_is_mended(gallery: Gallery, place: int) -> None:
    """SQLite reads what it calls a later version for writers, and answers "readonly database" to each change."""
    names = list(gallery)
    gallery.close()
    path = gallery.folder / "catalog.sqlite"
    data = bytearray(path.read_bytes())
    data[place] = 250
    path.write_bytes(data)
    with pytest.raises(GalleryDamaged, match="repair"), fake_gallery(gallery.folder) as again:
        again.index()
    repair(gallery.folder)
    with fake_gallery(gallery.folder) as again:
        assert again.index().embedded == 0
        assert list(again) == names


def test_a_bit_in_the_number_of_the_format_is_damage(gallery: Gallery) -> None:
    path = gallery.folder / "gallery.json"
    before, names = path.read_bytes(), list(gallery)
    place = before.index(b'"format": ') + len(b'"format": ')
    gallery.close()
    for bit in range(8):
        path.write_bytes(before[:place] + bytes([before[place] ^ 1 << bit]) + before[place + 1 :])
        with pytest.raises(GalleryDamaged):
            Gallery.open(gallery.folder)
        repair(gallery.folder)
        with Gallery.open(gallery.folder) as again:
            assert list(again) == names


# -- closed ------------------------------------------------------------------------------------------------------------


def test_who_reads_while_the_gallery_is_closed_reads_on(gallery: Gallery) -> None:
    catalog = gallery.catalog
    with catalog.reading():
        gallery.close()
        assert catalog.searchable_count() == 60
    assert len(gallery) == 60  # the gallery opens its files again
    with pytest.raises(GalleryError, match="is closed") as caught:
        catalog.number("version")
    assert not isinstance(caught.value, GalleryDamaged)
    with pytest.raises(sqlite3.ProgrammingError):  # the last reader has closed the file
        catalog._connection.execute("SELECT 1")


def test_a_gallery_that_is_closed_while_threads_ask_is_called_damaged_by_none(
    gallery: Gallery, pictures: list[Path]
) -> None:
    found: list[Exception | int] = []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            try:
                found.append(len(gallery.query(pictures[3], 3, rank="cosine").matches))
            except Exception as error:
                found.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(300):
        gallery.close()
        time.sleep(0.003)
    done.set()
    for thread in threads:
        thread.join()
    errors = [error for error in found if isinstance(error, Exception)]
    assert {type(error) for error in errors} <= {GalleryError}
    assert all("is closed" in str(error) for error in errors)
    assert found.count(3) > 10


def test_a_temporary_gallery_that_is_closed_says_so() -> None:
    gallery = Gallery.temporary(fake_model())
    gallery.close()
    with pytest.raises(GalleryError, match=r"is closed\. It was a temporary one") as caught:
        len(gallery)
    assert not isinstance(caught.value, GalleryDamaged)

"""Nothing is lost or doubled when folders move, disks are away, links lead to what is indexed; what is left out stays out."""

from __future__ import annotations

import itertools
import os
import shutil
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine, fake_gallery, write_pictures
from PIL import Image

from retrieval import Gallery, GalleryDamaged
from retrieval.gallery import compaction
from retrieval.gallery.repair import repair
from retrieval.gallery.store import connection
from retrieval.gallery.store.vectors import VectorStore
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


# -- disks that are away -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["empty", "broken link", "linked folder empty"])
def test_a_disk_below_the_folder_that_is_away_loses_nothing(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(compaction, "_COMPACT_ROWS", 1)
    write_pictures(tmp_path / "album" / "own", 3)
    disk = tmp_path / ("disk" if "link" in how else "album/nas/deep")
    write_pictures(disk, 20, seed=1)
    if "link" in how:
        (tmp_path / "album" / "nas").symlink_to(disk)
    gallery.index(["album"])
    assert len(gallery) == 23
    mount = disk if how == "linked folder empty" else tmp_path / ("disk" if "link" in how else "album/nas")
    mount.rename(tmp_path / "away")
    if how != "broken link":
        mount.mkdir()
    for _ in range(2):
        report = gallery.index()
        assert (len(gallery), report.removed) == (23, 0)
        assert any("mounted" in warning and "20 pictures" in warning for warning in report.warnings)
    if how != "broken link":
        mount.rmdir()
    (tmp_path / "away").rename(mount)
    before = described(gallery)
    report = gallery.index()
    assert (report.unchanged, report.warnings, described(gallery) - before) == (23, [], 0)


def test_an_emptied_folder_can_be_dropped_on_purpose(gallery: Gallery, tmp_path: Path) -> None:
    write_pictures(tmp_path / "album" / "a", 3)
    write_pictures(tmp_path / "album" / "b", 2, seed=1)
    gallery.index(["album"])
    for path in (tmp_path / "album" / "a").iterdir():
        path.unlink()
    assert gallery.index().removed == 0
    assert len(gallery.remove_matching("album/a")) == 3
    assert gallery.index().warnings == []
    assert len(gallery) == 2


def test_pictures_moved_out_of_a_folder_that_is_empty_now_keep_their_ids(gallery: Gallery, tmp_path: Path) -> None:
    write_pictures(tmp_path / "album" / "a", 3)
    write_pictures(tmp_path / "album" / "b", 1, seed=1)
    gallery.index(["album"])
    ids = {os.path.basename(path): record.id for path, record in gallery.records() if "/a/" in path}
    for path in sorted((tmp_path / "album" / "a").iterdir()):
        path.rename(tmp_path / "album" / f"moved-{path.name}")
    report = gallery.index()
    assert (report.renamed, len(gallery)) == (3, 4)
    found = {os.path.basename(path): record.id for path, record in gallery.records() if "moved-" in path}
    assert found == {f"moved-{name}": i for name, i in ids.items()}


# -- folders that moved, and other names of one folder ------------------------------------------------------------------


def test_a_moved_folder_is_recognised_and_its_old_name_forgotten(gallery: Gallery, tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", 6)
    gallery.index(["a"])
    before, ids = described(gallery), {record.id for _, record in gallery.records()}
    (tmp_path / "a").rename(tmp_path / "b")
    (warning,) = gallery.index().warnings
    assert warning.index("If it was moved: retrieve index NEW_FOLDER") < warning.index(
        "to drop them: retrieve remove a"
    )
    report = gallery.index(["b"])
    assert (report.renamed, report.warnings, described(gallery) - before) == (6, [], 0)
    assert {record.id for _, record in gallery.records()} == ids
    assert gallery.info().roots == ["b"]
    assert all(path.startswith("b/") for path in gallery)


def test_what_cannot_be_read_moves_with_its_folder(gallery: Gallery, tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", 3)
    (tmp_path / "a" / "torn.jpg").write_bytes(b"\xff\xd8 torn")
    gallery.index(["a"])
    (tmp_path / "a").rename(tmp_path / "b")
    report = gallery.index(["b"])
    assert (report.renamed, report.warnings) == (3, [])
    assert [path for path, _ in report.troubles] == ["b/torn.jpg"]
    assert (gallery.info().roots, len(gallery)) == (["b"], 3)


def test_a_folder_of_nothing_readable_is_not_forgotten(gallery: Gallery, tmp_path: Path) -> None:
    write_pictures(tmp_path / "b", 1)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "torn.jpg").write_bytes(b"\xff\xd8 torn")
    gallery.index(["a", "b"])
    (tmp_path / "a").rename(tmp_path / "away")
    report = gallery.index()
    assert ["its 1 picture is kept" in w for w in report.warnings] == [True]
    assert gallery.info().roots == ["a", "b"]


def test_of_a_folder_that_is_gone_only_what_was_found_elsewhere_moves(gallery: Gallery, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "a", 6)
    gallery.index(["a"])
    (tmp_path / "b").mkdir()
    for path in paths[:2]:
        shutil.copy2(path, tmp_path / "b")
    shutil.rmtree(tmp_path / "a")
    report = gallery.index(["b"])
    assert (report.renamed, len(gallery)) == (2, 6)
    assert ["a is not there any more" in w and "its 4 pictures are kept" in w for w in report.warnings] == [True]
    assert len(gallery.remove_matching("a")) == 4
    assert gallery.info().roots == ["b"]
    assert gallery.index().warnings == []


@pytest.mark.parametrize("first", ["album", "link"])
def test_a_link_to_an_indexed_folder_doubles_nothing(gallery: Gallery, tmp_path: Path, first: str) -> None:
    write_pictures(tmp_path / "album" / "deep", 4)
    (tmp_path / "link").symlink_to("album")
    (tmp_path / "linked-deep").symlink_to("album/deep")
    second = "link" if first == "album" else "album"
    gallery.index([first, second])
    for again in (["link"], ["album"], ["linked-deep"], ["link/deep"], ["linked-deep/0001.png"], None):
        assert gallery.index(again).unchanged in (1, 4)
        assert len(gallery) == 4


def test_a_folder_that_links_to_an_indexed_one_does_not_double_it(gallery: Gallery, tmp_path: Path) -> None:
    write_pictures(tmp_path / "album", 4)
    write_pictures(tmp_path / "other", 2, seed=1)
    (tmp_path / "other" / "link").symlink_to(tmp_path / "album")
    gallery.index(["album"])
    gallery.index(["other"])
    assert len(gallery) == 6
    assert gallery.index().unchanged == 6


# -- changed in place --------------------------------------------------------------------------------------------------


def bmp(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((40, 30)).save(path)


def test_files_that_swap_places_with_size_and_time_kept_are_seen(gallery: Gallery, tmp_path: Path) -> None:
    folder = tmp_path / "album"
    folder.mkdir()
    for name, seed in (("a.bmp", 1), ("b.bmp", 2)):
        bmp(folder / name, seed)
        os.utime(folder / name, (10**9, 10**9))
    gallery.index(["album"])
    (folder / "a.bmp").rename(tmp_path / "t")
    (folder / "b.bmp").rename(folder / "a.bmp")
    (tmp_path / "t").rename(folder / "b.bmp")
    gallery.index()
    for name in ("a.bmp", "b.bmp"):
        best = gallery.query(folder / name, k=1).matches[0]
        assert (os.path.basename(best.path), round(best.score, 5)) == (name, 1)


def test_bytes_written_in_place_with_the_time_kept_are_seen(gallery: Gallery, tmp_path: Path) -> None:
    folder = tmp_path / "album"
    folder.mkdir()
    bmp(folder / "a.bmp", 1)
    os.utime(folder / "a.bmp", (10**9, 10**9))
    gallery.index(["album"])
    bmp(tmp_path / "other.bmp", 2)
    time.sleep(0.02)  # a file system's clock has a grain
    with open(folder / "a.bmp", "r+b") as file:
        file.write((tmp_path / "other.bmp").read_bytes())
    os.utime(folder / "a.bmp", (10**9, 10**9))
    assert gallery.index().changed == 1
    assert gallery.query(tmp_path / "other.bmp", k=1).matches[0].score == pytest.approx(1, abs=1e-5)


def test_a_restored_copy_is_read_again_but_not_described_again(gallery: Gallery, tmp_path: Path) -> None:
    write_pictures(tmp_path / "album", 5)
    for path in (tmp_path / "album").iterdir():
        os.utime(path, (10**9, 10**9))
    gallery.index(["album"])
    before = described(gallery)
    (tmp_path / "album").rename(tmp_path / "old")
    shutil.copytree(tmp_path / "old", tmp_path / "album")  # other inodes, other change times
    assert (gallery.index().unchanged, described(gallery) - before) == (5, 0)


def test_rehash_looks_at_what_nothing_else_shows(gallery: Gallery, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "album", 3)
    for path in paths:
        os.utime(path, (10**9, 10**9))
    gallery.configure_local(False)  # whose lack of this content would be seen
    gallery.index(["album"])
    with (
        gallery.writing() as catalog,
        catalog.writing(),
    ):  # as if another picture had been seen under this very identity
        catalog._connection.execute("UPDATE images SET hash = ? WHERE path = '0001.png'", ("0" * 56,))
    assert gallery.index().changed == 0
    assert gallery.index(rehash=True).changed == 1


# -- left out ----------------------------------------------------------------------------------------------------------


def test_what_other_programs_leave_behind_is_passed_over(gallery: Gallery, tmp_path: Path) -> None:
    write_pictures(tmp_path / "album", 2)
    kept = write_pictures(tmp_path / "album" / "recycling", 1, seed=9)
    for i, name in enumerate(
        ["@eaDir", "#recycle", "$RECYCLE.BIN", "Photos Previews.lrdata", "__MACOSX", ".thumbnails"]
    ):
        write_pictures(tmp_path / "album" / "deep" / name / "x", 1, seed=20 + i)
    write_pictures(tmp_path / "album" / "no" / "below", 2, seed=40)
    (tmp_path / "album" / "no" / ".nomedia").touch()
    report = gallery.index(["album"])
    assert sorted(map(os.path.basename, gallery)) == ["0000.png", kept[0].name, "0001.png"] or len(gallery) == 3
    assert report.left_out == 6


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("drafts", {"a.png", "2019/b.png", "2019/a.png", "2019/raw/a.png"}),
        ("a.png", {"2019/b.png"}),
        ("2019/*", {"a.png", "drafts/a.png"}),
        ("2019/raw", {"a.png", "drafts/a.png", "2019/a.png", "2019/b.png"}),
        ("raw/", {"a.png", "drafts/a.png", "2019/a.png", "2019/b.png"}),
        ("*9", {"a.png", "drafts/a.png"}),
    ],
)
def test_patterns(tmp_path: Path, pattern: str, left: set[str]) -> None:
    for name in ("a.png", "drafts/a.png", "2019/a.png", "2019/b.png", "2019/raw/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {found.path for found in walk(str(tmp_path), LeaveOut([pattern])).files} == left


def test_excluded_patterns_are_remembered(gallery: Gallery, tmp_path: Path) -> None:
    write_pictures(tmp_path / "album", 2)
    write_pictures(tmp_path / "album" / "drafts", 3, seed=1)
    gallery.index(["album"])
    assert len(gallery) == 5
    assert gallery.index(exclude=["drafts"]).removed == 3
    again = fake_gallery(gallery.folder)
    assert again.exclude == ["drafts"]
    again.index(["album"])
    assert len(again) == 2


def test_pictures_taken_out_stay_out_until_they_are_asked_for(gallery: Gallery, tmp_path: Path) -> None:
    write_pictures(tmp_path / "album", 5)
    gallery.index(["album"])
    gallery.remove(["album/0001.png", "album/0002.png"])
    for paths in (None, ["album"]):
        report = gallery.index(paths)
        assert (report.stayed_out, len(gallery)) == (2, 3)
    gallery.index(["album/0001.png"])  # by its own name
    assert len(gallery) == 4
    assert gallery.index(restore=True).copied == 1
    assert gallery.index().stayed_out == 0
    assert len(gallery) == 5


def test_a_folder_taken_out_as_a_whole_is_forgotten_and_can_be_indexed_anew(gallery: Gallery, tmp_path: Path) -> None:
    write_pictures(tmp_path / "a", 3)
    write_pictures(tmp_path / "b", 2, seed=1)
    gallery.index(["a", "b"])
    assert len(gallery.remove_matching("a")) == 3
    assert gallery.info().roots == ["b"]
    gallery.index()
    assert len(gallery) == 2
    gallery.index(["a"])
    assert len(gallery) == 5


# -- readers without the right to write, and damaged entries -------------------------------------------------------------


def as_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite finds no place for its helper files, and the folder cannot be written to (tests may run as root)."""
    real = connection._connect

    def refuse(path: Path, how: str) -> sqlite3.Connection:
        if how == "mode=ro":
            raise sqlite3.OperationalError("unable to open database file")
        return real(path, how)

    monkeypatch.setattr(connection, "_connect", refuse)
    monkeypatch.setattr(connection.os, "access", lambda path, mode: not mode & os.W_OK)


def test_a_copy_with_its_log_alone_is_read_whole(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_pictures(tmp_path / "album", 4)
    gallery.index(["album"])
    with gallery.writing() as catalog:  # an open connection keeps the log
        with catalog.writing():
            catalog.delete([1])
            catalog.bump_version()
        shutil.copytree(gallery.folder, tmp_path / "backup", ignore=shutil.ignore_patterns("*-shm", "lock"))
    assert (tmp_path / "backup" / "catalog.sqlite-wal").stat().st_size > 0
    as_read_only(monkeypatch)
    backup = fake_gallery(tmp_path / "backup")
    assert len(backup) == 3
    assert len(backup.query(tmp_path / "album" / "0002.png").matches) == 3


def test_a_reader_without_the_right_to_write_sees_later_changes(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_pictures(tmp_path / "album", 4)
    gallery.index(["album"])
    gallery.close()
    with monkeypatch.context() as patch:
        as_read_only(patch)
        reader = fake_gallery(gallery.folder)
        assert len(reader.query(paths[0]).matches) == 4
    shutil.copy(paths[0], tmp_path / "album" / "new.png")
    gallery.index()
    with monkeypatch.context() as patch:
        as_read_only(patch)
        assert len(reader.query(paths[0]).matches) == 5


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE images SET row = 'x' WHERE id = 2",
        "UPDATE images SET row = -5 WHERE id = 2",
        "UPDATE images SET row = 4611686018427387904 WHERE id = 2",
        "UPDATE images SET root = 77 WHERE id = 2",
        "UPDATE images SET path = 5 WHERE id = 2",
        "UPDATE images SET hash = x'00ff' WHERE id = 2",
        "UPDATE images SET hash = CAST(x'61ff' AS TEXT) WHERE id = 2",
        "UPDATE images SET size = 'big' WHERE id = 2",
        "DELETE FROM roots",
        "UPDATE roots SET path = 7 WHERE id = 1",
        "UPDATE meta SET value = 'many' WHERE key = 'vector_count'",
        "UPDATE meta SET value = '0' WHERE key = 'vector_count'",
        "UPDATE meta SET value = '4611686018427387904' WHERE key = 'vector_count'",
        "UPDATE meta SET value = '-1' WHERE key = 'generation'",
        "UPDATE changes SET id = x'00'",
        "DELETE FROM meta WHERE key = 'identity'",
    ],
)
def test_damaged_entries_are_named_and_mended(gallery: Gallery, tmp_path: Path, change: str) -> None:
    paths = write_pictures(tmp_path / "album", 6)
    gallery.index(["album"])
    gallery.add("key", vector=np.ones(48))
    expected = gallery.query(paths[3]).matches
    gallery.close()
    with sqlite3.connect(gallery.catalog_path, isolation_level=None) as damaged:
        damaged.execute(change)
    opened = fake_gallery(gallery.folder)
    with suppress(GalleryDamaged):  # or the very answer: what is damaged may not be needed for it
        assert opened.query(paths[3]).matches == expected
        assert len(list(opened)) == opened.info().images
    opened.close()
    repair(gallery.folder)
    mended = fake_gallery(gallery.folder)
    before = described(mended)
    mended.index(["album"])
    found = [m for m in mended.query(paths[3]).matches if m.path != "key"]
    assert [(m.path, m.score) for m in found] == [(m.path, m.score) for m in expected if m.path != "key"]
    assert described(mended) - before == 1  # the query: no vector was lost


@pytest.mark.parametrize(
    ("rule", "was", "now"),
    [
        ("entry_in", "key", "k\u00e5y"),
        ("entry_changed", "crc = NULL", "crc = crc"),
        ("images_troubled", "IS NOT NULL", "IS NULL"),
    ],
)
def test_a_damaged_rule_of_the_catalog_is_written_anew(
    gallery: Gallery, tmp_path: Path, rule: str, was: str, now: str
) -> None:
    write_pictures(tmp_path / "album", 6)
    gallery.configure_search("hnsw", 0.9)
    gallery.index(["album"])
    gallery.close()
    with closing(sqlite3.connect(gallery.catalog_path, isolation_level=None)) as damaged:
        damaged.execute("PRAGMA writable_schema = ON")
        damaged.execute("UPDATE sqlite_master SET sql = replace(sql, ?, ?) WHERE name = ?", (was, now, rule))
    paths = write_pictures(tmp_path / "album" / "more", 3, seed=1)
    (tmp_path / "album" / "bad.png").write_bytes(b"no picture")
    opened = fake_gallery(gallery.folder)
    opened.index(["album"])
    for path in paths:
        assert Path(opened.query(path).matches[0].path).resolve() == path
    info = opened.info()
    assert (info.images, len(info.troubled)) == (9, 1)
    with opened.writing() as catalog:
        catalog.check()


def test_an_index_of_rows_that_knows_of_none_is_named_and_mended(gallery: Gallery, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "album", 6)
    gallery.index(["album"])
    expected = [(m.path, m.score) for m in gallery.query(paths[3]).matches]
    gallery.close()
    with closing(sqlite3.connect(gallery.catalog_path, isolation_level=None)) as damaged:
        for sql in (
            "CREATE INDEX images_by_row ON images (row) WHERE id < 0",
            "CREATE INDEX images_by_row ON images (row)",
        ):
            damaged.execute(
                "PRAGMA writable_schema = ON"
            )  # SQLite makes an empty index, and then takes it for a whole one
            damaged.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'images_by_row'", (sql,))
            damaged.execute("PRAGMA writable_schema = RESET")
            if "WHERE" in sql:
                damaged.execute("REINDEX images_by_row")
    for asked in (lambda g: g.query(paths[3]), lambda g: g.info()):
        with (
            fake_gallery(gallery.folder) as opened,
            pytest.raises(GalleryDamaged, match="pictures with a vector 0 are found"),
        ):
            asked(opened)
    repair(gallery.folder)
    with fake_gallery(gallery.folder) as opened:
        assert [(m.path, m.score) for m in opened.query(paths[3]).matches] == expected


def test_a_damaged_table_is_told_in_one_line(gallery: Gallery, tmp_path: Path) -> None:
    write_pictures(tmp_path / "album", 3)
    gallery.index(["album"])
    gallery.close()
    with closing(sqlite3.connect(gallery.catalog_path, isolation_level=None)) as damaged:
        damaged.execute("PRAGMA writable_schema = ON")
        damaged.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'id INTEGER', '\"id INTEGER') WHERE name = 'images'"
        )
    with fake_gallery(gallery.folder) as opened, pytest.raises(GalleryDamaged) as refused:
        opened.info()
    assert "\n" not in str(refused.value)
    repair(gallery.folder)
    with fake_gallery(gallery.folder) as opened:
        opened.index(["album"])
        assert len(opened) == 3


def test_exchanged_pages_of_the_catalog_change_no_list(tmp_path: Path) -> None:
    write_pictures(tmp_path / "album", 90, sizes=((8, 8),))
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index([tmp_path / "album"])
        wanted = list(gallery)
    whole = gallery.catalog_path.read_bytes()
    size = int.from_bytes(whole[16:18], "big")
    leaves = [at for at in range(size, len(whole), size) if whole[at] == 13]  # pages that hold a table's rows
    refused = 0
    for one, other in itertools.pairwise(leaves):
        pages = bytearray(whole)
        pages[one : one + size], pages[other : other + size] = whole[other : other + size], whole[one : one + size]
        gallery.catalog_path.write_bytes(pages)
        with fake_gallery(tmp_path / "g") as opened:
            try:
                assert list(opened) == wanted
            except GalleryDamaged:
                refused += 1
    assert refused


# -- other generations of the vectors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["catalog", "vectors"])
def test_repair_takes_vectors_of_another_generation(gallery: Gallery, tmp_path: Path, lost: str) -> None:
    """A compaction had just begun when the catalog was lost; or a copy has the catalog of before and the vectors of after."""
    write_pictures(tmp_path / "images", 20)
    gallery.add("key", vector=np.eye(48, dtype=np.float32)[0])
    gallery.index(["images"])
    before = {(r.path, r.hash): v.tobytes() for (_, r), v in zip(gallery.records(), vectors_of(gallery), strict=True)}
    gallery.close()
    vectors = tmp_path / "g" / "vectors"
    if lost == "catalog":
        store = gallery.store()
        beginning = VectorStore(vectors, 48, "float32", 1)
        beginning.write(0, store.take(np.arange(3)), ["ab" * 28, "cd" * 28, "ef" * 28])
        gallery.close()
        (tmp_path / "g" / "catalog.sqlite").write_bytes(b"lost")
    else:
        for path in vectors.iterdir():
            path.rename(path.with_name(path.name.replace("0000-", "0001-", 1)))
    done = repair(tmp_path / "g")
    told = "21 pictures taken from files of another generation" if lost == "vectors" else "24 vectors kept"
    assert any(told in line for line in done), done
    with fake_gallery(tmp_path / "g", engine := FakeEngine()) as again:
        again.index(["images"])
        after = {(r.path, r.hash): v.tobytes() for (_, r), v in zip(again.records(), vectors_of(again), strict=True)}
    assert engine.described == 0
    kept = before if lost == "vectors" else {key: v for key, v in before.items() if key[0] != "key"}  # names are gone
    assert after == kept


def vectors_of(gallery: Gallery) -> np.ndarray:
    return gallery.vectors_of([record for _, record in gallery.records()])

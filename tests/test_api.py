"""The library surface: pictures and descriptors from a program, exact names, exchange, threads, pickles, types."""

from __future__ import annotations

import io
import json
import logging
import pickle
import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import user_program
from fakes import DIM, FakeEngine, fake_gallery, fake_model, write_pictures
from PIL import Image

import retrieval
from retrieval import Gallery, GalleryError, GalleryMismatch, ImageError, UsageError
from retrieval.describe.model import Model
from retrieval.gallery.repair import repair
from retrieval.gallery.store.catalog import Catalog


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return fake_gallery(tmp_path / "g")


def unit(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def png(path: Path) -> bytes:
    return path.read_bytes()


# -- adding ------------------------------------------------------------------------------------------------------------


def test_a_gallery_keeps_the_very_model(tmp_path: Path) -> None:
    model = fake_model()
    assert Gallery.create(tmp_path / "g", model).model is model
    with Gallery.temporary(model) as made:
        assert made.model is model


def test_every_form_of_a_picture_gives_its_descriptor(gallery: Gallery, tmp_path: Path) -> None:
    path = write_pictures(tmp_path / "images", 1)[0]
    array = np.asarray(Image.open(path).convert("RGB"))
    expected = FakeEngine().describe(array[None])[0]
    forms = {"path": str(path), "pathlib": path, "bytes": png(path), "array": array, "pil": Image.open(path)}
    for key, form in forms.items():
        assert gallery.add(key, image=form) == len(gallery)
    np.testing.assert_allclose(gallery.vectors(list(forms)), np.tile(expected, (5, 1)), atol=1e-6)
    assert [m.path for m in gallery.query(path, k=9).matches] == list(forms)  # ties by ascending id


def test_descriptors_of_another_tool_are_normalised_and_found(gallery: Gallery) -> None:
    vectors = unit(20)
    ids = gallery.add([f"v{i}" for i in range(20)], vector=3 * vectors.astype(np.float64))
    assert ids == list(range(1, 21))
    np.testing.assert_allclose(gallery.vectors(), vectors, atol=1e-6)
    order = np.argsort(-(vectors.astype(np.float64) @ vectors[7]), kind="stable")
    assert [m.path for m in gallery.search(vectors[7:8], 20)[0]] == [f"v{i}" for i in order]
    assert gallery.add("one more", vector=vectors[3]) == 21


def test_metadata_come_back_with_a_match(gallery: Gallery) -> None:
    gallery.add("a", vector=unit(1)[0], metadata={"price": 3.5, "tags": ["x", "é"]})
    gallery.add("b", vector=unit(1)[0])
    first, second = gallery.search(unit(1))[0]
    assert (first.path, first.metadata) == ("a", {"price": 3.5, "tags": ["x", "é"]})
    assert (second.path, second.metadata) == ("b", None)


def test_a_key_added_again_is_replaced(gallery: Gallery) -> None:
    before = gallery.add("a", vector=unit(1, 1)[0], metadata={"n": 1})
    assert gallery.add("a", vector=unit(1, 2)[0], metadata={"n": 2}) == before
    assert len(gallery) == 1
    np.testing.assert_allclose(gallery.vectors(["a"]), unit(1, 2), atol=1e-6)
    assert gallery.search(unit(1, 2))[0][0].metadata == {"n": 2}


def test_what_was_added_is_there_for_another_process_at_once(gallery: Gallery) -> None:
    gallery.add([f"v{i}" for i in range(3)], vector=unit(3))
    code = (
        f"from retrieval import Gallery; g = Gallery.open({str(gallery.folder)!r}); print(len(g), list(g), 'v1' in g)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3 ['v0', 'v1', 'v2'] True"


def test_all_or_nothing(gallery: Gallery, tmp_path: Path) -> None:
    good = write_pictures(tmp_path / "images", 2)
    with pytest.raises(ImageError, match=r"second: .*Nothing was added"):
        gallery.add(["first", "second"], image=[good[0], b"no picture"])
    assert len(gallery) == 0
    assert list(gallery) == []


NESTED: dict = {}
for _ in range(100_000):
    NESTED = {"deeper": NESTED}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": "a"}, "not with both or none"),
        ({"key": "a", "image": b"x", "vector": np.ones(DIM)}, "not with both or none"),
        ({"key": "", "vector": np.ones(DIM)}, "a key is a text"),
        ({"key": "a\0b", "vector": np.ones(DIM)}, "a key is a text"),
        ({"key": "\udcff", "vector": np.ones(DIM)}, "not valid Unicode"),
        ({"key": ["a", "a"], "vector": np.ones((2, DIM))}, "given twice"),
        ({"key": ["a", "b"], "vector": np.ones((3, DIM))}, r"shape \(2, 48\) are needed, not \(3, 48\)"),
        ({"key": "a", "vector": np.ones(DIM - 1)}, "are needed"),
        ({"key": "a", "vector": np.zeros(DIM)}, "zero or not finite"),
        ({"key": "a", "vector": np.full(DIM, np.nan)}, "zero or not finite"),
        ({"key": "a", "vector": np.ones(DIM), "metadata": {"x": float("nan")}}, "cannot be kept as JSON"),
        ({"key": "a", "vector": np.ones(DIM), "metadata": {"x": object()}}, "cannot be kept as JSON"),
        ({"key": "a", "vector": np.ones(DIM), "metadata": NESTED}, "cannot be kept as JSON"),
        ({"key": "a", "vector": np.ones(DIM), "metadata": ["x"]}, "must be a dictionary"),
        ({"key": ["a", "b"], "image": [b"x"]}, "as many pictures"),
    ],
)
def test_what_cannot_be_added(gallery: Gallery, arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gallery.add(**arguments)
    assert len(gallery) == 0


def test_keys_live_beside_folders_and_outlive_their_synchronisation(gallery: Gallery, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "images", 4)
    gallery.add("key", vector=unit(1)[0])
    gallery.index([tmp_path / "images"])
    paths[0].unlink()
    report = gallery.index()
    assert (report.removed, len(gallery), "key" in gallery) == (1, 4, True)
    assert gallery.info().roots == [str(tmp_path / "images")]
    assert repair(gallery.folder) == []
    gallery.remove("key")
    assert "key" not in gallery
    assert len(gallery) == 3


def test_an_older_program_refuses_a_gallery_with_keys(gallery: Gallery) -> None:
    def form() -> int:
        return json.loads((gallery.folder / "gallery.json").read_text())["format"]

    assert form() == 1
    gallery.add("key", vector=unit(1)[0])
    assert form() == 2


def test_many_adds_are_found_before_and_after_the_search_file_takes_them_in(gallery: Gallery) -> None:
    vectors = unit(1300)
    for begin in range(0, 1300, 100):
        gallery.add([f"v{i}" for i in range(begin, begin + 100)], vector=vectors[begin : begin + 100])
        for i in (0, begin + 99):
            assert gallery.search(vectors[i : i + 1], 1)[0][0].path == f"v{i}"
    assert gallery.info().index_file is not None


# -- old galleries -----------------------------------------------------------------------------------------------------


def old_catalog(gallery: Gallery) -> None:
    """As version 0.1 made it: roots of two kinds, no metadata, no checksums."""
    gallery.close()
    with sqlite3.connect(gallery.folder / "catalog.sqlite") as connection:
        later = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND name NOT LIKE 'vector_%'"
        for (name,) in connection.execute(later).fetchall():
            connection.execute(f"DROP TRIGGER {name}")
        connection.executescript(
            """
            DROP INDEX images_unsealed; DROP INDEX images_lost; ALTER TABLE images DROP COLUMN crc;
            DELETE FROM meta WHERE key IN ('check', 'entries', 'searchable');
            ALTER TABLE images DROP COLUMN metadata; ALTER TABLE images DROP COLUMN ctime_ns;
            ALTER TABLE images DROP COLUMN inode; DROP TABLE taken_out;
            CREATE TABLE old (id INTEGER PRIMARY KEY, path UNIQUE NOT NULL,
                              kind TEXT NOT NULL CHECK (kind IN ('folder', 'files')));
            INSERT INTO old SELECT * FROM roots; DROP TABLE roots; ALTER TABLE old RENAME TO roots;
            """
        )


def test_a_gallery_of_before_is_read_and_carried_over_by_the_next_writer(gallery: Gallery, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "images", 5)
    gallery.index([tmp_path / "images"])
    expected = gallery.query(paths[2], rank="cosine").matches
    old_catalog(gallery)
    reader = fake_gallery(gallery.folder)
    assert reader.query(paths[2], rank="cosine").matches == expected
    assert reader.catalog._connection.execute("SELECT count(*) FROM pragma_table_info('images')").fetchone()[0] == 11
    reader.add("key", vector=unit(1)[0], metadata={"a": 1})
    assert next(m for m in reader.query(paths[2], rank="cosine").matches if m.path != "key") == expected[0]
    again = fake_gallery(gallery.folder)
    assert again.index().unchanged == 5
    assert again.search(unit(1), 1)[0][0].metadata == {"a": 1}


def test_damaged_metadata_are_named(gallery: Gallery) -> None:
    gallery.add("key", vector=unit(1)[0], metadata={"a": 1})
    catalog = Catalog(gallery.catalog_path, writable=True)
    with catalog.writing():
        catalog.set_metadata(1, "{broken")
    with pytest.raises(GalleryError, match="metadata of 'key' are damaged"):
        gallery.search(unit(1))


# -- names -------------------------------------------------------------------------------------------------------------


def test_len_in_and_iteration(gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "images", 3)
    (tmp_path / "images" / "broken.png").write_bytes(b"x")
    assert bool(gallery)
    assert len(gallery) == 0
    gallery.index(["images"])
    gallery.add("key", vector=unit(1)[0])
    assert sorted(gallery) == ["images/0000.png", "images/0001.png", "images/0002.png", "key"]
    assert len(gallery) == 4
    for name in ("images/0001.png", "./images/0001.png", tmp_path / "images" / "0001.png", "0001.png", "key"):
        assert name in gallery, name
    for name in ("images", "images/*.png", "images/broken.png", "nothing", "./key", 7, None):
        assert name not in gallery, name


def test_an_exact_name_wins_over_a_pattern(gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = write_pictures(tmp_path / "album [2020]", 1)[0]
    for name in ("img[1].png", "img1.png", "*.png", "x.png"):
        shutil.copy(one, one.with_name(name))
    one.unlink()
    gallery.index(["album [2020]"])
    assert gallery.remove_matching("album [2020]/img[1].png", dry_run=True) == ["album [2020]/img[1].png"]
    assert len(gallery) == 4
    assert gallery.remove_matching("album [2020]/img[1].png") == ["album [2020]/img[1].png"]
    assert gallery.remove_matching("./album [2020]/*.png") == ["album [2020]/*.png"]
    assert gallery.remove_matching("album [2020]/./x.png") == ["album [2020]/x.png"]
    assert list(gallery) == ["album [2020]/img1.png"]
    monkeypatch.chdir(tmp_path / "album [2020]")
    assert gallery.remove_matching("im*.png", dry_run=True) == ["img1.png"]
    assert gallery.remove_matching("./im*.png") == ["img1.png"]


def test_remove_is_exact_and_takes_all_or_nothing(gallery: Gallery) -> None:
    gallery.add(["a", "b", "a*", "dir/c"], vector=unit(4))
    for name in ("x", "[ab]", "dir"):
        with pytest.raises(UsageError, match="Nothing was removed"):
            gallery.remove(["a", name])
    assert len(gallery) == 4
    assert gallery.remove("a*") == ["a*"]
    assert gallery.remove(["a", "dir/c"]) == ["a", "dir/c"]
    assert list(gallery) == ["b"]


def test_under_looks_at_every_picture_of_a_folder(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, folder in enumerate(["album", "album07", "album07/deep", "other"]):
        write_pictures(tmp_path / "images" / folder, 5, seed=seed)
    gallery.index(["images"])
    gallery.add(["album07/key", "album0"], vector=unit(2))
    query = next(iter((tmp_path / "images" / "other").iterdir()))
    everything = gallery.query(query, k=100).matches
    for under in ("images/album07", "album07/", str(tmp_path / "images" / "album07")):
        found = gallery.query(query, k=100, under=under).matches
        inside = [
            m for m in everything if m.path.startswith(("images/album07/", "album07/" if under == "album07/" else "-"))
        ]
        assert [(m.id, m.score) for m in found] == [(m.id, m.score) for m in inside]
        assert len(found) in (10, 11)
    assert gallery.query(query, under="nowhere").matches == []
    reranked = gallery.query(query, k=100, under="images/album07", rerank="alpha-qe").matches
    assert {m.path for m in reranked} == {m.path for m in gallery.query(query, k=100, under="images/album07").matches}


# -- asking ------------------------------------------------------------------------------------------------------------


def test_a_list_gives_a_list_and_one_gives_one(gallery: Gallery, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "images", 6)
    gallery.index([tmp_path / "images"])
    single = [gallery.query(path, k=3) for path in paths]
    assert gallery.query([str(p) for p in paths], k=3) == single
    assert gallery.query([], k=3) == []
    pil = gallery.query([Image.open(p) for p in paths], k=3)
    assert [[(m.id, m.score) for m in r.matches] for r in pil] == [[(m.id, m.score) for m in r.matches] for r in single]
    assert (single[0].matches[0].probability, pil[0].matches[0].probability) != (
        1,
        1,
    )  # pixels have no file to be the same
    assert pil[0].query == ""


def test_a_result_is_gone_through_match_by_match(gallery: Gallery, tmp_path: Path) -> None:
    (path,) = write_pictures(tmp_path / "asked", 1)
    gallery.add(["a", "b"], image=write_pictures(tmp_path / "held", 2, seed=3))
    result = gallery.query(path, 2)
    assert [match.rank for match in result] == [1, 2]
    assert list(result) == result.matches
    assert (len(result), bool(result)) == (2, True)
    none = gallery.query(path, 2, min_score=1)
    assert (len(none), list(none), bool(none)) == (0, [], False)


def test_min_score_cuts_the_list(gallery: Gallery) -> None:
    vectors = unit(30)
    gallery.add([f"v{i}" for i in range(30)], vector=vectors)
    scores = np.sort(vectors.astype(np.float64) @ vectors[0])[::-1]
    found = gallery.search(vectors[:1], 30, min_score=float(scores[4]) - 1e-6)[0]
    np.testing.assert_allclose([m.score for m in found], scores[:5], atol=1e-6)


def test_a_broken_query_is_named_and_the_others_go_on(gallery: Gallery, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "images", 2)
    gallery.index([tmp_path / "images"])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"x")
    with pytest.raises(ImageError, match=r"broken\.png"):
        gallery.query([paths[0], broken])
    results = list(gallery.answers([paths[0], broken, paths[1]]))
    assert [len(r.matches) for r in results] == [2, 0, 2]
    assert [r.error is None for r in results] == [True, False, True]


@pytest.mark.parametrize("k", [0, -1, 2.5, "3", True, None])
def test_k_is_a_whole_number(gallery: Gallery, k: object) -> None:
    with pytest.raises(UsageError, match="k "):
        gallery.search(unit(1), k)  # type: ignore[arg-type]


def test_a_box_goes_with_one_picture(gallery: Gallery, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "images", 2)
    with pytest.raises(UsageError, match="a box goes with one picture"):
        gallery.query([*paths], bbox=(0, 0, 5, 5))  # type: ignore[call-overload]


# -- exchange ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["npy", "parquet"])
def test_what_is_exported_comes_back(gallery: Gallery, tmp_path: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    paths = write_pictures(tmp_path / "images", 5)
    gallery.index([tmp_path / "images"])
    gallery.add(["é", "two"], vector=unit(2), metadata=[{"a": [1, None]}, None])
    file = tmp_path / f"out.{form}"
    assert gallery.export(file) == 7
    with Gallery.temporary(fake_model()) as other:
        assert other.import_(file) == 7
        assert list(other) == list(gallery)
        np.testing.assert_array_equal(other.vectors(), gallery.vectors())
        assert [(m.path, m.score, m.metadata) for m in other.query(paths[0], rank="cosine").matches] == [
            (m.path, m.score, m.metadata) for m in gallery.query(paths[0], rank="cosine").matches
        ]


def test_exported_numbers_can_be_read_by_numpy_alone(gallery: Gallery, tmp_path: Path) -> None:
    gallery.add(["a", "b"], vector=unit(2))
    gallery.export(tmp_path / "out.npy")
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), unit(2), atol=1e-6)
    lines = [json.loads(line) for line in (tmp_path / "out.names.jsonl").read_text().splitlines()]
    assert lines[0] == {"fingerprint": gallery.spec.fingerprint, "model": gallery.spec.name, "count": 2}
    assert [line["key"] for line in lines[1:]] == ["a", "b"]


def test_names_of_another_tool_are_lines_of_text(gallery: Gallery, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", 2 * unit(3))
    (tmp_path / "x.names.txt").write_text("one\ntwo\nthree\n")
    assert gallery.import_(tmp_path / "x.npy") == 3
    assert list(gallery) == ["one", "two", "three"]
    np.testing.assert_allclose(gallery.vectors(), unit(3), atol=1e-6)


def test_names_may_hold_what_python_takes_for_ends_of_lines(gallery: Gallery, tmp_path: Path) -> None:
    keys = [f"{chr(code)}a{chr(code)}.jpg" for code in (0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x85, 0x2028, 0x2029)]
    np.save(tmp_path / "x.npy", unit(8))
    (tmp_path / "x.names.txt").write_bytes("\r\n".join(keys).encode())  # no end of the last one, as editors leave it
    assert gallery.import_(tmp_path / "x.npy") == 8
    assert list(gallery) == keys
    (tmp_path / "x.names.jsonl").write_text(
        "".join(json.dumps({"key": "2" + k}, ensure_ascii=False) + "\n" for k in keys)
    )
    assert gallery.import_(tmp_path / "x.npy") == 8
    assert list(gallery) == [*keys, *("2" + key for key in keys)]


@pytest.mark.parametrize("names", ["[1]\n", "3\n", "[" * 100_000, '{"key": "a"\n', "\n"])
def test_names_that_are_none_are_refused(gallery: Gallery, tmp_path: Path, names: str) -> None:
    np.save(tmp_path / "x.npy", unit(1))
    (tmp_path / "x.names.jsonl").write_text(names)
    with pytest.raises(UsageError, match="cannot be read as descriptors with names"):
        gallery.import_(tmp_path / "x.npy")
    assert len(gallery) == 0


@pytest.mark.parametrize("kind", ["empty", "several arrays"])
def test_files_of_vectors_that_are_none_are_refused(gallery: Gallery, tmp_path: Path, kind: str) -> None:
    with open(tmp_path / "x.npy", "wb") as file:
        if kind == "several arrays":
            np.savez(file, a=unit(1))
    (tmp_path / "x.names.txt").write_text("one\n")
    with pytest.raises(UsageError, match="cannot be read as descriptors with names"):
        gallery.import_(tmp_path / "x.npy")
    assert len(gallery) == 0


def test_imports_that_are_refused_change_nothing(gallery: Gallery, tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    with pytest.raises(UsageError, match="there is no"):
        gallery.import_(file)
    with pytest.raises(UsageError, match=r"exchanged as \.npy"):
        gallery.export(tmp_path / "x.csv")
    np.save(file, unit(3))
    (tmp_path / "x.names.txt").write_text("one\ntwo\n")
    with pytest.raises(UsageError, match="2 names"):
        gallery.import_(file)
    np.save(file, np.array([object()]), allow_pickle=True)
    with pytest.raises(UsageError, match="cannot be read"):
        gallery.import_(file)
    with Gallery.temporary(fake_model(weights="b")) as other:
        other.add("a", vector=unit(1)[0])
        other.export(tmp_path / "other.npy")
    with pytest.raises(GalleryMismatch, match="fingerprint"):
        gallery.import_(tmp_path / "other.npy")
    assert len(gallery) == 0


# -- programs ----------------------------------------------------------------------------------------------------------


def test_a_temporary_gallery_leaves_nothing(tmp_path: Path) -> None:
    with Gallery.temporary(fake_model()) as made:
        folder = made.folder.parent
        made.add("a", vector=unit(1)[0])
        assert folder.is_dir()
    assert not folder.exists()


def test_threads_get_the_answers_of_one(gallery: Gallery, tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "images", 32)
    gallery.index([tmp_path / "images"])
    expected = [gallery.query(path, k=7) for path in paths]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda path: gallery.query(path, k=7), paths)) == expected


def test_threads_that_ask_first_at_the_same_time_share_one_catalog(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else one holds a state of its own catalog, and reads the other's."""
    gallery.add("a", vector=unit(1)[0])
    gallery.close()
    real = Catalog.__init__

    def slow(self: Catalog, *arguments: object, **options: object) -> None:
        time.sleep(0.05)
        real(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Catalog, "__init__", slow)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: (gallery.catalog, gallery.local), range(4)))
    assert len({id(catalog) for catalog, _ in found}) == 1
    assert len({id(local) for _, local in found}) == 1


def test_threads_that_describe_first_at_the_same_time_share_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def slow(*_: object, **__: object) -> FakeEngine:
        time.sleep(0.05)
        made.append(FakeEngine())
        return made[-1]

    monkeypatch.setattr("retrieval.engines.choose.create_engine", slow)
    model = Model(fake_model().spec)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: model.engine(), range(4)))
    assert len(made) == 1
    assert all(engine is made[0] for engine in found)


def test_galleries_and_models_are_pickled_as_what_opens_them(gallery: Gallery) -> None:
    gallery.add("a", vector=unit(1)[0])
    model = pickle.loads(pickle.dumps(fake_model()))
    assert model.fingerprint == gallery.model.fingerprint
    again = pickle.loads(pickle.dumps(gallery))
    assert [m.path for m in again.search(unit(1))[0]] == ["a"]


def test_messages_go_to_the_logger_too(gallery: Gallery, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "retrieval"):
        gallery.warn("the message")
        gallery.model.say("another")
    assert [(r.levelname, r.message) for r in caplog.records] == [("INFO", "the message"), ("INFO", "another")]


def test_where_nobody_listens_nothing_is_printed_and_who_comes_later_hears() -> None:
    """No logging is imported before its user does, and then neither warnings of ours nor Pillow's appear by themselves."""
    code = """if True:
        import sys
        from retrieval.messages import announced
        say = announced(None, "warning")
        say("before")
        assert "logging" not in sys.modules
        import io, logging, struct
        say("with nobody listening")
        from retrieval.pictures.imaging import load_picture
        from retrieval.errors import ImageError
        entries = [(256, 4, 8), (257, 4, 8), (258, 3, 8), (259, 3, 1), (262, 3, 2), (277, 3, 99), (273, 4, 200), (279, 4, 64)]
        tiff = b"II*\\0\\x08\\0\\0\\0" + struct.pack("<H", len(entries))
        tiff += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries) + bytes(300)
        try:
            load_picture(tiff)
            raise SystemExit("99 samples a pixel")
        except ImageError:
            pass
        heard = io.StringIO()
        logging.basicConfig(stream=heard)
        say("at last")
        try:
            load_picture(tiff)
        except ImageError:
            pass
        told = heard.getvalue()
        assert "WARNING:retrieval:at last" in told and "More samples per pixel" in told, told
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_surface_is_what_it_says() -> None:
    for name in retrieval.__all__:
        assert getattr(retrieval, name) is not None
    assert dir(retrieval) == sorted(retrieval.__all__)
    code = "import retrieval, sys; assert not {'numpy', 'torch', 'PIL'} & set(sys.modules); retrieval.Gallery"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Galery'"):
        _ = retrieval.Galery


def test_the_program_of_the_documents_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, path in enumerate(write_pictures(tmp_path / "png", 6)):
        Image.open(path).convert("RGB").save(tmp_path / f"p{i}.jpg")
    found = user_program.main(tmp_path, fake_model(), tmp_path / "out.npy")
    for i in range(6):
        size = (tmp_path / f"p{i}.jpg").stat().st_size
        assert found[f"p{i}"] == f"p{i} {{'bytes': {size}, 'shelf': {i}}}"
    assert "broken: " in capsys.readouterr().err
    assert len(np.load(tmp_path / "out.npy")) == 6


@pytest.mark.slow
def test_the_program_of_the_documents_is_typed(tmp_path: Path) -> None:
    """Slow: mypy reads the package, numpy and Pillow. Not torch, nor others of which the program needs no type."""
    from mypy import api

    config = tmp_path / "mypy.ini"
    unread = "torch.*,timm.*,huggingface_hub.*,matplotlib.*,fastapi.*,starlette.*,pydantic.*,cv2.*"
    config.write_text(f"[mypy]\nignore_missing_imports = true\n[mypy-{unread}]\nfollow_imports = skip\n")
    options = ["--strict", "--follow-imports=silent", f"--config-file={config}", f"--cache-dir={tmp_path / 'cache'}"]
    out, _, status = api.run([*options, user_program.__file__])
    assert status == 0, out
    wrong = tmp_path / "wrong.py"
    wrong.write_text(Path(user_program.__file__).read_text().replace("-> list[int]", "-> list[str]"))
    out, _, status = api.run([*options, str(wrong)])
    assert (status, "list[str]" in out) == (1, True), out


def test_the_document_shows_the_program_as_it_is() -> None:
    document = Path(__file__).parent.parent / "docs" / "api.md"
    body = Path(user_program.__file__).read_text().split('"""\n', 1)[1].strip()
    assert body in document.read_text()


def test_pil_pictures_and_their_bytes_have_one_size(gallery: Gallery) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(buffer, "JPEG")
    gallery.add("a", image=buffer.getvalue())
    gallery.add("b", image=Image.open(io.BytesIO(buffer.getvalue())))
    records = list(gallery.catalog.records())
    assert [(r.width, r.height) for r in records] == [(300, 200)] * 2

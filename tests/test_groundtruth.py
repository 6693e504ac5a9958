"""Ground truth: the official files against their published lists, hostile and broken files, and the JSON contract."""

from __future__ import annotations

import builtins
import functools
import io
import json
import os
import pickle
import shutil
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrieval.datasets.groundtruth import GroundTruth, Query
from retrieval.datasets.placing import check_boxes, check_files
from retrieval.datasets.reading import load_groundtruth
from retrieval.errors import DatasetError, UsageError
from retrieval.files import plain_pickle

A, B, C, D = "gallery/a.jpg", "gallery/b.jpg", "gallery/c.jpg", "gallery/d.jpg"


def form(**query: Any) -> dict[str, Any]:
    """A valid JSON form, with some fields of its second query replaced."""
    first = {"image": "q0.jpg", "bbox": None, "easy": [A], "hard": [], "junk": []}
    second = {"image": "q1.jpg", "bbox": [1, 2, 30.5, 40], "easy": [B], "hard": [C], "junk": [D]}
    return {"name": "toy", "gallery": [A, B, C, D], "queries": [first, {**second, **query}]}


def load(folder: Path, content: Any) -> GroundTruth:
    file = folder / "toy.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return load_groundtruth(file)


def touch(file: Path, size: tuple[int, int] = (60, 50)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(file)


# ---------------------------------------------------------------- JSON


def test_json_is_read_as_it_says(tmp_path: Path) -> None:
    truth = load(tmp_path, form())
    assert (truth.name, truth.root, truth.gallery, truth.original) == ("toy", tmp_path, (A, B, C, D), False)
    assert truth.queries[1] == Query("q1.jpg", (1.0, 2.0, 30.5, 40.0), (B,), (C,), (D,))
    assert truth.queries[0].bbox is None


def test_positions_are_places_in_the_gallery(tmp_path: Path) -> None:
    truth = load(tmp_path, form(easy=[C, A], hard=[], junk=[D]))
    easy = truth.positions(1, "easy")
    assert easy.dtype == np.int64
    assert easy.tolist() == [2, 0]
    assert truth.positions(truth.queries[1], "junk").tolist() == [3]
    empty = truth.positions(1, "hard")
    assert (empty.shape, empty.dtype) == ((0,), np.int64)
    with pytest.raises(UsageError, match="easy, hard, junk"):
        truth.positions(1, "medium")  # type: ignore[arg-type]


def test_saving_and_loading_is_the_identity(tmp_path: Path) -> None:
    odd = ["gallery/été 日本.jpg", "gallery/" + os.fsdecode(b"\xff\xfe.jpg"), 'gallery/"quoted", with comma.jpg']
    queries = (
        Query("../elsewhere/q.jpg", (0.1, 1 / 3, 7e3, 8.0), (odd[0],), (odd[1],), ()),
        Query("/abs/q.jpg", None, (), (), (odd[2],)),
    )
    truth = GroundTruth("odd names", tmp_path, tuple(odd), queries, original=True)
    truth.save(tmp_path / "odd.json")
    assert load_groundtruth(tmp_path / "odd.json") == truth
    (tmp_path / "odd.json").read_bytes().decode("utf-8")  # strictly UTF-8, whatever the names
    assert os.listdir(tmp_path) == ["odd.json"]


def test_names_written_as_raw_bytes_are_the_files_of_the_disk(tmp_path: Path) -> None:
    text = json.dumps(form()).replace("q0.jpg", "XX.jpg").encode().replace(b"XX", b"\xe9t\xe9")
    (tmp_path / "raw.json").write_bytes(b"\xef\xbb\xbf" + text)
    assert os.fsencode(load_groundtruth(tmp_path / "raw.json").queries[0].image) == b"\xe9t\xe9.jpg"


def test_a_file_above_the_root_names_the_pictures_from_there(tmp_path: Path) -> None:
    root = tmp_path / "set"
    root.mkdir()
    truth = load(root, form())
    truth.save(tmp_path / "above.json")
    above = load_groundtruth(tmp_path / "above.json")
    assert above.gallery[0] == "set/" + A
    assert above.queries[0].image == "set/q0.jpg"
    assert above.positions(1, "hard").tolist() == truth.positions(1, "hard").tolist()
    with pytest.raises(UsageError, match="beside its pictures"):
        truth.save(tmp_path / "other.json" / ".." / "set" / "below" / "x.json")


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = load(tmp_path, form())
    before = (tmp_path / "toy.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DatasetError, match="No space left"):
        truth.save(tmp_path / "toy.json")
    assert (tmp_path / "toy.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["toy.json"]


BAD_QUERIES: dict[str, dict[str, Any]] = {
    "easy: 'gallery/x.jpg' is not in the gallery": {"easy": ["gallery/x.jpg"]},
    "hard: 'gallery/x.jpg' is not in the gallery": {"hard": ["gallery/x.jpg"]},
    "junk: 'gallery/x.jpg' is not in the gallery": {"junk": ["gallery/x.jpg"]},
    "hard: 'gallery/b.jpg' is listed in easy already": {"hard": [B]},
    "junk: 'gallery/b.jpg' is listed in easy already": {"junk": [B]},
    "junk: 'gallery/c.jpg' is listed in hard already": {"junk": [C]},
    "easy: 'gallery/b.jpg' is listed in easy already": {"easy": [B, B]},
    "bbox: expected four numbers": {"bbox": [1, 2, 3]},
    "bbox: .* reversed": {"bbox": [30, 2, 3, 40]},
    "bbox: .* no area": {"bbox": [3, 2, 3, 40]},
    "bbox: four finite numbers": {"bbox": [1, 2, float("nan"), 40]},
    "bbox: four finite.*inf": {"bbox": [1, 2, float("inf"), 40]},
    "bbox: four finite numbers expected, not \\['1'": {"bbox": ["1", 2, 3, 4]},
    "bbox: four finite numbers expected, not \\[True": {"bbox": [True, 2, 3, 4]},
    "bbox: expected four numbers .* '1 2 3 4'": {"bbox": "1 2 3 4"},
    "easy: expected a list of paths": {"easy": A},
    "junk: expected a list of paths": {"junk": [3]},
    "image: expected the path of the query's picture, not None": {"image": None},
    "image: '' is not a path": {"image": ""},
    "unknown field 'esay'": {"esay": []},
}


@pytest.mark.parametrize("message", BAD_QUERIES)
def test_a_wrong_query_is_named(tmp_path: Path, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"toy\.json: queries\[1\].*{message}"):
        load(tmp_path, form(**BAD_QUERIES[message]))


def test_a_missing_key_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    wrong = form()
    wrong["queries"][0]["img"] = wrong["queries"][0].pop("image")
    with pytest.raises(DatasetError) as query:
        load(tmp_path, wrong)
    keys = ", ".join(sorted(wrong["queries"][0]))
    assert str(query.value).endswith(f'toy.json: queries[0] has no "image"; it has: {keys}')
    assert "img" in keys
    images = form()
    images["images"] = images.pop("gallery")
    with pytest.raises(DatasetError, match=r'toy\.json has no "gallery"; it has: .*images.*queries'):
        load(tmp_path, images)
    with pytest.raises(DatasetError, match=r"toy\.json is a result of retrieve evaluate --save, .*--compare"):
        load(tmp_path, {"protocols": {}, "settings": {}, "queries": []})


BAD_SETS: dict[str, Any] = {
    "not valid JSON": "{",
    "expected an object": [],
    "gallery: expected a list": {**form(), "gallery": None},
    "gallery: no pictures": {**form(), "gallery": []},
    "queries: expected a list": {**form(), "queries": {}},
    "queries: none": {**form(), "queries": []},
    "name: expected a text": {**form(), "name": 3},
    r"gallery\[4\]: 'gallery/a.jpg' is there twice": {**form(), "gallery": [A, B, C, D, A]},
    r"gallery\[4\]: './gallery//a.jpg' is there twice \(as": {**form(), "gallery": [A, B, C, D, "./gallery//a.jpg"]},
    r"gallery\[4\]: '/etc/passwd' leads out": {**form(), "gallery": [A, B, C, D, "/etc/passwd"]},
    r"gallery\[4\]: 'x/../../y.jpg' leads out": {**form(), "gallery": [A, B, C, D, "x/../../y.jpg"]},
    r"gallery\[4\]: '\.\.\\+y.jpg' leads out": {**form(), "gallery": [A, B, C, D, "..\\y.jpg"]},
    r"gallery\[4\]: 'C:.*' leads out": {**form(), "gallery": [A, B, C, D, "C:\\y.jpg"]},
    r"gallery\[4\]: .* is not a path": {**form(), "gallery": [A, B, C, D, "a\0.jpg"]},
    "queries: no query has a right answer": {**form(), "queries": [{"image": "q.jpg", "easy": [], "junk": [A]}]},
    r"queries\[0\], easy: no list of right": {**form(), "queries": [{"image": "q.jpg", "junk": [A]}]},
    "not valid JSON.*": "[" * 100_000,
}


@pytest.mark.parametrize("message", BAD_SETS)
def test_a_wrong_set_is_refused(tmp_path: Path, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"toy\.json: {message}"):
        load(tmp_path, BAD_SETS[message])


def test_a_query_without_right_answers_is_allowed(tmp_path: Path) -> None:
    assert load(tmp_path, form(easy=[], hard=[])).queries[1].easy == ()


def test_kinds_of_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such file"):
        load_groundtruth(tmp_path / "none.json")
    (tmp_path / "x.yaml").write_text("")
    with pytest.raises(UsageError, match="not a known kind"):
        load_groundtruth(tmp_path / "x.yaml")
    with pytest.raises(UsageError, match="not both"):
        load_groundtruth(tmp_path / "x.json", root=tmp_path, images=tmp_path)


def test_root_and_images_say_where_the_pictures_lie(tmp_path: Path) -> None:
    load(tmp_path, form())
    assert load_groundtruth(tmp_path / "toy.json", root="/data").root == Path("/data")
    assert load_groundtruth(tmp_path / "toy.json", images="/data").root == Path("/data")


# ---------------------------------------------------------------- pictures on disk


def test_missing_pictures_are_listed(tmp_path: Path) -> None:
    names = [f"gallery/{i}.jpg" for i in range(9)]
    truth = GroundTruth("toy", tmp_path, tuple(names), (Query("q.jpg", None, (names[0],), (), ()),))
    for name in names[:2]:
        touch(tmp_path / name)
    with pytest.raises(DatasetError) as caught:
        check_files(truth)
    assert "8 of 10 pictures" in str(caught.value)
    assert [n in str(caught.value) for n in names] == [False, False, *[True] * 5, False, False]
    assert "3 more" in str(caught.value)
    for name in [*names, "q.jpg"]:
        touch(tmp_path / name)
    check_files(truth)


@pytest.mark.parametrize(
    ("box", "fits"),
    [
        ((0, 0, 60, 50), True),
        ((-0.6, 0, 60.9, 50.5), True),
        ((0, 0, 62, 50), False),
        ((0, 0, 60, 52), False),
        ((-2, 0, 60, 50), False),
        ((0, -2, 60, 50), False),
    ],
)
def test_boxes_are_held_against_the_picture(tmp_path: Path, box: Any, fits: bool) -> None:
    touch(tmp_path / "q.jpg", (60, 50))
    truth = GroundTruth("toy", tmp_path, (A,), (Query("q.jpg", box, (A,), (), ()),))
    if fits:
        check_boxes(truth)
    else:
        with pytest.raises(DatasetError, match=r"queries\[0\] 'q.jpg', bbox: .* 60 x 50"):
            check_boxes(truth)


def test_boxes_of_turned_pictures(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 50)).save(tmp_path / "q.jpg", exif=exif)
    truth = GroundTruth("toy", tmp_path, (A,), (Query("q.jpg", (0, 0, 50, 60), (A,), (), ()),))
    check_boxes(truth, oriented=True)
    with pytest.raises(DatasetError, match="60 x 50"):
        check_boxes(truth)


def test_an_unreadable_query_is_named(tmp_path: Path) -> None:
    (tmp_path / "q.jpg").write_text("no picture")
    truth = GroundTruth("toy", tmp_path, (A,), (Query("q.jpg", (0, 0, 5, 6), (A,), (), ()),))
    with pytest.raises(DatasetError, match=r"queries\[0\] 'q.jpg', image: cannot be read"):
        check_boxes(truth)


# ---------------------------------------------------------------- the official pickles


@pytest.mark.realdata
@pytest.mark.parametrize(("name", "size", "without_easy"), [("roxford5k", 4993, 2), ("rparis6k", 6322, 0)])
def test_official_files(shared_data: Path, name: str, size: int, without_easy: int) -> None:
    folder = shared_data / "revisited" / name
    truth = load_groundtruth(folder / f"gnd_{name}.pkl")
    lines = {k: (folder / f"test_{k}.txt").read_text().split() for k in ("gallery", "query")}
    assert list(truth.gallery) == [line.split(",")[0] for line in lines["gallery"]]
    assert [q.image for q in truth.queries] == [line.split(",")[0] for line in lines["query"]]
    assert (len(truth.gallery), len(truth.queries), truth.name, truth.original) == (size, 70, name, False)
    assert sum(not query.easy for query in truth.queries) == without_easy
    with open(folder / f"gnd_{name}.pkl", "rb") as stream:
        official = pickle.load(stream)  # the plain unpickler as the second reader: a file that is known
    for i, entry in enumerate(official["gnd"]):
        assert truth.queries[i].bbox == tuple(float(v) for v in entry["bbx"])
        for field in ("easy", "hard", "junk"):
            assert truth.positions(i, field).tolist() == entry[field]


@pytest.mark.realdata
def test_a_folder_with_an_official_file_is_that_set(shared_data: Path) -> None:
    folder = shared_data / "revisited" / "roxford5k"
    assert load_groundtruth(folder) == load_groundtruth(folder / "gnd_roxford5k.pkl")
    assert load_groundtruth(folder, images="/pictures").gallery[0] == "ashmolean_000283.jpg"
    assert load_groundtruth(folder, images="/pictures").root == Path("/pictures")


@pytest.mark.realdata
def test_the_official_set_survives_json(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "revisited" / "rparis6k"
    truth = load_groundtruth(folder, root=tmp_path)
    truth.save(tmp_path / "rparis6k.json")
    assert load_groundtruth(tmp_path / "rparis6k.json") == truth


def benchmark(array: bool = False, **entry: Any) -> dict[str, Any]:
    """The content of a small official file."""

    def numbers(*values: float) -> Any:
        return np.array(values, dtype=None if values else int) if array else list(values)

    first = {"bbx": numbers(1.5, 2, 30, 40), "easy": numbers(0, 2), "hard": numbers(1), "junk": numbers()}
    return {"imlist": ["a", "b", "c"], "qimlist": ["q"], "gnd": [{**first, **entry}]}


def pickled(folder: Path, content: Any) -> GroundTruth:
    file = folder / "gnd_toy.pkl"
    file.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    return load_groundtruth(file)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("array", [False, True])
def test_every_pickle_protocol_and_numpy(tmp_path: Path, protocol: int, array: bool) -> None:
    truth = pickled(tmp_path, pickle.dumps(benchmark(array), protocol))
    assert truth.gallery == ("jpg/a.jpg", "jpg/b.jpg", "jpg/c.jpg")
    assert truth.queries == (
        Query("jpg/q.jpg", (1.5, 2.0, 30.0, 40.0), ("jpg/a.jpg", "jpg/c.jpg"), ("jpg/b.jpg",), ()),
    )


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=">i4"),
        np.arange(6, dtype="<u2").reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(["ab", "ü"]),
        np.array([b"x", b"yz"]),
        np.array([True, False]),
        np.array([1, "two", None], dtype=object),
        np.array([], dtype=np.int64),
    ],
    ids=lambda a: f"{a.dtype.str}{a.shape}",
)
def test_numpy_arrays_come_out_as_numpy_reads_them(value: np.ndarray, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    for spelling in (data, data.replace(b"numpy._core", b"numpy.core") if protocol < 4 else data):
        assert plain_pickle.as_list(plain_pickle.loads(spelling)) == value.ravel().tolist()
    scalar = value.ravel()[0] if value.size and value.dtype != object else np.float64(0.1)
    assert plain_pickle.loads(pickle.dumps(scalar, protocol)) == scalar.item()


def test_a_python_2_pickle(tmp_path: Path) -> None:
    # Protocol 2 as Python 2 wrote it: byte strings for names, and an array's bytes in one.
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x02tcnumpy\ndtype\n"
        b"(U\x02i4K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        b"U\x08\x00\x00\x00\x00\x02\x00\x00\x00tb"
    )
    data = (
        b"\x80\x02}(U\x06imlist](U\x01aU\x01bU\x01ceU\x07qimlist]U\x01qaU\x03gnd]}(U\x03bbxNU\x04easy"
        + array
        + b"U\x04hard]U\x04junk]uau."
    )
    assert pickled(tmp_path, data).positions(0, "easy").tolist() == [0, 2]


def test_the_first_oxford_and_paris(tmp_path: Path) -> None:
    content = {"imlist": ["a", "b", "q"], "qimlist": ["q"], "gnd": [{"bbx": [1, 2, 3, 4], "ok": [2, 0], "junk": [1]}]}
    truth = pickled(tmp_path, content)
    assert truth.original
    assert truth.queries[0].easy == ("jpg/q.jpg", "jpg/a.jpg")
    assert (truth.queries[0].hard, truth.queries[0].junk) == ((), ("jpg/b.jpg",))


BAD_PICKLES: dict[str, Any] = {
    "expected a dict with 'imlist'": [1, 2],
    "expected a dict with 'imlist', ": {"imlist": ["a"], "gnd": []},
    "gnd: 1 entries for the 2 queries": {**benchmark(), "qimlist": ["q", "r"]},
    r"queries\[0\] 'jpg/q.jpg', easy: 3 is not a position in the gallery of 3": benchmark(easy=[3]),
    r"queries\[0\] 'jpg/q.jpg', easy: -1 is not a position": benchmark(easy=[-1]),
    r"queries\[0\] 'jpg/q.jpg', hard: 0.5 is not a position": benchmark(hard=[0.5]),
    r"queries\[0\] 'jpg/q.jpg', hard: True is not a position": benchmark(hard=[True]),
    r"queries\[0\] 'jpg/q.jpg', junk: expected a list": benchmark(junk="012"),
    r"queries\[0\] 'jpg/q.jpg', bbx: expected a list": benchmark(bbx="0 0 1 1"),
    r"queries\[0\], bbox: expected four numbers": benchmark(bbx=[1, 2, 3]),
    r"queries\[0\] .*, hard: 'jpg/a.jpg' is listed in easy already": benchmark(hard=[0]),
    r"queries\[0\] 'jpg/q.jpg', gnd: expected a dict": {**benchmark(), "gnd": [[]]},
    r"imlist\[1\]: expected the name of a picture, not 7": {**benchmark(), "imlist": ["a", 7, "c"]},
    r"queries\[0\] 'jpg/q.jpg', hard: missing": {**benchmark(), "gnd": [{"easy": [0], "junk": []}]},
    "gallery: no pictures": {**benchmark(), "imlist": [], "gnd": [{"easy": [], "hard": [], "junk": []}]},
}


@pytest.mark.parametrize("message", BAD_PICKLES)
def test_a_wrong_pickle_is_refused(tmp_path: Path, message: str) -> None:
    with pytest.raises(DatasetError, match=rf"gnd_toy\.pkl: {message}"):
        pickled(tmp_path, BAD_PICKLES[message])


class _Reduces:
    """Pickles as a call of anything."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def persistent(identifier: str) -> bytes:
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return identifier if obj == "p" else None

    stream = io.BytesIO()
    Pickler(stream).dump({"imlist": "p"})
    return stream.getvalue()


def hostile(mark: Path) -> dict[str, bytes]:
    """Streams that would create the file ``mark`` if anything in them were run; the keys are what is refused."""
    shell = f"touch {mark}"
    code = f"open({str(mark)!r}, 'w').close()"
    chain = _Reduces(functools.partial(os.system, shell), ())
    dumps = pickle.dumps
    return {
        "(posix|os|nt).system": dumps({**benchmark(), "x": _Reduces(os.system, (shell,))}),
        "os.system": f"cos\nsystem\n(V{shell}\ntR.".encode(),
        "builtins.eval": dumps(_Reduces(eval, (code,))),
        "builtins.exec": dumps(_Reduces(exec, (code,)), 0).replace(b"__builtin__", b"builtins"),
        "__builtin__.exec": dumps(_Reduces(exec, (code,)), 2).replace(b"builtins", b"__builtin__"),
        "functools.partial": dumps(chain),
        "builtins.getattr": f"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(Vos\ntRVsystem\ntR(V{shell}\ntR.".encode(),
        "operator.attrgetter": b"coperator\nattrgetter\n(Vsystem\ntR.",
        "numpy.ndarray.__reduce__": b"\x80\x04\x8c\x05numpy\x8c\x12ndarray.__reduce__\x93.",
        "numpy.load": b"cnumpy\nload\n(V/etc/passwd\ntR.",
        "numpy.core.multiarray.fromfile": b"cnumpy.core.multiarray\nfromfile\n(V/etc/passwd\ntR.",
        "_codecs.lookup": b"c_codecs\nlookup\n(Vrot13\ntR.",
        "instruction INST": f"(V{shell}\nios\nsystem\n.".encode(),
        "instruction OBJ": f"(cos\nsystem\nV{shell}\no.".encode(),
        "instruction NEWOBJ": b"\x80\x02cbuiltins\nobject\n)\x81.",
        "instruction EXT1": b"\x82\x01.",
        "instruction BINPERSID": persistent("x"),
        "instruction PERSID": b"Pwhatever\n.",
        "instruction EMPTY_SET": dumps({1, 2}),
        "instruction NEXT_BUFFER": dumps(np.zeros(10, np.int8), protocol=5, buffer_callback=lambda _: None),
    }


@pytest.mark.parametrize("refused", hostile(Path("mark")))
def test_a_crafted_pickle_runs_nothing(tmp_path: Path, refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = tmp_path / "mark"
    ran: list[Any] = []
    data = hostile(mark)[refused]
    monkeypatch.setattr(builtins, "eval", lambda *a: ran.append(a))
    monkeypatch.setattr(os, "system", lambda *a: ran.append(a))
    with pytest.raises(DatasetError, match=refused) as caught:
        pickled(tmp_path, data)
    assert "refused" in str(caught.value)
    assert not mark.exists()
    assert not ran


def u8(number: int) -> bytes:
    return struct.pack("<Q", number)


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
INT64 = b"cnumpy\ndtype\n(U\x02i8K\x00K\x01tR"
BOMBS = {
    "memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "memo as text": b"(lp99999999999\n.",
    "frame": b"\x80\x04\x95" + u8(1 << 60) + b"].",
    "bytearray": b"\x80\x05\x96" + u8(1 << 40) + b".",
    "bytes": b"\x80\x04\x8e" + u8(1 << 40) + b".",
    "text": b"\x80\x04\x8d" + u8(1 << 40) + b".",
    "long": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "shape": RECONSTRUCT + b"(K\x01(L99999999999L\nt" + INT64 + b"\x89U\x08\0\0\0\0\0\0\0\0tb.",
    "shape given to the maker": RECONSTRUCT.replace(b"K\x00", b"L99999999999L\n") + b".",
    "item": b"cnumpy\ndtype\n(U\x0cU99999999999K\x00K\x01tR.",
    "empty item": RECONSTRUCT + b"(K\x01(L99999999999L\ntcnumpy\ndtype\n(U\x02U0K\x00K\x01tR\x89U\x00tb.",
    "from nothing": b"cnumpy.core.numeric\n_frombuffer\n(U\x00" + INT64 + b"(L99999999999L\ntU\x01CtR.",
    "depth": b"(" * 200_000 + b".",
    "truncated": pickle.dumps(benchmark())[:-20],
    "empty": b"",
    "not a pickle": b"PK\x03\x04 hello",
    "array never filled": pickle.dumps({**benchmark(), "imlist": 0}).replace(b"K\x00", RECONSTRUCT, 1),
    "setting on a stand-in": b"cnumpy\nndarray\n}U\x01xK\x01sb.",
    "slots of a stand-in": b"cnumpy\nndarray\nN}U\x08__call__K\x01s\x86b.",
    "calling a name": b"cnumpy\nndarray\n(L99999999999L\ntR.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_at_once(tmp_path: Path, bomb: str) -> None:
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"gnd_toy\.pkl: "):
        pickled(tmp_path, BOMBS[bomb])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6


def test_one_list_referred_to_over_and_over_is_refused(tmp_path: Path) -> None:
    long = list(range(20_000))
    entry = {"bbx": None, "easy": long, "hard": [], "junk": []}
    content = {"imlist": [str(i) for i in long], "qimlist": ["q"] * 20_000, "gnd": [entry] * 20_000}
    with pytest.raises(DatasetError, match="far more than what is written in it"):
        pickled(tmp_path, content)


def test_a_huge_pickle_is_not_even_read(tmp_path: Path) -> None:
    with open(tmp_path / "gnd_huge.pkl", "wb") as stream:
        stream.truncate(1 << 30)
    with pytest.raises(DatasetError, match="larger than any benchmark"):
        load_groundtruth(tmp_path)


# ---------------------------------------------------------------- labelled pictures


def labelled_folder(root: Path) -> None:
    for name in (
        "cats/1.jpg",
        "cats/2.JPG",
        "cats/3.png",
        "dogs/1.jpg",
        "dogs/2.jpg",
        "birds/eagle/1.jpg",
        "loose.jpg",
    ):
        touch(root / name)
    touch(root / ".hidden" / "x.jpg")
    touch(root / "cats" / ".x.jpg")
    (root / "cats" / "notes.txt").write_text("")
    (root / "empty").mkdir()


def test_labelled_folders_ask_by_leave_one_out(tmp_path: Path) -> None:
    labelled_folder(tmp_path / "zoo")
    truth = load_groundtruth(tmp_path / "zoo")
    assert truth.name == "zoo"
    assert list(truth.gallery) == [
        "birds/eagle/1.jpg", "cats/1.jpg", "cats/2.JPG", "cats/3.png", "dogs/1.jpg", "dogs/2.jpg", "loose.jpg",
    ]  # fmt: skip
    by_image = {query.image: query for query in truth.queries}
    assert set(by_image) == set(truth.gallery) - {"loose.jpg"}
    assert by_image["cats/2.JPG"] == Query("cats/2.JPG", None, ("cats/1.jpg", "cats/3.png"), (), ("cats/2.JPG",))
    assert by_image["birds/eagle/1.jpg"].easy == ()
    check_files(truth)


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    labelled_folder(tmp_path / "zoo")
    touch(tmp_path / "other" / "5.jpg")
    (tmp_path / "zoo" / "fish").symlink_to(tmp_path / "other")
    (tmp_path / "zoo" / "cats" / "loop").symlink_to(tmp_path / "zoo")
    gallery = load_groundtruth(tmp_path / "zoo").gallery
    assert "fish/5.jpg" in gallery
    assert len(gallery) == 8


def test_a_folder_without_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no pictures"):
        load_groundtruth(tmp_path)
    touch(tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match="no classes"):
        load_groundtruth(tmp_path)


def test_a_folder_is_taken_for_what_lies_in_it(tmp_path: Path) -> None:
    labelled_folder(tmp_path)
    truth = load(tmp_path, form())
    shutil.move(tmp_path / "toy.json", tmp_path / "groundtruth.json")
    assert load_groundtruth(tmp_path) == truth
    (tmp_path / "groundtruth.json").unlink()
    for name in "ab":
        (tmp_path / f"gnd_{name}.pkl").write_bytes(pickle.dumps(benchmark()))
    with pytest.raises(UsageError, match="2 ground truths"):
        load_groundtruth(tmp_path)


LISTS = {
    "plain": "x/1.jpg,a\nx/2.jpg,a\nx/3.jpg,b\n",
    "header": "path,label\nx/1.jpg,a\nx/2.jpg,a\nx/3.jpg,b\n",
    "header in another order": "Class, coarse, Image\na, 0, x/1.jpg\na, 0, x/2.jpg\nb, 1, x/3.jpg\n",
    "coarse classes": "x/1.jpg, a, 7\nx/2.jpg, a, 7\nx/3.jpg, b, 7",
    "BOM, Windows lines, empty lines": "\ufeffpath,label\r\nx/1.jpg,a\r\n\r\nx/2.jpg,a\r\nx/3.jpg,b\r\n\r\n",
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("suffix", ["csv", "txt"])
def test_lists(tmp_path: Path, kind: str, suffix: str) -> None:
    (tmp_path / f"list.{suffix}").write_bytes(LISTS[kind].encode())
    truth = load_groundtruth(tmp_path / f"list.{suffix}")
    assert (truth.name, truth.root, truth.gallery) == ("list", tmp_path, ("x/1.jpg", "x/2.jpg", "x/3.jpg"))
    assert [(q.image, q.easy, q.junk) for q in truth.queries] == [
        ("x/1.jpg", ("x/2.jpg",), ("x/1.jpg",)),
        ("x/2.jpg", ("x/1.jpg",), ("x/2.jpg",)),
        ("x/3.jpg", (), ("x/3.jpg",)),
    ]


def test_quotes_and_pictures_of_no_class(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('"a, b.jpg",x\nc.jpg,x\nd.jpg,\n')
    truth = load_groundtruth(tmp_path / "list.csv")
    assert truth.gallery == ("a, b.jpg", "c.jpg", "d.jpg")
    assert [query.image for query in truth.queries] == ["a, b.jpg", "c.jpg"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no 'path,label' lines"),
        ("path,label\n", "no 'path,label' lines"),
        ("a.jpg,x\nb.jpg\n", "line 2: expected 'path,label', found 'b.jpg'"),
        (",x\n", "line 1: expected"),
        ("a.jpg,x\nb.jpg,x\na.jpg,y\n", r"gallery\[2\]: 'a.jpg' is there twice"),
        ("a.jpg,x\nb.jpg,y\n", "no query has a right answer"),
    ],
)
def test_wrong_lists(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(DatasetError, match=rf"list\.csv.*{message}"):
        load_groundtruth(tmp_path / "list.csv")


@pytest.mark.realdata
def test_the_grocery_list_and_its_folders_agree(shared_data: Path) -> None:
    from_list = load_groundtruth(shared_data / "grocery" / "test.txt")
    from_folders = load_groundtruth(shared_data / "grocery" / "test")
    check_files(from_list)
    lines = (shared_data / "grocery" / "test.txt").read_text().splitlines()
    classes: dict[str, set[str]] = {}
    for line in lines:
        path, label, _ = line.split(", ")
        classes.setdefault(label, set()).add(path)
    assert len(classes) == 81
    for query, line in zip(from_list.queries, lines, strict=True):
        path, label, _ = line.split(", ")
        assert set(query.easy) == classes[label] - {path}
        assert query.junk == (path,)
    by_image = {query.image: set(query.easy) for query in from_folders.queries}
    assert all(
        by_image[q.image.removeprefix("test/")] == {p.removeprefix("test/") for p in q.easy} for q in from_list.queries
    )


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["qsd1_w1", "qsd1_w3", "qsd2_w2"])
def test_real_json_files(shared_data: Path, tmp_path: Path, name: str) -> None:
    truth = load_groundtruth(shared_data / "paintings" / f"{name}.json")
    check_files(truth)
    check_boxes(truth)
    assert (len(truth.gallery), len(truth.queries)) == (287, 30)
    assert truth.to_json() == json.loads((shared_data / "paintings" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["truth.json", "groundtruth.json"])
def test_a_folder_that_holds_a_ground_truth_is_not_taken_for_classes(name: str, tmp_path: Path) -> None:
    for path in ("a/1.jpg", "a/2.jpg", "b/3.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    (tmp_path / "labels.json").write_text('{"queries": 3, "gallery": "not a list"}')
    (tmp_path / "torn.json").write_text('{"queries": [], "gallery": [')
    said: list[str] = []
    assert load_groundtruth(tmp_path, say=said.append).of_folder
    assert said == []
    form = {"name": "own", "gallery": ["a/2.jpg", "b/3.jpg"], "queries": [{"image": "a/1.jpg", "easy": ["b/3.jpg"]}]}
    (tmp_path / name).write_text(json.dumps(form))
    truth = load_groundtruth(tmp_path, say=said.append)
    assert (truth.name, len(truth.queries), truth.queries[0].easy, truth.of_folder) == ("own", 1, ("b/3.jpg",), False)
    assert said == [f"{tmp_path} holds a ground truth: {tmp_path / name} is used, not its sub-folders as classes"]
    if name == "truth.json":
        shutil.copy(tmp_path / name, tmp_path / "other.json")
        with pytest.raises(UsageError, match="holds 2 ground truths"):
            load_groundtruth(tmp_path)


def test_what_has_a_ground_truths_name_and_is_no_file_is_passed_over(tmp_path: Path) -> None:
    """A FIFO would be waited for."""
    for path in ("a/1.jpg", "a/2.jpg"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    os.mkfifo(tmp_path / "truth.json")
    (tmp_path / "gnd_x.pkl").mkdir()
    found: list[GroundTruth] = []
    looking = threading.Thread(target=lambda: found.append(load_groundtruth(tmp_path)), daemon=True)
    looking.start()
    looking.join(20)
    assert [truth.of_folder for truth in found] == [True]


def test_a_folders_ground_truth_may_name_files_that_are_no_utf8(tmp_path: Path) -> None:
    """It was passed over, and the folder measured as classes without a word."""
    for path in (b"a/caf\xe9.jpg", b"a/2.jpg", b"b/3.jpg"):
        file = tmp_path / os.fsdecode(path)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
    queries = b'[{"image": "a/2.jpg", "easy": ["a/caf\xe9.jpg"]}]'
    (tmp_path / "truth.json").write_bytes(b'{"gallery": ["a/caf\xe9.jpg", "b/3.jpg"], "queries": ' + queries + b"}")
    truth = load_groundtruth(tmp_path)
    assert (truth.of_folder, truth.queries[0].easy) == (False, (os.fsdecode(b"a/caf\xe9.jpg"),))

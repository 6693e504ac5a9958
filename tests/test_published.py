"""The published sets in miniature, from a mirror of our own: layout, records, damage, sharing, conversion."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from webserver import Server, files_in, serving, tar_of

from retrieval.datasets.published import acquire, revisited, verify
from retrieval.datasets.published import download as downloading
from retrieval.datasets.published import sets as published
from retrieval.datasets.published.sets import SETS, PublishedSet, RemoteFile
from retrieval.datasets.reading import load_groundtruth
from retrieval.errors import DatasetError, DownloadError, RetrievalError, UsageError

GALLERY, QUERIES = [f"ox_{i}" for i in range(6)], ["q_0", "q_1"]
JPEG = {name: f"\xff\xd8{name}".encode("latin-1") * 40 for name in (*GALLERY, *QUERIES)}
GND = {
    "imlist": GALLERY,
    "qimlist": QUERIES,
    "gnd": [
        {"bbx": [0.0, 0.0, 5.0, 5.0], "easy": [0], "hard": [1], "junk": [2]},
        {"bbx": [1.0, 1.0, 5.0, 5.0], "easy": [3], "hard": [], "junk": []},
    ],
}
OLD_GND = {"imlist": GALLERY, "qimlist": GALLERY[:1], "gnd": [{"bbx": [0.0, 0.0, 5.0, 5.0], "ok": [1], "junk": []}]}
CIDS = [hashlib.md5(bytes([i])).hexdigest() for i in range(5)]
TRAINING = {part: {"cids": CIDS[:4], "cluster": [0, 0, 1, 1], "qidxs": [0], "pidxs": [1]} for part in ("train", "val")}


def tree(cids: list[str]) -> dict[str, bytes]:
    return {f"{cid[-2:]}/{cid[-4:-2]}/{cid[-6:-4]}/{cid}": cid.encode() for cid in cids}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as made:
        yield made


@pytest.fixture
def mirror(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """All published sets in miniature, at the mirror's address under their published names."""
    monkeypatch.setenv(published.MIRROR, server.url + "/")
    monkeypatch.setattr(downloading.time, "sleep", lambda _: None)
    small = {
        name: PublishedSet(**{**vars(item), "gallery": item.gallery and 6, "queries": item.queries and 2})
        for name, item in SETS.items()
    }
    million = SETS["revisitop1m"]
    small["revisitop1m"] = PublishedSet(**{**vars(million), "files": million.files[:4]})
    for name, item in small.items():
        monkeypatch.setitem(SETS, name, item)
    photos = [(f"v1/{name}.jpg", data) for name, data in JPEG.items()]
    server.put("/oxbuild_images-v1.tgz", tar_of({**dict(photos), "v1/README.txt": b"-"}))
    server.put("/paris_1-v1.tgz", tar_of(dict(photos[:3])))
    server.put("/paris_2-v1.tgz", tar_of(dict(photos[3:])))
    for name, form in (("roxford5k", GND), ("rparis6k", GND), ("oxford5k", OLD_GND), ("paris6k", OLD_GND)):
        server.put(f"/gnd_{name}.pkl", pickle.dumps(form, 2))
    for i in (1, 2, 3):
        server.put(f"/revisitop1m.{i}.tar.gz", tar_of({f"{i}/{n}/x.jpg": b"%d%d" % (i, n) for n in range(2)}))
    server.put("/revisitop1m.txt", "".join(f"{i}/{n}/x.jpg\n" for i in (1, 2, 3) for n in range(2)).encode())
    server.put("/ims.tar.gz", tar_of(tree(CIDS)))
    server.put("/retrieval-SfM-120k.pkl", pickle.dumps(TRAINING, 2))
    for name in ("30k", "120k"):
        white = {"cids": CIDS[1:], "qidxs": [0, 1], "pidxs": [2, 3]}
        server.put(f"/retrieval-SfM-{name}-whiten.pkl", pickle.dumps(white, 2))
    return server


def retrieve(*args: object) -> tuple[int, str]:
    """The command as a user runs it, errors as ``main`` prints them."""
    from retrieval.cli.main import cli

    result = CliRunner().invoke(cli, [str(arg) for arg in args], standalone_mode=False)
    if isinstance(result.exception, RetrievalError):
        return result.exception.exit_code, str(result.exception)
    if result.exception is not None:
        raise result.exception
    return result.return_value or 0, result.output


def asked(server: Server) -> list[str]:
    names = [path[1:] for path, _ in server.requests]
    server.requests.clear()
    return names


@pytest.mark.parametrize("name", SETS)
def test_every_set_arrives_in_its_layout_and_stays_verifiable(name: str, mirror: Server, tmp_path: Path) -> None:
    status, output = retrieve("datasets", "download", name, "--dir", tmp_path)
    assert status == 0, output
    folder = tmp_path / name
    item = SETS[name]
    pictures = {path: data for path, data in files_in(folder).items() if path.startswith(item.folder + "/")}
    if item.flat:
        assert pictures == {f"jpg/{one}.jpg": data for one, data in JPEG.items()}
        truth = revisited.published_groundtruth(name, tmp_path)
        assert len(truth.gallery) == 6
        assert truth.original == (not name.startswith("r"))
        assert all((truth.root / path).is_file() for path in truth.gallery)
    elif name == "revisitop1m":
        assert pictures == {f"jpg/{i}/{n}/x.jpg": b"%d%d" % (i, n) for i in (1, 2, 3) for n in range(2)}
        assert [Path(path).read_bytes() for path in revisited.distractors(tmp_path)][:3] == [b"10", b"11", b"20"]
    else:
        assert pictures == {f"ims/{path}": data for path, data in tree(CIDS).items()}
    others = {path.name for path in folder.iterdir()} - {item.folder, *(file.name for file in item.lists)}
    assert others == {"download.json", ".contents", ".lock"}  # no archives, no parts
    assert sorted(asked(mirror)) == sorted(file.name for file in item.files)
    status, output = retrieve("datasets", "verify", name, "--dir", tmp_path)
    assert (status, "all compared" in output) == (0, True), output
    assert retrieve("datasets", "download", name, "--dir", tmp_path)[0] == 0  # is here: nothing is asked for
    assert asked(mirror) == []


def test_sets_with_the_same_pictures_share_them(mirror: Server, tmp_path: Path) -> None:
    for name in ("roxford5k", "oxford5k", "retrieval-SfM-120k", "retrieval-SfM-30k"):
        retrieve("datasets", "download", name, "--dir", tmp_path)
    assert asked(mirror).count("oxbuild_images-v1.tgz") == 1
    assert os.readlink(tmp_path / "oxford5k" / "jpg") == "../roxford5k/jpg"
    assert os.readlink(tmp_path / "retrieval-SfM-30k" / "ims") == "../retrieval-SfM-120k/ims"
    status, output = retrieve("datasets", "verify", "oxford5k", "--dir", tmp_path)
    assert (status, "9 files, all compared" in output) == (0, True), output
    (tmp_path / "roxford5k" / "jpg" / "ox_1.jpg").write_bytes(JPEG["ox_2"])
    status, output = retrieve("datasets", "verify", "oxford5k", "--dir", tmp_path)
    assert (status, "jpg/ox_1.jpg has changed" in output) == (1, True), output


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def rename_in(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"ox_5", b"ox_9"))


@pytest.mark.parametrize(
    ("spoil", "said", "quick"),
    [
        (lambda f: damage(f / "jpg" / "ox_3.jpg"), "jpg/ox_3.jpg has changed since it was downloaded", False),
        (lambda f: (f / "jpg" / "ox_3.jpg").unlink(), "jpg/ox_3.jpg is missing", True),
        (lambda f: (f / "jpg" / "q_1.jpg").write_bytes(b"short"), "jpg/q_1.jpg has 5 bytes where 200", True),
        (lambda f: rename_in(f / "gnd_roxford5k.pkl"), "gnd_roxford5k.pkl has changed", True),
    ],
)
def test_later_damage_is_found(spoil: Callable, said: str, quick: bool, mirror: Server, tmp_path: Path) -> None:
    retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    spoil(tmp_path / "roxford5k")
    status, output = retrieve("datasets", "verify", "roxford5k", "--dir", tmp_path)
    assert (status, said in output) == (1, True), output
    status, output = retrieve("datasets", "verify", "roxford5k", "--dir", tmp_path, "--quick")
    assert status == (1 if quick else 0), output


def test_the_record_says_what_was_fetched(mirror: Server, tmp_path: Path) -> None:
    retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    record = json.loads((tmp_path / "roxford5k" / "download.json").read_text())
    body = mirror.files["/oxbuild_images-v1.tgz"].body
    found = record["files"]["oxbuild_images-v1.tgz"]
    assert found["sha256"] == hashlib.sha256(body).hexdigest()
    assert (found["bytes"], found["unpacked"]) == (len(body), 8)
    assert found["url"] == f"{mirror.url}/oxbuild_images-v1.tgz"
    assert record["complete"] is True


def test_an_interrupted_set_continues_with_what_is_left(mirror: Server, tmp_path: Path) -> None:
    mirror.files["/revisitop1m.2.tar.gz"].script = [("cut", 60), *[("status", 500)] * 4]
    status, said = retrieve("datasets", "download", "revisitop1m", "--dir", tmp_path)
    assert (status, "500" in said) == (1, True)
    assert not (tmp_path / "revisitop1m" / "jpg").exists()
    status, output = retrieve("datasets", "verify", "revisitop1m", "--dir", tmp_path)
    assert (status, "has not been completed" in output) == (1, True)
    mirror.requests.clear()
    assert retrieve("datasets", "download", "revisitop1m", "--dir", tmp_path)[0] == 0
    assert mirror.requests == [("/revisitop1m.2.tar.gz", "bytes=60-"), ("/revisitop1m.3.tar.gz", None)]
    assert retrieve("datasets", "verify", "revisitop1m", "--dir", tmp_path)[0] == 0


def test_an_archive_changed_since_then_is_not_trusted(mirror: Server, tmp_path: Path) -> None:
    retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    folder = tmp_path / "roxford5k"
    for path in (folder / "jpg").iterdir():
        path.unlink()
    (folder / "jpg").rmdir()
    good = mirror.files["/oxbuild_images-v1.tgz"].body
    mirror.files["/oxbuild_images-v1.tgz"].body = tar_of({f"{name}.jpg": b"other" for name in JPEG})
    status, said = retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    assert (status, "is not what it was on" in said) == (1, True), said
    mirror.files["/oxbuild_images-v1.tgz"].body = good
    assert retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)[0] == 0
    assert retrieve("datasets", "verify", "roxford5k", "--dir", tmp_path)[0] == 0


def test_a_page_in_place_of_an_archive_can_be_mended(mirror: Server, tmp_path: Path) -> None:
    good = mirror.files["/oxbuild_images-v1.tgz"].body
    mirror.files["/oxbuild_images-v1.tgz"].body = b"<!DOCTYPE html>moved"
    status, said = retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    assert (status, "damaged or no archive" in said) == (1, True), said
    mirror.files["/oxbuild_images-v1.tgz"].body = good
    assert retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)[0] == 0


def test_another_ground_truth_is_refused_before_the_pictures(mirror: Server, tmp_path: Path) -> None:
    other = {**GND, "imlist": [*GALLERY, "ox_6"]}
    mirror.files["/gnd_roxford5k.pkl"].body = pickle.dumps(other, 2)
    status, said = retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    assert (status, "has 7 pictures in the gallery where roxford5k has 6" in said) == (1, True), said
    assert asked(mirror) == ["gnd_roxford5k.pkl"]


def test_archives_without_all_pictures_are_told(mirror: Server, tmp_path: Path) -> None:
    mirror.files["/paris_2-v1.tgz"].body = tar_of({"q_0.jpg": b"1"})
    status, said = retrieve("datasets", "download", "rparis6k", "--dir", tmp_path)
    assert (status, "lacks 4 of the 8 pictures" in said) == (1, True), said
    assert not json.loads((tmp_path / "rparis6k" / "download.json").read_text())["complete"]


def test_a_set_put_there_by_hand_is_taken_as_it_is(mirror: Server, tmp_path: Path) -> None:
    folder = tmp_path / "roxford5k" / "jpg"
    folder.mkdir(parents=True)
    for name, data in JPEG.items():
        (folder / f"{name}.jpg").write_bytes(data)
    (folder.parent / "gnd_roxford5k.pkl").write_bytes(pickle.dumps(GND, 2))
    assert "contents were not compared" in retrieve("datasets", "verify", "roxford5k", "--dir", tmp_path)[1]
    assert retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)[0] == 0
    assert asked(mirror) == []
    (folder / "ox_0.jpg").unlink()
    status, output = retrieve("datasets", "verify", "roxford5k", "--dir", tmp_path)
    assert (status, "jpg/ox_0.jpg is missing" in output) == (1, True), output
    status, said = retrieve("datasets", "download", "roxford5k", "--dir", tmp_path)
    assert (status, "lacks 1 of the 8 pictures" in said) == (1, True), said


def test_two_downloads_of_one_set_do_not_meet(mirror: Server, tmp_path: Path) -> None:
    mirror.files["/oxbuild_images-v1.tgz"].script = [("hang",)]
    first = threading.Thread(target=lambda: acquire.download_set(SETS["roxford5k"], tmp_path))
    first.start()
    while len(mirror.requests) < 2:
        time.sleep(0.01)
    with pytest.raises(DownloadError, match="another process is at work"):
        acquire.download_set(SETS["roxford5k"], tmp_path)
    mirror.released.set()
    first.join()
    assert verify.verify_set(SETS["roxford5k"], tmp_path).problems == []


def test_archives_are_kept_when_asked(mirror: Server, tmp_path: Path) -> None:
    retrieve("datasets", "download", "rparis6k", "--dir", tmp_path, "--keep-archives")
    assert sorted(os.listdir(tmp_path / "rparis6k" / ".archives")) == ["paris_1-v1.tgz", "paris_2-v1.tgz"]


def test_unknown_and_absent_sets(mirror: Server, tmp_path: Path) -> None:
    status, said = retrieve("datasets", "download", "oxford")
    assert (status, "roxford5k, rparis6k" in said) == (2, True)
    status, said = retrieve("datasets", "verify", "roxford5k", "--dir", tmp_path)
    assert (status, "retrieve datasets download roxford5k" in said) == (1, True)
    with pytest.raises(UsageError, match="no ground truth"):
        revisited.published_groundtruth("revisitop1m", tmp_path)
    (tmp_path / "roxford5k").mkdir()
    (tmp_path / "roxford5k" / "download.json").write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        verify.verify_set(SETS["roxford5k"], tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        pickle.dumps({"cids": [os.path.join("..", "..", "etc")]}, 2),
        pickle.dumps([1, 2], 2),
        b"cos\nsystem\n(S'touch /tmp/escaped-pickle'\ntR.",
    ],
)
def test_a_hostile_training_list_is_refused(body: bytes, mirror: Server, tmp_path: Path) -> None:
    mirror.files["/retrieval-SfM-30k-whiten.pkl"].body = body
    assert retrieve("datasets", "download", "retrieval-SfM-30k", "--dir", tmp_path)[0] == 1
    assert not Path("/tmp/escaped-pickle").exists()
    assert asked(mirror) == ["retrieval-SfM-30k-whiten.pkl"]


def test_a_hostile_list_of_distractors_is_refused(mirror: Server, tmp_path: Path) -> None:
    for line in (b"../../x.jpg", b"/etc/x.jpg", b""):
        mirror.files["/revisitop1m.txt"].body = line + b"\n"
        status, _ = retrieve("datasets", "download", "revisitop1m", "--dir", tmp_path / hashlib.md5(line).hexdigest())
        assert status == 1
    assert set(asked(mirror)) == {"revisitop1m.txt"}


def test_the_table_of_sets(tmp_path: Path) -> None:
    by_name: dict[str, set[str]] = {}
    for item in SETS.values():
        for file in item.files:
            by_name.setdefault(file.name, set()).add(file.url)
    assert all(len(urls) == 1 for urls in by_name.values())  # a name on a mirror means one file
    status, output = retrieve("datasets", "list", "--format", "json", "--dir", tmp_path)
    rows = [json.loads(line) for line in output.splitlines()]
    assert status == 0
    assert [row["name"] for row in rows] == list(SETS)
    assert all(row["here"] == "not here" and row["terms"] and row["layout"] for row in rows)
    urls = [file["url"] for row in rows for file in row["files"]]
    assert "http://cmp.felk.cvut.cz/revisitop/data/datasets/roxford5k/gnd_roxford5k.pkl" in urls
    assert "http://ptak.felk.cvut.cz/revisitop/revisitop1m/jpg/revisitop1m.100.tar.gz" in urls
    assert "rparis6k" in retrieve("datasets", "list", "--dir", tmp_path)[1]


def test_an_address_without_mirror_is_the_authors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(published.MIRROR, raising=False)
    file = RemoteFile("http://authors.example/a/b.pkl")
    assert file.address() == "http://authors.example/a/b.pkl"
    monkeypatch.setenv(published.MIRROR, "http://mirror.example/sets")
    assert file.address() == "http://mirror.example/sets/b.pkl"


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_the_official_ground_truths_have_the_counts_of_the_table(name: str, shared_data: Path) -> None:
    truth = revisited.published_groundtruth(name, shared_data / "revisited")
    assert (len(truth.gallery), len(truth.queries)) == (SETS[name].gallery, SETS[name].queries)


# ---------------------------------------------------------------- convert


def test_convert_the_official_pickle(tmp_path: Path) -> None:
    (tmp_path / "gnd_mine.pkl").write_bytes(pickle.dumps(GND, 2))
    (tmp_path / "jpg").mkdir()
    status, output = retrieve("datasets", "convert", tmp_path / "gnd_mine.pkl", tmp_path / "mine.json")
    assert (status, "6 pictures, 2 queries" in output) == (0, True)
    form = json.loads((tmp_path / "mine.json").read_text())
    assert form["queries"][0] == {
        "image": "jpg/q_0.jpg",
        "bbox": [0.0, 0.0, 5.0, 5.0],
        "easy": ["jpg/ox_0.jpg"],
        "hard": ["jpg/ox_1.jpg"],
        "junk": ["jpg/ox_2.jpg"],
    }
    assert "8 of 8 pictures are missing" in output  # said, not refused
    assert load_groundtruth(tmp_path / "mine.json").gallery == load_groundtruth(tmp_path / "gnd_mine.pkl").gallery


def test_convert_with_the_pictures_elsewhere(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, data in JPEG.items():
        (photos / f"{name}.jpg").write_bytes(data)
    (tmp_path / "gnd_mine.pkl").write_bytes(pickle.dumps(GND, 2))
    out = tmp_path / "mine.json"
    status, output = retrieve("datasets", "convert", tmp_path / "gnd_mine.pkl", out, "--images", photos)
    assert (status, "missing" in output) == (0, False), output
    assert json.loads(out.read_text())["gallery"][0] == "photos/ox_0.jpg"


@pytest.mark.parametrize("kind", ["folder", "csv", "txt"])
def test_convert_labels(kind: str, tmp_path: Path) -> None:
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg", "dog/2.jpg"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"x")
    source = tmp_path / "set"
    if kind != "folder":
        source = source / f"list.{kind}"
        source.write_text("cat/1.jpg,cat\ncat/2.jpg,cat\ndog/1.jpg,dog\ndog/2.jpg,dog\n")
    out = tmp_path / "set" / "groundtruth.json"
    status, output = retrieve("datasets", "convert", source, out)
    assert (status, "4 pictures, 4 queries" in output) == (0, True), output
    first = json.loads(out.read_text())["queries"][0]
    assert (first["image"], first["easy"], first["junk"]) == ("cat/1.jpg", ["cat/2.jpg"], ["cat/1.jpg"])


def test_convert_refuses(tmp_path: Path) -> None:
    assert retrieve("datasets", "convert", tmp_path / "a.pkl", tmp_path / "b.txt")[0] == 2
    assert retrieve("datasets", "convert", tmp_path / "a.pkl", tmp_path / "b.json")[0] == 1
    (tmp_path / "a.pkl").write_bytes(b"cos\nsystem\n(S'touch /tmp/escaped-pickle'\ntR.")
    status, said = retrieve("datasets", "convert", tmp_path / "a.pkl", tmp_path / "b.json")
    assert (status, "refused" in said) == (1, True)
    assert not Path("/tmp/escaped-pickle").exists()

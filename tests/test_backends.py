"""A gallery in a folder, in PostgreSQL and in Milvus: one class of tests for all, against brute force over the same vectors."""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from engines_served import Milvus
from fakes import DIM, fake_gallery, fake_model, write_pictures

from retrieval.backends.base import Entry
from retrieval.backends.connect import connect
from retrieval.backends.indexing import index_folders
from retrieval.backends.served import ServedGallery
from retrieval.cli.main import cli
from retrieval.errors import GalleryError, GalleryMismatch, ImageError, UsageError
from retrieval.files.paths import show_path
from retrieval.gallery.address import shown
from retrieval.parts.manifest import read_manifest
from retrieval.parts.merge import merge_parts
from retrieval.parts.run import describe_parts
from retrieval.pictures import scan

_number = itertools.count()


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder of pictures in two sub-folders, with copies, and its parts."""
    folder = tmp_path_factory.mktemp("album")
    write_pictures(folder / "photos" / "album07", 12, seed=1)
    write_pictures(folder / "photos" / "album07b", 12, seed=2)
    for i in (2, 5):  # copies tie
        data = (folder / "photos" / "album07" / f"000{i}.png").read_bytes()
        (folder / "photos" / "album07b" / f"copy{i}.png").write_bytes(data)
    (folder / "photos" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    describe_parts(str(folder / "photos"), folder / "parts", fake_model(), shard_size=10, workers=2)
    return folder


class Folder:
    def __init__(self, folder):
        self.gallery = fake_gallery(folder)

    def merge(self, parts):
        return merge_parts(self.gallery, read_manifest(parts))

    def reopened(self):
        return fake_gallery(Path(self.gallery.folder))


class Served:
    def __init__(self, address):
        self.address = address
        self.gallery = ServedGallery.create(address, fake_model())

    def merge(self, parts):
        return self.gallery.merge(read_manifest(parts))

    def reopened(self):
        return ServedGallery.open(self.address)


@pytest.fixture(params=["local", "postgres", "milvus"])
def house(request, tmp_path, servers):
    if request.param == "local":
        made = Folder(tmp_path / "gallery")
    else:
        made = Served(servers(request.param).address(f"test{next(_number)}"))
    yield made
    made.gallery.close()


@pytest.fixture(params=["postgres", "milvus"])
def address(request, servers):
    return servers(request.param).address(f"test{next(_number)}")


def vectors_of(gallery):
    found = gallery.backend.exact(np.ones((1, DIM), np.float32), 10_000)[0]
    return dict(zip(found.names, found.vectors, strict=True))


def truth(album):
    """Names, in order, and vectors, as a gallery that was indexed has them."""
    direct = fake_gallery(album / "direct")
    direct.index([album / "photos"])
    return list(direct), direct.vectors()


def brute_force(names, vectors, query, k):
    """(name, cosine) of the best, by plain loops."""
    scored = []
    for name, vector in zip(names, vectors, strict=True):
        a, b = vector.astype(np.float64), query.astype(np.float64)
        scored.append((-float(a @ b / np.sqrt((a @ a) * (b @ b))), name))
    return [(name, -score) for score, name in sorted((round(s, 12), n) for s, n in scored)[:k]]


def same(found, expected):
    assert [m.path for m in found] == [name for name, _ in expected]
    assert np.allclose([m.score for m in found], [score for _, score in expected], atol=1e-6)


class TestEveryBackEnd:
    def test_scores_and_ties_are_those_of_brute_force(self, house, album):
        report = house.merge(album / "parts")
        assert (report.added, report.unreadable, report.missing) == (26, 1, [])
        names, vectors = truth(album)
        rng = np.random.default_rng(3)
        queries = np.concatenate([vectors[[2, 5, 20]], rng.normal(size=(5, DIM)).astype(np.float32)])
        for k in (1, 4, 26, 100):
            for query, found in zip(queries, house.gallery.search(queries, k), strict=True):
                same(found, brute_force(names, vectors, query, k))
                assert [m.rank for m in found] == list(range(1, min(k, 26) + 1))
        first, second = house.gallery.search(vectors[[2]], 2)[0]
        assert first.score == second.score

    def test_under_a_folder_misses_none(self, house, album):
        house.merge(album / "parts")
        names, vectors = truth(album)
        inside = [i for i, name in enumerate(names) if "/album07/" in name]
        for under in (str(album / "photos" / "album07"), str(album / "photos" / "album07") + "/", "album07"):
            found = house.gallery.search(vectors[[20]], 20, under=under)[0]
            same(found, brute_force([names[i] for i in inside], vectors[inside], vectors[20], 20))
        one = house.gallery.search(vectors[[20]], 20, under=names[inside[3]])[0]
        assert [m.path for m in one] == [names[inside[3]]]
        assert house.gallery.search(vectors[[20]], 20, under="/nowhere")[0] == []

    def test_taking_parts_in_twice_changes_nothing(self, house, album):
        house.merge(album / "parts")
        before = sorted(house.gallery)
        report = house.merge(album / "parts")
        assert (report.added, report.changed, report.unchanged) == (0, 0, 26)
        assert sorted(house.gallery) == before
        assert len(house.gallery) == 26

    def test_taking_pictures_out(self, house, album):
        house.merge(album / "parts")
        names, vectors = truth(album)
        assert house.gallery.remove_matching(names[0]) == [names[0]]
        gone = house.gallery.remove_matching(str(album / "photos" / "album07"))
        assert len(gone) == 11
        assert len(house.gallery) == 14
        left = [i for i, name in enumerate(names) if "/album07b/" in name]
        found = house.gallery.search(vectors[[2]], 30)[0]
        same(found, brute_force([names[i] for i in left], vectors[left], vectors[2], 30))

    def test_a_picture_is_asked(self, house, album):
        house.merge(album / "parts")
        house.gallery.model._engine = fake_model()._engine
        query = album / "photos" / "album07" / "0005.png"
        (result,) = house.gallery.answers([str(query)], 3, rank="cosine")
        assert [m.path for m in result.matches[:2]] == [str(query), str(album / "photos" / "album07b" / "copy5.png")]
        (result,) = house.gallery.answers([str(album / "photos" / "bad.png")], 3, rank="cosine")
        assert result.error is not None

    def test_another_model_is_refused(self, house, album, tmp_path):
        describe_parts(str(album / "photos"), tmp_path / "others", fake_model(weights="b"), workers=2)
        with pytest.raises(GalleryMismatch, match="fingerprint"):
            house.merge(tmp_path / "others")
        with pytest.raises(GalleryMismatch, match="fingerprint"):
            house.gallery.require(fake_model(weights="b"))

    def test_two_readers_and_a_writer(self, house, album):
        """Readers see whole pictures with their own vectors at every moment."""
        names, vectors = truth(album)
        own = dict(zip(names, vectors, strict=True))
        stop, failures, answers = threading.Event(), [], [0, 0]

        def read(number):
            try:
                with house.reopened() as gallery:
                    while not stop.is_set() or not answers[number]:
                        for match in gallery.search(vectors[[number]], 30)[0]:
                            expected = brute_force([match.path], [own[match.path]], vectors[number], 1)[0][1]
                            assert abs(match.score - expected) < 1e-6
                        answers[number] += 1
            except BaseException as error:
                failures.append(error)

        readers = [threading.Thread(target=read, args=(number,)) for number in (0, 1)]
        for reader in readers:
            reader.start()
        try:
            for _ in range(2):
                house.merge(album / "parts")
                house.gallery.remove_matching(str(album / "photos" / "album07"))
        finally:
            stop.set()
            for reader in readers:
                reader.join(60)
        assert failures == []
        assert min(answers) > 0


def entries(rng, count, first=0, folder="/many"):
    vectors = rng.normal(size=(count, DIM)).astype(np.float32)
    return [Entry(f"{folder}/{first + i:06d}", f"{first + i:056x}", 1, 2, None, None, v) for i, v in enumerate(vectors)]


def description():
    model = fake_model()
    return {"model": model.spec.to_dict(), "fingerprint": model.fingerprint, "dim": DIM, "roots": []}


def connected_soon(address):
    """A server that was just started answers within seconds on a busy machine; gRPC itself waits before it tries again."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return connect(address)
        except GalleryError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


class TestServed:
    def test_the_protocol(self, address):
        backend = connect(address, description())
        some = entries(np.random.default_rng(1), 20)
        backend.upsert(some)
        backend.upsert(some[:5])
        assert backend.count() == 20
        assert backend.has([some[3].hash, "0" * 56, "f" * 56]) == {some[3].hash, some[0].hash}
        assert set(backend.seen([some[3].name, "/none"])) == {some[3].name}
        assert list(backend.names()) == [e.name for e in some]
        backend.delete([some[3].name, "/none"])
        assert backend.has([some[3].hash]) == set()
        assert len(backend.sample(7).names) == 7
        backend.close()
        again = connect(address)
        assert again.description["fingerprint"] == fake_model().fingerprint
        assert again.count() == 19
        again.close()

    def test_vectors_come_back_bit_for_bit(self, address):
        backend = connect(address, description())
        rng = np.random.default_rng(2)
        some = entries(rng, 50)
        backend.upsert(some)
        found = backend.exact(some[0].vector[None], 50)[0]
        own = {e.name: e.vector for e in some}
        assert all(np.array_equal(v, own[n]) for n, v in zip(found.names, found.vectors, strict=True))
        assert len(found.names) == 50
        backend.close()

    def test_names_with_wildcards_quotes_and_accents(self, address):
        backend = connect(address, description())
        rng = np.random.default_rng(4)
        folders = ["/a%b", "/aXb", "/a_b", "/q\"o't\\e", "/caf\u00e9", "/caf", "s3://bucket/a"]
        for number, folder in enumerate(folders):
            backend.upsert(entries(rng, 2, 10 * number, folder))
        for folder in folders:
            assert {n.rpartition("/")[0] for n in backend.names(folder)} == {folder}
            assert len(list(backend.names(folder))) == 2
            assert sorted(backend.exact(np.ones((1, DIM), np.float32), 9, folder)[0].names) == list(
                backend.names(folder)
            )
        backend.close()

    def test_names_of_every_length_and_letter(self, address):
        """PostgreSQL once refused long ones for their index, Milvus could not be asked for control characters."""
        gallery = ServedGallery.create(address, fake_model())
        rng = np.random.default_rng(6)
        random = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz0123456789"), 3000))  # does not compress
        letters = "".join(map(chr, rng.integers(0x4E00, 0x9FFF, 900)))
        folders = [
            f"/{random}",
            f"/{random}x",
            f"/{random[:-1]}",
            f"/{letters}",
            "/\x01\x1f\x7f",
            "/\U0001f600",
            "/\u202e\ufeff",
        ]
        for number, folder in enumerate(folders):
            gallery.backend.upsert(entries(rng, 3, 10 * number, folder))
        everything = list(gallery.backend.names())
        assert everything == sorted(everything, key=str.encode)
        assert len(everything) == 3 * len(folders)
        for folder in folders:
            below = [name for name in everything if name.startswith(f"{folder}/")]
            assert list(gallery.backend.names(folder)) == below
            assert len(below) == 3
            assert list(gallery.backend.names(below[1])) == [below[1]]
            found = gallery.search(np.ones((1, DIM), np.float32), 9, under=folder)[0]
            assert sorted(m.path for m in found) == sorted(map(show_path, below))
        gallery.close()

    def test_under_a_name_in_another_form(self, address, tmp_path):
        """Composed and decomposed accents mean the same, as in a folder's gallery; what is not UTF-8 is kept by its URI."""
        gallery = ServedGallery.create(address, fake_model())
        rng = np.random.default_rng(7)
        for number, folder in enumerate(["/caf\u00e9", "/cafe\u0301", "/u\u0308ber", "file:///%FF"]):
            gallery.backend.upsert(entries(rng, 2, 10 * number, folder))
        query = np.ones((1, DIM), np.float32)
        for asked, meant in [
            ("/caf\u00e9", "/caf\u00e9"),
            ("/cafe\u0301", "/cafe\u0301"),
            ("/\u00fcber", "/u\u0308ber"),
            ("/\udcff", "file:///%FF"),
        ]:
            assert {m.path.rpartition("/")[0] for m in gallery.search(query, 9, under=asked)[0]} == {meant}
        with pytest.raises(UsageError, match="null"):
            gallery.search(query, 9, under="/a\0b")
        gallery.close()

    def test_a_name_that_an_engine_cannot_take_is_left_out(self, address, album, monkeypatch):
        told = []
        with ServedGallery.create(address, fake_model(), say=told.append) as gallery:
            names = sorted(p.name for p in (album / "photos").rglob("*.png"))
            limit = len(f"{album}/photos/album07b/{max(names, key=len)}".encode()) - 1
            monkeypatch.setattr(gallery.backend, "longest_name", limit, raising=False)
            report = gallery.merge(read_manifest(album / "parts"))
            assert report.unreadable == 1 + len(told)
            assert report.added == len(gallery) == len(names) - report.unreadable
            assert told
            assert "longer than" in told[0]

    def test_folders_fill_it_as_parts_do(self, address, album, tmp_path):
        """Vectors bit for bit those of parts; what changed is described again, alone; an empty folder loses nothing."""
        with ServedGallery.create(address.replace("/test", "/parts"), fake_model()) as by_parts:
            by_parts.merge(read_manifest(album / "parts"))
            expected = vectors_of(by_parts)
        photos = tmp_path / "photos"
        with ServedGallery.create(address, fake_model()) as gallery:
            report = index_folders(gallery, [str(album / "photos")])
            assert (report.added, list(report.troubles)) == (len(expected), [str(album / "photos" / "bad.png")])
            found = vectors_of(gallery)
            assert found.keys() == expected.keys()
            assert all(np.array_equal(found[name], expected[name]) for name in found)
            assert index_folders(gallery).unchanged == len(expected)

            paths = write_pictures(photos, 4, seed=8)
            os.rename(paths[3], os.path.join(os.fsencode(photos), b"\xff.png"))
            for path in os.scandir(os.fsencode(photos)):
                os.utime(path, ns=(10**18, 10**18))
            assert index_folders(gallery, [str(photos)]).added == 4
            write_pictures(photos, 1, seed=9)  # the first one anew
            os.utime(photos / "0000.png", ns=(1, 1))
            paths[1].unlink()
            report = index_folders(gallery, [str(photos)])
            assert (report.added, report.changed, report.removed, report.unchanged) == (0, 1, 1, 2)
            assert len(gallery) == len(expected) + 3
            photos.rename(tmp_path / "unmounted")
            photos.mkdir()
            report = index_folders(gallery, [str(photos)])
            assert (report.removed, len(report.warnings)) == (0, 1)
            photos.rmdir()
            with pytest.raises(UsageError, match="is no folder"):
                index_folders(gallery)
            assert len(gallery) == len(expected) + 3

    def test_a_picture_without_suffix_that_cannot_be_opened_now_stays(self, address, tmp_path, monkeypatch):
        def failing(path):
            raise ImageError("Input/output error", transient=True)

        first, _ = write_pictures(tmp_path / "photos", 2)
        first.rename(tmp_path / "photos" / "scan1")
        with ServedGallery.create(address, fake_model()) as gallery:
            assert index_folders(gallery, [str(tmp_path / "photos")]).added == 2
            with monkeypatch.context() as patched:
                patched.setattr(scan, "begins_as_picture", failing)
                report = index_folders(gallery)
            assert (report.removed, report.unchanged, report.warnings) == (0, 1, [])
            assert index_folders(gallery).unchanged == 2
            (tmp_path / "photos" / "scan1").unlink()
            assert index_folders(gallery).removed == 1

    def test_more_ties_than_candidates(self, address):
        """Of many copies of one picture the first by name are answered."""
        gallery = ServedGallery.create(address, fake_model())
        vector = np.random.default_rng(5).normal(size=DIM).astype(np.float32)
        copies = [Entry(f"/c/{i:03d}", "0" * 56, 1, 2, None, None, vector) for i in range(150)]
        gallery.backend.upsert(copies[::-1])
        found = gallery.search(vector[None], 3)[0]
        assert [m.path for m in found] == ["/c/000", "/c/001", "/c/002"]
        gallery.close()

    def test_nothing_acknowledged_is_lost(self, servers, tmp_path, monkeypatch, request):
        """The server is killed in the middle of an upsert and started again. Milvus is one of its own: gRPC waits longer each
        time before it tries an address again that did not answer, for all connections of a process."""
        monkeypatch.setattr("retrieval.backends.lasting._WAITS", (0.0, 0.25))  # it comes back after the upsert failed
        for kind in ("postgres", "milvus"):
            server = servers(kind) if kind == "postgres" else Milvus(tmp_path)
            if kind == "milvus":
                request.addfinalizer(server.stop)
            address = server.address(f"test{next(_number)}")
            backend = connect(address, description())
            rng = np.random.default_rng(6)
            acknowledged, begun = [], threading.Event()

            def write(backend=backend, acknowledged=acknowledged, begun=begun, rng=rng):
                for batch in range(10_000):
                    some = entries(rng, 50, 50 * batch)
                    try:
                        backend.upsert(some)
                    except GalleryError:
                        return
                    acknowledged.extend(some)
                    if batch == 5:
                        begun.set()

            writer = threading.Thread(target=write)
            writer.start()
            assert begun.wait(60), kind
            server.kill()
            writer.join(60)
            assert not writer.is_alive(), kind
            server.start()
            backend.close()
            again = connected_soon(address)
            assert set(again.seen([e.name for e in acknowledged])) == {e.name for e in acknowledged}, kind
            assert again.count() - len(acknowledged) in range(51), kind
            again.close()

    def test_an_index_with_measured_recall(self, servers):
        """Above ten thousand pictures PostgreSQL searches an HNSW graph, and a folder of one in a hundred misses none."""
        pytest.importorskip("psycopg")
        address = servers("postgres").address("big")
        gallery = ServedGallery.create(address, fake_model())
        rng = np.random.default_rng(7)
        kept = []
        for batch in range(11):
            folder = "/rare" if batch == 10 else "/many"
            kept += entries(rng, 100 if batch == 10 else 1000, 1000 * batch, folder)
        for begin in range(0, len(kept), 1000):
            gallery.backend.upsert(kept[begin : begin + 1000])
        gallery.backend.settle()
        recall, effort = gallery.tune()
        assert recall >= 0.98
        assert gallery.backend.description["effort"] == effort
        names, vectors = [e.name for e in kept], np.stack([e.vector for e in kept])
        queries = rng.normal(size=(20, DIM)).astype(np.float32)
        hits = 0
        for query, found in zip(queries, gallery.search(queries, 10), strict=True):
            hits += len({m.path for m in found} & {n for n, _ in brute_force(names, vectors, query, 10)})
        assert hits >= 0.95 * 200
        rare = [i for i, n in enumerate(names) if n.startswith("/rare/")]
        for query, found in zip(queries, gallery.search(queries, 10, under="/rare"), strict=True):
            same(found, brute_force([names[i] for i in rare], vectors[rare], query, 10))
        gallery.close()


class TestCommands:
    def run(self, *arguments):
        result = CliRunner().invoke(cli, [str(a) for a in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout

    def test_index_query_info_remove(self, address, tmp_path):
        photos = write_pictures(tmp_path / "photos", 5)
        model = ("--model", "tiny-gem@random:0", "--size", "32", "--engine", "torch", "-q")
        self.run("describe", tmp_path / "photos", "--out", tmp_path / "parts", *model)
        index = ("--index", address)
        assert "5 added" in self.run("index", tmp_path / "parts", *index, "-q")
        out = self.run("query", photos[2], *index, "--engine", "torch", "--format", "json", "-k", 2)
        answer = json.loads(out)
        assert answer["results"][0]["path"] == str(photos[2])
        assert answer["index"] == shown(address)
        told = json.loads(self.run("info", *index, "--format", "json"))
        assert (told["images"], told["roots"]) == (5, [str(tmp_path / "photos")])
        assert "pictures  5" in self.run("info", *index)
        assert "1 picture taken out" in self.run("remove", photos[2], *index)
        assert json.loads(self.run("info", *index, "--format", "json"))["images"] == 4
        for option in (("--rank", "fused"), ("--min-probability", "0.5"), ("--rank", "local", "--fold")):
            with pytest.raises(UsageError, match="served gallery, which keeps no local codes"):
                self.run("query", photos[1], *option, *index)
        with pytest.raises(UsageError, match="--require-match needs verdicts"):
            self.run("query", photos[1], "--require-match", *index)
        with pytest.raises(UsageError, match="served gallery"):
            self.run("export", tmp_path / "a.npy", *index)
        photos[3].unlink()
        (tmp_path / "photos" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
        out = self.run("index", tmp_path / "photos", *index, "-q")
        assert out.startswith("4 pictures in")  # what was taken out comes back, what vanished goes
        assert "1 added, 1 removed, 3 unchanged" in out
        assert f"could not be read: {tmp_path}/photos/bad.png: " in out
        assert "4 unchanged" in self.run("index", *index, "-q")
        with pytest.raises(UsageError, match="--exclude is for galleries in a folder"):
            self.run("index", *index, "--exclude", "x")
        with pytest.raises(GalleryMismatch):
            self.run("index", *index, "--size", "64")

    def test_a_folder_fills_a_new_gallery(self, address, tmp_path):
        photos = write_pictures(tmp_path / "photos", 3)
        model = ("--model", "tiny-gem@random:0", "--size", "32", "--engine", "torch", "-q")
        with pytest.raises(UsageError, match="no folder was named"):
            self.run("index", "--index", address, *model)
        assert "3 added" in self.run("index", tmp_path / "photos", "--index", address, *model)
        out = self.run("query", photos[1], "--index", address, "--engine", "torch", "--format", "paths", "-k", 1)
        assert out == f"{photos[1]}\n"

    def test_what_is_not_there(self, address, servers):
        with pytest.raises(GalleryError, match="there is no gallery"):
            connect(address)
        for wrong in (address.replace("/test", "/test-x"), address.replace("/test", "/Test")):
            with pytest.raises(UsageError, match="names no gallery"):
                connect(wrong)

    def test_a_password_is_never_shown(self, monkeypatch):
        for secret in (
            "postgresql://me:hush%21@127.0.0.1:9/db/photos?connect_timeout=2",
            "postgresql://me@127.0.0.1:9/db/photos?password=hush%21&connect_timeout=2",
        ):
            assert "hush" not in shown(secret)
            pytest.importorskip("psycopg")
            with pytest.raises(GalleryError) as caught:
                connect(secret)
            assert "hush" not in str(caught.value)
        monkeypatch.setenv("PGPASSWORD", "hush!")
        with pytest.raises(GalleryError) as caught:
            connect("postgresql://me@127.0.0.1:9/db/photos?connect_timeout=2")
        assert "hush" not in str(caught.value)

    @pytest.mark.parametrize(
        ("address", "module", "extra"),
        [
            ("postgresql://h/db/photos", "psycopg", "pgvector"),
            ("postgresql://h/db/photos", "pgvector.psycopg", "pgvector"),
            ("milvus://h:1/photos", "pymilvus", "milvus"),
        ],
    )
    def test_without_the_extras(self, monkeypatch, address, module, extra):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UsageError, match=rf"retrieval\[{extra}\]"):
            connect(address, description())


def test_a_server_that_restarts(servers, monkeypatch):
    """A gallery that is open goes on: reads and writes are done again, a listing goes on where it was; at last it is told."""
    server = servers("postgres")
    address = server.address(f"test{next(_number)}")
    try:
        gallery = ServedGallery.create(address, fake_model())
        some = entries(np.random.default_rng(1), 30)
        gallery.backend.upsert(some)
        query = np.ones((1, DIM), np.float32)
        before = gallery.search(query, 5)
        asked = {
            "search": lambda: gallery.search(query, 5) == before,
            "names": lambda: list(gallery.backend.names()) == [e.name for e in some],
            "upsert": lambda: gallery.backend.upsert(some[:3]) is None and len(gallery) == 30,
            "under": lambda: len(gallery.search(query, 40, under="/many")[0]) == 30,
            "describe": lambda: gallery.backend.describe({"effort": 256}) is None,
        }
        for name, ask in asked.items():
            server.kill()
            starter = threading.Timer(0.3, server.start)  # while it is asked
            starter.start()
            try:
                assert ask() is not False, name
            finally:
                starter.join()
        assert connect(address).description["effort"] == 256
        server.kill()
        monkeypatch.setattr("retrieval.backends.lasting._WAITS", (0.0, 0.25, 0.5))  # it does not come back
        with pytest.raises(GalleryError) as caught:
            gallery.search(query, 5)
        assert "\n" not in str(caught.value)
        server.start()
        gallery.close()
        with pytest.raises(GalleryError):  # what was closed stays closed
            gallery.search(query, 5)
    finally:
        server.start()


def test_a_listing_of_many_blocks(servers, monkeypatch):
    """Names that share a beginning longer than the index holds come once each, in order."""
    import retrieval.backends.postgres as postgres

    monkeypatch.setattr(postgres, "_NAMES", 7)
    backend = connect(servers("postgres").address(f"test{next(_number)}"), description())
    rng = np.random.default_rng(8)
    for number, folder in enumerate(["/b", "/" + "a" * 700, "/" + "a" * 700 + "/c", "/ä"]):
        backend.upsert(entries(rng, 20, 100 * number, folder))
    found = list(backend.names())
    assert found == sorted(set(found), key=str.encode)
    assert len(found) == 80
    assert len(list(backend.names("/" + "a" * 700))) == 40
    backend.close()

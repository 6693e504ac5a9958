"""Parts in object stores: ``memory://``, and one that fails half-way through what is written."""

from __future__ import annotations

import json
import os
import sys
import threading

import numpy as np
import pytest
from click.testing import CliRunner
from fakes import FakeEngine, fake_gallery, fake_model, write_pictures
from tiny import MODEL

from retrieval import load_model
from retrieval.cli.main import cli
from retrieval.errors import GalleryDamaged, GalleryError, UsageError
from retrieval.gallery.gallery import Gallery
from retrieval.models.checkpoint import save_checkpoint
from retrieval.models.loading import build_network
from retrieval.parts import places
from retrieval.parts.manifest import is_parts, read_manifest
from retrieval.parts.merge import merge_parts
from retrieval.parts.part import read_part
from retrieval.parts.places import file_system
from retrieval.parts.run import describe_parts, status_of
from retrieval.parts.shelves import shelf_at

fsspec = pytest.importorskip("fsspec")
from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402


class Flaky(MemoryFileSystem):
    """``fail``: how often writing of a name stops half-way from now on; ``wrote``: names in the order they were written."""

    protocol = "flaky"
    store, pseudo_dirs = {}, [""]
    fail, wrote, unreadable = {}, [], set()

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        name = path.rpartition("/")[2]
        if self.fail.get(name, 0) > 0 and not (mode == "create" and self.exists(path)):
            self.fail[name] -= 1
            super().pipe_file(path, value[: len(value) // 2], **kwargs)
            raise ConnectionError("the line went dead")
        super().pipe_file(path, value, mode=mode, **kwargs)
        self.wrote.append(name)

    def cat_file(self, path, *arguments, **named):
        if path.rpartition("/")[2] in self.unreadable:
            raise TimeoutError("too slow")
        return super().cat_file(path, *arguments, **named)


@pytest.fixture(autouse=True)
def _stores(monkeypatch):
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr(places, "_WAIT_SECONDS", 0.001)
    for system in (MemoryFileSystem, Flaky):
        system.store.clear()
    Flaky.fail, Flaky.wrote, Flaky.unreadable = {}, [], set()


@pytest.fixture
def photos(tmp_path):
    for path in write_pictures(tmp_path / "photos", 12):
        os.utime(path, ns=(10**18, 10**18))  # of a file that is too young no time is kept
    return tmp_path / "photos"


def rows_of(place):
    manifest = read_manifest(place)
    parts = [read_part(manifest, shard) for shard in range(len(manifest.shards))]
    return [row for part in parts for row in part.rows], np.concatenate([part.vectors for part in parts])


@pytest.mark.parametrize("place", ["memory://bucket/parts", "memory://bucket/deep/er/parts/", "flaky://parts"])
def test_a_store_holds_what_a_folder_would(tmp_path, photos, place):
    engine = FakeEngine()
    assert describe_parts(str(photos), place, fake_model(engine), shard_size=5).described == 3
    describe_parts(str(photos), tmp_path / "parts", fake_model(), shard_size=5)
    rows, vectors = rows_of(place)
    expected, own = rows_of(tmp_path / "parts")
    assert rows == expected
    assert np.array_equal(vectors, own)
    seen = engine.described
    assert describe_parts(str(photos), place, fake_model(engine), shard_size=5).described == 0
    assert engine.described == seen
    with fake_gallery(tmp_path / "a") as a, fake_gallery(tmp_path / "b") as b:
        merge_parts(a, read_manifest(place))
        merge_parts(b, read_manifest(tmp_path / "parts"))
        assert list(a) == list(b)
        assert np.array_equal(a.vectors(), b.vectors())


def test_the_manifest_comes_first(photos):
    describe_parts(str(photos), "flaky://parts", fake_model(), shard_size=5)
    assert Flaky.wrote == ["manifest.json", *(f"part-{i:05d}.parquet" for i in range(3))]


def test_a_store_that_stops_half_way_is_tried_again(photos):
    """A part and the manifest: in the end all is whole, and nothing was described twice."""
    Flaky.fail = {"manifest.json": 2, "part-00001.parquet": 2}
    engine = FakeEngine()
    assert describe_parts(str(photos), "flaky://parts", fake_model(engine), shard_size=5).failed == {}
    assert engine.described == 12
    assert status_of(read_manifest("flaky://parts")).pictures == 12


def test_a_store_that_stays_away(photos):
    """What is half there is called bad, and made anew by the next run; the others are kept."""
    Flaky.fail = {"part-00001.parquet": 3}
    engine = FakeEngine()
    report = describe_parts(str(photos), "flaky://parts", fake_model(engine), shard_size=5)
    assert (report.described, list(report.failed)) == (2, [1])
    assert "the line went dead" in report.failed[1]
    manifest = read_manifest("flaky://parts")
    assert (list(status_of(manifest).done), list(status_of(manifest).bad)) == ([0, 2], [1])
    with pytest.raises(GalleryDamaged, match=r"flaky://parts/part-00001.parquet is no part"):
        read_part(manifest, 1)
    before = engine.described
    assert describe_parts(str(photos), "flaky://parts", fake_model(engine), shard_size=5).described == 1
    assert engine.described - before == len(manifest.shards[1])
    assert status_of(manifest).pictures == 12
    Flaky.unreadable = {"part-00002.parquet"}
    with pytest.raises(GalleryError, match=r"flaky://parts fails \(too slow"):  # not bad: nobody knows
        status_of(manifest)


def test_a_manifest_that_stays_half_written(photos):
    Flaky.fail = {"manifest.json": 3}
    with pytest.raises(GalleryError, match="the line went dead"):
        describe_parts(str(photos), "flaky://parts", fake_model(), shard_size=5)
    with pytest.raises(GalleryDamaged, match=r"flaky://parts/manifest.json is damaged"):
        read_manifest("flaky://parts")


def test_writers_that_begin_together_agree():
    shelf = shelf_at("memory://agree")
    start = threading.Barrier(8)

    def write(number):
        start.wait()
        shelf_at("memory://agree").keep_once("manifest.json", f"I am {number}")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = shelf.read("manifest.json")
    assert found.startswith(b"I am ")
    shelf.keep_once("manifest.json", "I am late")
    assert shelf.read("manifest.json") == found


def test_what_else_lies_there(photos):
    fsspec.filesystem("memory").pipe_file("/bucket/other.txt", b"x")
    with pytest.raises(GalleryError, match="memory://bucket is not empty and holds no parts"):
        describe_parts(str(photos), "memory://bucket", fake_model())
    with pytest.raises(GalleryError, match="there are no parts in memory://nothing"):
        read_manifest("memory://nothing")
    with pytest.raises(UsageError, match="s3fs"):
        is_parts("s3://bucket/parts")


def test_a_checkpoint_lies_beside_the_parts(tmp_path, photos):
    """Whoever takes the parts in has the model from the store alone."""
    spec = load_model(MODEL, size=32, engine="torch").spec
    save_checkpoint(build_network(spec), spec, tmp_path / "checkpoint.safetensors")
    saved = load_model(str(tmp_path / "checkpoint.safetensors"), engine="torch")
    describe_parts(str(photos), "memory://bucket/parts", saved, local=False)
    (tmp_path / "checkpoint.safetensors").unlink()
    manifest = read_manifest("memory://bucket/parts")
    with Gallery.create(tmp_path / "gallery", manifest.model("torch")) as gallery:
        merge_parts(gallery, manifest)
    with Gallery.open(tmp_path / "gallery", engine="torch") as gallery:
        assert gallery.query(photos / "0003.png", k=1).matches[0].path == str(photos / "0003.png")


def test_commands(tmp_path, photos):
    def run(*arguments):
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.stdout

    model = ("--model", MODEL, "--size", "32", "--engine", "torch", "-q", "--shard-size", 5)
    assert "2 of 2 shards described" in run("describe", photos, "--out", "memory://b/parts", "--shard", "1/2", *model)
    told = json.loads(run("index", "--status", "memory://b/parts", "--format", "json"))
    assert (told["done"], told["shards"], told["missing"]) == (2, 4, [1, 3])
    run("describe", photos, "--out", "memory://b/parts", *model)
    assert "4 of 4 shards done (12 pictures" in run("index", "--status", "memory://b/parts")
    out = run("index", "memory://b/parts", "--index", tmp_path / "gallery", "--engine", "torch", "-q")
    assert out.startswith("12 pictures in")


def test_a_file_uri_is_a_folder(tmp_path):
    """It is made, as any other folder for parts is."""
    write_pictures(tmp_path / "photos", 3, seed=1)
    place = f"file://{tmp_path}/new/parts"
    describe_parts(str(tmp_path / "photos"), place, fake_model(), workers=2)
    assert (tmp_path / "new" / "parts" / "manifest.json").is_file()
    assert status_of(read_manifest(place)) == status_of(read_manifest(tmp_path / "new" / "parts"))
    with fake_gallery(tmp_path / "g") as gallery:
        assert merge_parts(gallery, read_manifest(place)).added == 3


def test_a_place_that_ends_with_the_command_is_told(tmp_path):
    told = CliRunner().invoke(cli, ["describe", str(tmp_path), "--out", "memory://parts", "--model", MODEL]).stderr
    assert "memory://parts is gone when this command ends" in told


def test_a_store_whose_driver_is_not_installed_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UsageError, match="pip install s3fs"):
        file_system("s3://bucket/photos")
    with pytest.raises(UsageError, match=r"nosuch://x/y cannot be opened"):
        file_system("nosuch://x/y")


def test_names_of_a_store_may_hold_what_ends_a_web_address(tmp_path):
    """In a web address ? and # end the path; in a store they are letters like others."""
    odd = tmp_path / "what? #1 50%20"
    written = write_pictures(odd, 3, seed=2)
    written[0].rename(odd / "a?b#c.png")
    describe_parts(f"file://{odd}", tmp_path / "parts", fake_model(), workers=2)
    assert status_of(read_manifest(tmp_path / "parts")).done == {0: (3, 0)}

"""A query that is begun while the program is still being imported answers what it answers otherwise, failures included."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
from evaluation_set import use_fake_engine
from fakes import FakeEngine, fake_gallery
from PIL import Image
from textures import texture, turned, write_textures
from tiny import MODEL

from retrieval.describe.begun import Begun
from retrieval.describe.model import Model, load_model
from retrieval.engines import choose
from retrieval.engines.openvino.engine import OpenvinoEngine
from retrieval.errors import GalleryDamaged, GalleryError, ImageError, ModelError
from retrieval.gallery.ahead import open_ahead
from retrieval.gallery.answers import QueryResult
from retrieval.gallery.gallery import Gallery
from retrieval.messages import say_nothing
from retrieval.system.ending import must_wait


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the gallery ``g`` of six textures and the query known.png."""
    use_fake_engine(monkeypatch)
    write_textures(tmp_path / "album", 6)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index([tmp_path / "album"])
    Image.fromarray(turned(texture(2, (240, 180), 60))).save(tmp_path / "known.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return tmp_path


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Which pictures are decoded for the network; local features want them larger."""
    seen: list[str] = []
    load = Model.load

    def counted(self: Model, image: object, bbox: object = None) -> np.ndarray:
        if self.spec.image.size == 64:
            seen.append(str(image))
        return load(self, image, bbox)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "load", counted)
    return seen


@pytest.mark.parametrize("bbox", [None, (20.0, 10.0, 200.0, 170.0)])
@pytest.mark.parametrize("rank", ["fused", "cosine", "local"])
def test_the_answers_are_those_of_a_gallery_opened_as_usual(
    bbox: tuple[float, ...] | None, rank: str, album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = str(album / "known.png")
    with Gallery.open(album / "g") as gallery:
        usual = gallery.query(query, 4, bbox, rank=rank)
    seen = counting(monkeypatch)
    with open_ahead(album / "g", query, bbox, warn=say_nothing) as gallery:
        begun = gallery.query(query, 4, bbox, rank=rank)
        assert seen == [query]  # once
        assert gallery.query(query, 4, bbox, rank=rank) == usual  # in the usual way
        assert seen == [query, query]
    assert begun == usual


def test_several_pictures_come_in_order_and_the_first_is_described_once(
    album: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [str(album / "known.png"), str(album / "broken.jpg"), str(album / "album" / "0004.png")]
    with Gallery.open(album / "g") as gallery:
        usual = list(gallery.answers(queries, 3))
    seen = counting(monkeypatch)
    with open_ahead(album / "g", queries[0], warn=say_nothing) as gallery:
        found = list(gallery.answers(queries, 3))
    assert sorted(seen) == sorted(queries)
    assert [told(result) for result in found] == [told(result) for result in usual]


def told(result: QueryResult) -> object:
    return result.query, result.matches, str(result.error)


def test_what_is_begun_is_forgotten_where_something_else_is_asked(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = str(album / "album" / "0004.png")
    seen = counting(monkeypatch)
    with open_ahead(album / "g", str(album / "known.png"), warn=say_nothing) as gallery:
        assert gallery.query(other).matches[0].path.endswith("0004.png")
        assert other in seen


def test_two_who_ask_one_gallery_keep_what_each_has_begun(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the visitors of a server do, at the same moment."""
    queries = [str(album / "known.png"), str(album / "album" / "0004.png")]
    with Gallery.open(album / "g") as gallery:
        usual = gallery.query(queries)
        begun = [Begun(gallery.model, query) for query in queries]
        asked = [gallery.answers([query], begun=early) for query, early in zip(queries, begun, strict=True)]
        assert all(early.descriptor() is not None for early in begun)
        seen = counting(monkeypatch)
        found = [next(answers) for answers in reversed(asked)]
    assert found[::-1] == usual
    assert not seen  # none is described once more


def test_a_picture_that_cannot_be_read_is_told_and_read_once(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = str(album / "broken.jpg")
    with Gallery.open(album / "g") as gallery, pytest.raises(ImageError) as usual:
        gallery.query(broken)
    seen = counting(monkeypatch)
    with open_ahead(album / "g", broken, warn=say_nothing) as gallery, pytest.raises(ImageError) as begun:
        gallery.query(broken)
    assert str(begun.value) == str(usual.value)
    assert seen == [broken]


class Blind(FakeEngine):
    def describe(self, images: np.ndarray) -> np.ndarray:
        return np.full((len(images), self.dim), np.nan, np.float32)


def test_a_descriptor_that_is_none_is_told(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Model, "_built", lambda _: Blind())
    query = str(album / "known.png")
    with open_ahead(album / "g", query, warn=say_nothing) as gallery, pytest.raises(ImageError, match="finite"):
        gallery.query(query)


def test_an_engine_that_cannot_be_had_is_told(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def none(_: Model) -> object:
        tries.append(1)
        raise ModelError("the weights are gone")

    monkeypatch.setattr(Model, "_built", none)
    query = str(album / "known.png")
    with open_ahead(album / "g", query, warn=say_nothing) as gallery, pytest.raises(ModelError, match="are gone"):
        gallery.query(query)
    assert len(tries) == 1


def test_what_is_wrong_with_the_gallery_is_told_as_ever(album: Path) -> None:
    with pytest.raises(GalleryError, match="no gallery"):
        open_ahead(album / "nowhere", str(album / "known.png"), warn=say_nothing)
    (album / "g" / "gallery.json").write_text("{")
    with pytest.raises(GalleryDamaged):
        open_ahead(album / "g", str(album / "known.png"), warn=say_nothing)


def test_the_end_does_not_wait_for_what_was_begun(album: Path) -> None:
    """Preparing a network takes half a minute, and fetching one longer: not after a usage error or Ctrl-C."""
    code = """
import sys, time
from retrieval.cli.main import run
from retrieval.describe.model import Model
Model._built = lambda _: time.sleep(100)
sys.argv[0] = "retrieve"
run()
"""
    arguments = ["query", "--index", str(album / "g"), str(album / "known.png"), "--sheet", "sheet.txt"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert ".txt" in done.stderr


def test_other_threads_are_waited_for() -> None:
    go = threading.Event()
    before = must_wait()
    for name, wanted in (("begun_0", before), ("local_0", True)):
        thread = threading.Thread(target=go.wait, name=name)
        thread.start()
        assert must_wait() == wanted
    go.set()
    assert must_wait() == before  # each has its moment to end


def test_threads_turn_as_before_afterwards(album: Path) -> None:
    before = sys.getswitchinterval()
    with open_ahead(album / "g", str(album / "known.png"), warn=say_nothing):
        assert sys.getswitchinterval() == before


def test_numpys_threads_do_not_wait_busily_unless_the_user_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.cli.main import main

    for asked, wanted in ((None, "4"), ("20", "20")):
        monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT", raising=False)
        if asked is not None:
            monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", asked)
        monkeypatch.setattr(sys, "argv", ["retrieve", "--version"])
        with pytest.raises(SystemExit):
            main()
        assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == wanted


def test_a_request_keeps_the_memory_that_its_network_works_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiled network that was read from the cache does not hold its bytes; who runs it must, also once another has taken its
    place."""
    monkeypatch.setenv("RETRIEVE_CACHE", str(tmp_path))
    spec = load_model(MODEL).spec
    images = np.random.default_rng(0).integers(0, 256, (1, 70, 90, 3), dtype=np.uint8)
    wanted = choose.create_engine(spec, "openvino").describe(images)
    engine = OpenvinoEngine(spec)
    np.testing.assert_array_equal(engine.describe(images), wanted)
    engine.streams = 2  # also on a machine with one core
    memory = weakref.ref(engine._model.memory)
    first = engine._take()
    second = engine._take()  # which has the network compiled for two
    gc.collect()
    assert memory() is not None
    del first
    gc.collect()
    assert memory() is None
    engine._give(*second)
    np.testing.assert_allclose(engine.describe(images), wanted, atol=1e-6)


def test_nothing_is_read_ahead_that_the_search_does_not_look_at(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a large gallery the index is compared with its hash when it is first read, which takes long."""
    query, read = str(album / "known.png"), []
    for part in ("_candidates", "_background"):
        real = getattr(Gallery, part)
        monkeypatch.setattr(
            Gallery, part, lambda self, *a, part=part, real=real: (read.append(part), real(self, *a))[1]
        )
    for options, wanted in (
        ({}, {"_candidates", "_background"}),
        ({"rank": "cosine"}, {"_candidates"}),
        ({"rank": "cosine", "under": album / "album"}, set()),
    ):
        read.clear()
        with open_ahead(album / "g", query, warn=say_nothing) as gallery:
            assert gallery.query(query, **options).matches  # type: ignore[call-overload]
        assert set(read) == wanted

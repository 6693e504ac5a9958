"""The local index of a gallery: what it answers, and that no order, crash or damage changes it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import FakeEngine, fake_gallery, fake_model
from PIL import Image
from textures import texture, turned, write_textures

from retrieval import Gallery, GalleryDamaged, GalleryError, ImageError, UsageError
from retrieval.describe.model import Model
from retrieval.gallery import compaction
from retrieval.gallery.derive import derive_gallery, fit_gallery
from retrieval.gallery.local import collecting, querying, tail
from retrieval.gallery.local import index as local_index
from retrieval.gallery.local.block import is_block
from retrieval.gallery.local.index import LocalIndex
from retrieval.gallery.repair import repair
from retrieval.pictures import imaging
from retrieval.ranking.asmk import similarity, standard_codebook
from retrieval.ranking.geometry import local_features


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks after a few pictures, so that sealing and merging happen."""
    monkeypatch.setattr(local_index, "_SEAL_WITHIN", 4)
    monkeypatch.setattr(local_index, "_SEAL_AFTER", 2)


def answers(gallery: Gallery, query: object, k: int = 50) -> list[tuple[str, float | None, float | None, int | None]]:
    return [(Path(m.path).name, m.local, m.fused, m.inliers) for m in gallery.query(query, k=k).matches]  # type: ignore[call-overload]


def index_of(gallery: Gallery) -> LocalIndex:
    assert gallery.local is not None
    return gallery.local


def parts(gallery: Gallery) -> list[str]:
    folder = index_of(gallery).folder
    return sorted(p.name for p in folder.iterdir() if is_block(p.name) or p.name == tail.NAME)


def test_the_same_thing_is_found_and_said(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 12)
    gallery = fake_gallery(tmp_path / "g")
    report = gallery.index(["album"])
    assert report.local == report.embedded == 12
    view = turned(texture(5, (240, 180), 60))
    result = gallery.query(view, k=3)
    first = result.matches[0]
    assert result.found
    assert (Path(first.path).name, first.verdict) == ("0005.png", "same")
    assert first.inliers is not None
    assert first.inliers >= 8
    assert first.probability is not None
    assert first.probability > 0.98
    assert all(m.verdict != "same" for m in result.matches[1:])
    unknown = gallery.query(texture(77, (240, 180), 60), k=3)
    assert unknown.found is False
    assert all((m.probability or 0) < 0.5 for m in unknown.matches)
    assert gallery.query(texture(77, (240, 180), 60), min_probability=0.5).matches == []


def test_local_scores_are_the_kernel_of_the_pictures(tmp_path: Path) -> None:
    paths = write_textures(tmp_path / "album", 9)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
        query = turned(texture(3))
        found = {Path(m.path).name: m for m in gallery.query(query, k=9).matches}
    codebook = standard_codebook()
    size = 360  # the fake model's own 64 are too few

    def codes(source: object, query: bool = False):  # type: ignore[no-untyped-def]
        load = imaging.picture_from_array if isinstance(source, np.ndarray) else imaging.load_picture
        return codebook.aggregate(local_features(load(source, size=size).array, 400, 640), query=query)

    for path in paths:
        assert found[path.name].local == similarity(codes(query, True), codes(str(path)))


@pytest.mark.usefixtures("small_parts")
def test_order_and_number_of_runs_change_nothing(tmp_path: Path) -> None:
    paths = write_textures(tmp_path / "album", 14)
    queries = [turned(texture(i, (240, 180), 60)) for i in (0, 6, 13)]
    with fake_gallery(tmp_path / "one") as one, fake_gallery(tmp_path / "many") as many:
        one.index(["album"])
        order = np.random.default_rng(1).permutation(14)
        for i in order:
            many.index([paths[i]])
        assert len(parts(many)) < 6
        for query in queries:
            assert sorted(answers(one, query)) == sorted(answers(many, query))
        assert len(index_of(many)) == len(index_of(one)) == 14


@pytest.mark.usefixtures("small_parts")
def test_what_is_gone_never_answers_and_comes_back_without_being_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_textures(tmp_path / "album", 8)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
        before = answers(gallery, texture(2, (240, 180), 60))
        gallery.remove([str(paths[2])])
        assert "0002.png" not in [name for name, *_ in answers(gallery, texture(2, (240, 180), 60))]
        looked: list[object] = []
        monkeypatch.setattr(LocalIndex, "describe", lambda *a, **k: looked.append(a))
        assert gallery.index(["album"], restore=True).local == 0
        assert not looked
        monkeypatch.undo()
        assert answers(gallery, texture(2, (240, 180), 60)) != []
        names = [name for name, *_ in answers(gallery, texture(2, (240, 180), 60))]
        assert names[0] == before[0][0]


def test_copies_share_their_codes_and_renamed_pictures_keep_them(tmp_path: Path) -> None:
    paths = write_textures(tmp_path / "album", 3)
    shutil.copy(paths[0], tmp_path / "album" / "copy.png")
    with fake_gallery(tmp_path / "g") as gallery:
        assert gallery.index(["album"]).local == 3
        paths[1].rename(tmp_path / "album" / "new.png")
        assert gallery.index(["album"]).local == 0
        found = gallery.query(paths[0], k=2).matches
        assert [Path(m.path).name for m in found] == ["0000.png", "copy.png"]
        assert found[0].local == found[1].local
        assert found[0].fused == found[1].fused


def test_a_gallery_of_before_gets_it_at_the_next_run_and_says_so(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 5)
    engine = FakeEngine()
    gallery = fake_gallery(tmp_path / "g", engine)
    gallery.index(["album"])
    expected = answers(gallery, turned(texture(4, (240, 180), 60)))
    description = json.loads((tmp_path / "g" / "gallery.json").read_text())
    del description["check"]
    del description["local"]
    (tmp_path / "g" / "gallery.json").write_text(json.dumps(description))
    shutil.rmtree(tmp_path / "g" / "local")
    said: list[str] = []
    old = Gallery.open(tmp_path / "g", warn=said.append)
    old.model._engine = engine
    assert old.query(turned(texture(4, (240, 180), 60))).matches[0].probability is None
    described = engine.described
    report = old.index()
    assert (report.unchanged, report.local, report.embedded) == (5, 5, 0)
    assert engine.described == described
    assert len([line for line in said if "local index" in line]) == 1
    assert answers(old, turned(texture(4, (240, 180), 60))) == expected
    assert old.index().local == 0


def test_a_gallery_can_do_without(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 4)
    gallery = Gallery.create(tmp_path / "g", fake_model(), local=False)
    assert gallery.index(["album"]).local == 0
    assert not (tmp_path / "g" / "local").exists()
    assert gallery.info().local is None
    match = gallery.query(texture(1, (240, 180), 60)).matches[0]
    assert (match.local, match.fused, match.probability, match.verdict) == (None, None, None, None)
    for wrong in ({"rank": "fused"}, {"rank": "local"}, {"min_probability": 0.5}):
        with pytest.raises(UsageError, match="no local index"):
            gallery.query(texture(1), **wrong)  # type: ignore[call-overload]
    gallery.configure_local(True)
    assert gallery.index().local == 4
    assert gallery.query(texture(1, (240, 180), 60)).found
    gallery.configure_local(False)
    gallery.index()
    assert gallery.query(texture(1, (240, 180), 60)).matches[0].verdict is None
    assert not index_of_folder(tmp_path / "g")


def index_of_folder(folder: Path) -> list[Path]:
    return [p for p in (folder / "local").rglob("*") if p.is_file()] if (folder / "local").exists() else []


def test_what_the_order_follows(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 10)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
        query = turned(texture(6, (240, 180), 60), 60, 0.6)
        for by, value in (("fused", "fused"), ("local", "local"), ("cosine", "score")):
            found = [getattr(m, value) for m in gallery.query(query, k=10, rank=by).matches]
            assert found == sorted(found, reverse=True)
            assert len(found) == 10
        first = [m.path for m in gallery.query(query, k=10).matches]
        for k in (1, 4):
            assert [m.path for m in gallery.query(query, k=k).matches] == first[:k]
        with pytest.raises(UsageError, match="unknown ranking"):
            gallery.query(query, rank="best")
        with pytest.raises(UsageError, match="re-ranker"):
            gallery.query(query, rank="fused", rerank="alpha-qe")


def test_a_box_and_a_folder_count(tmp_path: Path) -> None:
    write_textures(tmp_path / "album" / "a", 4)
    write_textures(tmp_path / "album" / "b", 4, first=4)
    both = np.concatenate([texture(1, (240, 180), 60), texture(6, (240, 180), 60)], axis=1)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
        left = gallery.query(both, k=8, bbox=(0, 0, 240, 180)).matches
        assert (Path(left[0].path).name, left[0].verdict) == ("0001.png", "same")
        assert next(m for m in left if m.path.endswith("0006.png")).verdict != "same"
        inside = gallery.query(both, k=8, under="album/b").matches
        assert {Path(m.path).parent.name for m in inside} == {"b"}
        assert (Path(inside[0].path).name, inside[0].verdict) == ("0006.png", "same")


def test_pictures_under_keys_have_codes_and_vectors_have_none(tmp_path: Path) -> None:
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.add(["a", "b"], image=[texture(1), Image.fromarray(texture(2))])
        gallery.add("c", vector=np.ones(48))
        found = {m.path: m for m in gallery.query(turned(texture(1)), k=3).matches}
        assert found["a"].verdict == "same"
        assert found["b"].local is not None
        assert (found["c"].local, found["c"].inliers) == (None, None)
        assert found["c"].probability is not None
        gallery.add("a", image=texture(9))
        assert next(m for m in gallery.query(turned(texture(1)), k=3).matches if m.path == "a").verdict != "same"


@pytest.mark.parametrize("count", [1, 3, 10])
def test_small_galleries(count: int, tmp_path: Path) -> None:
    write_textures(tmp_path / "album", count)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
        assert gallery.query(turned(texture(0, (240, 180), 60))).matches[0].verdict == "same"
        assert not gallery.query(texture(70, (240, 180), 60)).found


def test_the_very_file_is_the_same_thing_though_nothing_is_on_it(tmp_path: Path) -> None:
    hostile_pictures(tmp_path / "album")
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
        for path in sorted((tmp_path / "album").iterdir()):
            for source in (path, path.read_bytes()):
                first = gallery.query(source).matches[0]
                assert (Path(first.path).name, first.verdict) == (path.name, "same")
                assert first.probability == pytest.approx(1)
        white = tmp_path / "album" / "white.png"
        assert not gallery.query(white, bbox=(0, 0, 300, 200)).found  # a box, even of all of it, is no file
        shutil.copyfile(white, tmp_path / "asks.png")
        assert gallery.query(tmp_path / "asks.png", under="album").matches[0].verdict == "same"


def hostile_pictures(folder: Path) -> None:
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), dtype=np.uint8)
    strip = np.random.default_rng(1).integers(0, 256, (1, 300, 3), dtype=np.uint8)
    for name, pixels in {
        "white": np.full((200, 300, 3), 255, np.uint8),
        "blur": np.broadcast_to(np.linspace(0, 255, 300).astype(np.uint8)[None, :, None], (200, 300, 3)),
        "noise": noise,
        "strip": strip,
        "column": strip.transpose(1, 0, 2),
        "pixel": noise[:1, :1],
    }.items():
        Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{name}.png")


def test_pictures_without_points_and_with_too_many(tmp_path: Path) -> None:
    hostile_pictures(tmp_path / "album")
    write_textures(tmp_path / "album", 3)
    with fake_gallery(tmp_path / "g") as gallery:
        report = gallery.index(["album"])
        assert report.troubles == []
        assert len(index_of(gallery)) == 9
        for path in sorted((tmp_path / "album").iterdir()):
            result = gallery.query(path, k=9)
            assert len(result.matches) == 9
            assert all(np.isfinite(m.fused or 0) for m in result.matches)
        white = gallery.query(tmp_path / "album" / "white.png").matches
        assert {m.local for m in white} == {0.0}
        assert gallery.index().local == 0  # a picture without points is not looked at again


@pytest.mark.parametrize("lost", [1, 40, 3000, 10**9])
def test_a_tail_cut_short_or_overwritten_is_filled_again(lost: int, tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 6)
    gallery = fake_gallery(tmp_path / "g")
    gallery.index(["album"])
    expected = answers(gallery, texture(5, (240, 180), 60))
    file = index_of(gallery).folder / tail.NAME
    whole = file.read_bytes()
    for data in (whole[: max(0, len(whole) - lost)], whole[: len(whole) - min(lost, 100)] + b"\xff" * 500):
        file.write_bytes(data)
        damaged = fake_gallery(tmp_path / "g")
        assert len(damaged.query(texture(5, (240, 180), 60), k=9).matches) == 6
        assert damaged.index().local >= 1
        assert answers(fake_gallery(tmp_path / "g"), texture(5, (240, 180), 60)) == expected


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "lose"])
def test_a_damaged_block_is_named_and_made_again(harm: str, tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 6)
    gallery = fake_gallery(tmp_path / "g")
    gallery.index(["album"])
    expected = answers(gallery, texture(5, (240, 180), 60))
    (block,) = [index_of(gallery).folder / name for name in parts(gallery)]
    whole = block.read_bytes()
    data = bytearray(whole)
    if harm == "lose":
        block.unlink()
    else:
        if harm == "flip":
            data[len(data) // 2] ^= 4
        block.write_bytes(data if harm == "flip" else data[: len(data) // 2] if harm == "cut" else b"")
    # The gallery that is open has the file mapped: it must not touch what is not there any more.
    assert len(gallery.query(texture(5, (240, 180), 60), k=9).matches) == 6
    said: list[str] = []
    damaged = Gallery.open(tmp_path / "g", warn=said.append)
    damaged.model._engine = FakeEngine()
    assert len(damaged.query(texture(5, (240, 180), 60), k=9).matches) == 6
    damaged.query(texture(5, (240, 180), 60))
    assert len([line for line in said if block.name in line]) == (harm != "lose")
    mended = fake_gallery(tmp_path / "g")
    report = mended.index()
    assert (report.local, report.embedded) == (6, 0)
    assert answers(mended, texture(5, (240, 180), 60)) == expected
    assert not block.exists() or block.read_bytes() == whole


def test_another_codebook_is_another_index(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 3)
    gallery = fake_gallery(tmp_path / "g")
    gallery.index(["album"])
    folder = index_of(gallery).folder
    folder.rename(folder.with_name("rootsift1024-0123456789ab"))
    (tmp_path / "g" / "local" / "sift1000-640").mkdir()
    said: list[str] = []
    later = Gallery.open(tmp_path / "g", warn=said.append)
    later.model._engine = FakeEngine()
    assert later.query(texture(1, (240, 180), 60)).matches[0].probability is None
    assert later.index().local == 3
    assert any("another codebook" in line for line in said)
    assert sorted(p.name for p in (tmp_path / "g" / "local").iterdir()) == [
        folder.name
    ]  # nor what no version makes any more
    assert later.query(texture(1, (240, 180), 60)).found
    assert not any("a program added" in line for line in said)


def test_pictures_from_memory_that_lose_their_codes_are_told_of_at_every_run(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 1)
    gallery = fake_gallery(tmp_path / "g")
    gallery.index(["album"])
    gallery.add(["a", "b"], image=[np.asarray(texture(i, (240, 180), 60)) for i in range(2)])
    gallery.add(["c"], vector=np.ones((1, gallery.spec.dim), np.float32))
    folder = index_of(gallery).folder
    folder.rename(folder.with_name("rootsift1024-0123456789ab"))
    for _ in range(2):
        said: list[str] = []
        later = Gallery.open(tmp_path / "g", warn=said.append)
        later.model._engine = FakeEngine()
        later.index()
        assert ["2 pictures that a program added have no codes" in line for line in said].count(True) == 1
    later.add(["a", "b"], image=[np.asarray(texture(i, (240, 180), 60)) for i in range(2)])
    said.clear()
    later.index()
    assert not any("have no codes" in line for line in said)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("step", ["whole_file", "unlink", "append"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_stopped_at_any_step_nothing_is_lost(
    step: str, call: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill would: the run ends there and nothing is tidied up."""
    write_textures(tmp_path / "album", 11)
    whole = fake_gallery(tmp_path / "whole")
    whole.index(["album"])
    expected = answers(whole, texture(5, (240, 180), 60))
    calls = 0

    class Killed(BaseException):
        pass

    def stop_at(original):  # type: ignore[no-untyped-def]
        def stopped(*arguments, **options):  # type: ignore[no-untyped-def]
            nonlocal calls
            calls += 1
            if calls == call:
                raise Killed
            return original(*arguments, **options)

        return stopped

    if step == "whole_file":
        monkeypatch.setattr(local_index, "write_block", stop_at(local_index.write_block))
    elif step == "unlink":
        monkeypatch.setattr(local_index, "remove_block", stop_at(local_index.remove_block))
    else:
        monkeypatch.setattr(tail, "append", stop_at(tail.append))
    gallery = fake_gallery(tmp_path / "g")
    try:
        for i in range(0, 11, 3):
            gallery.index([tmp_path / "album" / f"{j:04d}.png" for j in range(i, min(i + 3, 11))])
        gallery.index(["album"])
    except Killed:
        pass
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    later = fake_gallery(tmp_path / "g")
    for match in later.query(texture(5, (240, 180), 60), k=50).matches:
        assert np.isfinite(match.score)
    later.index(["album"])
    assert sorted(answers(later, texture(5, (240, 180), 60))) == sorted(expected)
    assert len(index_of(later)) == 11


@pytest.mark.usefixtures("small_parts")
def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    paths = write_textures(tmp_path / "album", 12)
    writer = fake_gallery(tmp_path / "g")
    writer.index(paths[:2])
    reader = fake_gallery(tmp_path / "g")
    for i in range(2, 12):
        writer.index([paths[i]])
        match = reader.query(texture(i, (240, 180), 60)).matches[0]
        assert (Path(match.path).name, match.verdict) == (paths[i].name, "same")


def test_info_tells_of_it(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 4)
    with fake_gallery(tmp_path / "g") as gallery:
        assert gallery.info().local is not None
        gallery.index(["album"])
        local = gallery.info().local
        assert local is not None
        assert (local.codebook, local.pictures) == (standard_codebook().name, 4)
        assert 0 < local.bytes == sum(os.path.getsize(index_of(gallery).folder / name) for name in parts(gallery))
        assert local.bytes < 4 * 6000 + 20_000


def test_runs_at_a_time_leave_opencv_its_threads() -> None:
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        one, two = collecting.cores_shared(), collecting.cores_shared()
        one.__enter__()
        two.__enter__()
        one.__exit__(None, None, None)
        assert cv2.getNumThreads() == 1
        two.__exit__(None, None, None)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_does_not_wait_for_threads_of_its_parent() -> None:
    import cv2

    noise = np.random.default_rng(0).random((600, 600), np.float32)
    cv2.warpAffine(noise, np.eye(2, 3), (600, 600))  # by several threads, which the child has not
    child = os.fork()
    if not child:
        with collecting.cores_shared():
            os._exit(0)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)


def test_threads_are_as_before_after_a_run_and_after_adding(tmp_path: Path) -> None:
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        with fake_gallery(tmp_path / "g") as gallery:
            gallery.add("a", image=texture(1))
            assert cv2.getNumThreads() == 3
            write_textures(tmp_path / "album", 2)
            gallery.index(["album"])
            assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


def test_a_picture_from_memory_has_the_codes_of_its_file(tmp_path: Path) -> None:
    """The network's own picture (64 px here) has hardly a point."""
    (path,) = write_textures(tmp_path / "album", 1, size=(480, 360))
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.add(["file", "pixels", "pil"], image=[path, np.asarray(Image.open(path)), Image.open(path)])
        found = {m.path: m.local for m in gallery.query(turned(texture(0, (480, 360), 60)), k=3).matches}
    assert found["file"] == found["pixels"] == found["pil"]
    assert (found["file"] or 0) > 0.05


def test_a_run_looks_at_the_files_of_the_index_a_few_times_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not once a picture."""
    counts = []
    now = LocalIndex._now

    def counted(self: LocalIndex) -> object:
        counts[-1] += 1
        return now(self)

    monkeypatch.setattr(LocalIndex, "_now", counted)
    with fake_gallery(tmp_path / "g") as gallery:
        for count in (3, 30):
            write_textures(tmp_path / "album", count)
            for _ in range(2):
                counts.append(0)
                gallery.index(["album"])
    assert max(counts) < 15


def test_a_tail_ends_with_its_last_record(tmp_path: Path) -> None:
    codes = standard_codebook().aggregate(local_features(texture(1), 500, 400))
    path = tmp_path / "tail"
    assert tail.append(path, {b"a" * 28: codes, b"b" * 28: codes}) == 2
    sound = path.read_bytes()
    path.write_bytes(sound + b"x" * 40_000)
    assert tail.append(path, {b"c" * 28: codes}) == 3
    assert path.stat().st_size == len(sound) * 3 // 2
    assert list(tail.read(path, 2048)) == [b"a" * 28, b"b" * 28, b"c" * 28]


@pytest.mark.usefixtures("small_parts")
def test_a_damaged_block_does_not_stay_beside_a_new_one(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 5)
    gallery = fake_gallery(tmp_path / "g")
    gallery.index(["album"])
    (name,) = parts(gallery)
    block = index_of(gallery).folder / name
    block.rename(block.with_name(name[:7] + "0" * 64 + ".block"))  # not what its name says
    said: list[str] = []
    later = Gallery.open(tmp_path / "g", warn=said.append)
    later.model._engine = FakeEngine()
    later.index()
    assert said
    assert parts(later) == [name]
    assert answers(later, texture(5, (240, 180), 60))[0][1] is not None


def test_known_copies_are_looked_at_once(tmp_path: Path) -> None:
    (path,) = write_textures(tmp_path / "album", 1)
    for i in range(5):
        shutil.copy(path, tmp_path / "album" / f"copy{i}.png")
    gallery = Gallery.create(tmp_path / "g", fake_model(), local=False)
    gallery.index(["album"])
    gallery.configure_local(True)
    assert gallery.index().local == 1


def test_a_picture_that_cannot_be_decoded_any_more_keeps_its_vector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_textures(tmp_path / "album", 2)
    gallery = Gallery.create(tmp_path / "g", fake_model(), local=False)
    gallery.index(["album"])
    gallery.configure_local(True)

    def refuse(*_: object, **__: object) -> None:
        raise ImageError("too large by now")

    monkeypatch.setattr(imaging, "load_picture", refuse)
    report = gallery.index()
    assert (report.troubles, report.local, len(gallery)) == ([], 0, 2)
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert gallery.index().local == 2


@pytest.mark.usefixtures("small_parts")
def test_compaction_drops_the_codes_of_what_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "_COMPACT_ROWS", 1)
    paths = write_textures(tmp_path / "album", 9)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
        before = {name: rest for name, *rest in answers(gallery, texture(0, (240, 180), 60))}
        for path in paths[2:]:
            path.unlink()
        gallery.index(["album"])
        gallery.index(["album"])
        assert len(index_of(gallery)) == 2
        after = {name: rest for name, *rest in answers(gallery, texture(0, (240, 180), 60))}
        assert {name: rest[0] for name, rest in after.items()} == {name: before[name][0] for name in after}
        assert len(after) == 2


def test_a_derived_gallery_has_the_codes(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 6)
    spec = fake_model().spec
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
        whitening, about = fit_gallery(gallery, 4)
        model = Model(
            replace(spec, dim=4, whitening={"kind": "pca", "dim": 4, "sha256": "0" * 64, "learned_on": about})
        )
        with derive_gallery(gallery, whitening, model, tmp_path / "white") as white:
            assert len(index_of(white)) == 6
            assert sorted(index_of(white).contents()) == sorted(index_of(gallery).contents())


def test_a_file_that_a_writer_takes_away_between_two_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_textures(tmp_path / "album", 3)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
        listed, calls = LocalIndex._listed, 0

        def once_gone(self: LocalIndex) -> object:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise FileNotFoundError
            return listed(self)

        monkeypatch.setattr(LocalIndex, "_listed", once_gone)
        assert gallery.query(texture(1, (240, 180), 60), rank="fused").found


def test_what_is_no_file_of_ours_is_passed_over_and_stays(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 3)
    gallery = fake_gallery(tmp_path / "g")
    gallery.index(["album"])
    folder = index_of(gallery).folder
    (folder / ("000009-" + "0" * 64 + ".block")).symlink_to("/gone")
    (folder.parent / "my-notes").mkdir()
    (folder.parent / "link").symlink_to(tmp_path)
    later = fake_gallery(tmp_path / "g")
    assert later.query(texture(1, (240, 180), 60)).found
    assert later.index().local == 0
    assert (folder.parent / "my-notes").is_dir()
    assert (folder.parent / "link").is_symlink()


@pytest.mark.usefixtures("small_parts")
def test_a_part_that_cannot_be_read_is_named_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_textures(tmp_path / "album", 3)
    fake_gallery(tmp_path / "g").index(["album"])

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(local_index, "open_block", refuse)
    said: list[str] = []
    gallery = Gallery.open(tmp_path / "g", warn=said.append)
    gallery.model._engine = FakeEngine()
    assert len(gallery.query(texture(1, (240, 180), 60)).matches) == 3
    assert len([line for line in said if "Permission denied" in line]) == 1
    before = sorted(index_of(gallery).folder.iterdir())
    with pytest.raises(GalleryError, match="Permission denied"):  # it may be whole
        gallery.index()
    assert sorted(index_of(gallery).folder.iterdir()) == before
    monkeypatch.undo()
    assert gallery.index().local == 0


def test_the_cosine_never_looks_at_it(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 3)
    gallery = fake_gallery(tmp_path / "g")
    gallery.index(["album"])
    shutil.rmtree(tmp_path / "g" / "local")
    (tmp_path / "g" / "local").write_text("no folder")
    assert len(fake_gallery(tmp_path / "g").query(texture(1, (240, 180), 60), rank="cosine").matches) == 3


def test_pictures_without_codes_do_not_lose_where_few_have_some(tmp_path: Path) -> None:
    paths = write_textures(tmp_path / "album", 12)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
        (index_of(gallery).folder / tail.NAME).unlink()
        gallery.add("k", image=texture(200, (240, 180), 60))
        for path in paths:
            assert gallery.query(path, k=1).matches[0].path == str(path.relative_to(tmp_path))
        assert gallery.query(turned(texture(200, (240, 180), 60)), k=1).matches[0].path == "k"


def test_equal_evidence_is_in_the_order_of_the_cosine(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 12)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
        found = gallery.query(np.zeros((100, 100, 3), np.uint8), k=12).matches
        keys = [(m.fused or 0, m.score) for m in found]
        assert keys == sorted(keys, reverse=True)
        assert len({fused for fused, _ in keys}) < 12


def test_a_query_that_goes_while_it_is_looked_at_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_textures(tmp_path / "album", 3)
    queries = write_textures(tmp_path / "queries", 4, first=20)
    original = querying.large_enough

    def gone(array: object, spec: object, source: object, bbox: object = None) -> object:
        if str(source).endswith("0021.png"):
            raise ImageError("No such file or directory")
        return original(array, spec, source, bbox)  # type: ignore[arg-type]

    monkeypatch.setattr(querying, "large_enough", gone)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index(["album"])
        results = list(gallery.answers(queries))
    assert [result.error is None for result in results] == [True, False, True, True]


def test_a_second_decoding_that_fails_costs_no_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_textures(tmp_path / "album", 3)
    gallery = fake_gallery(tmp_path / "g")
    gallery.index(["album"])
    shutil.rmtree(index_of(gallery).folder)

    def refuse(*_: object) -> None:
        raise ImageError("gone")

    monkeypatch.setattr(collecting, "large_enough", refuse)
    again = fake_gallery(tmp_path / "g")
    assert again.index().troubles == []
    assert len(again) == 3


def test_a_part_that_is_gone_is_missed(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 9)
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index([tmp_path / "album"])
        index = gallery.local
        assert index is not None
        (index.folder / "tail").unlink()
    said: list[str] = []
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.warn = said.append
        for _ in range(2):
            gallery.info()
            gallery.query(texture(3), 3)
    assert len(said) == 1
    assert "lacks 9 contents" in said[0]
    with fake_gallery(tmp_path / "g") as gallery:
        assert gallery.index().local == 9
        gallery.warn = said.append
        gallery.info()
    assert len(said) == 1


def test_an_index_of_contents_that_leaves_a_picture_out_is_named_and_mended(tmp_path: Path) -> None:
    write_textures(tmp_path / "album", 9)
    view = turned(texture(5, (240, 180), 60))
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.configure_search("hnsw", 0.9)
        gallery.index([tmp_path / "album"])
        wanted = answers(gallery, view, 3)
    with closing(sqlite3.connect(gallery.catalog_path, isolation_level=None)) as catalog:
        whole = "CREATE INDEX images_by_hash ON images (hash)"
        less = f"{whole} WHERE path != '{wanted[0][0]}'"
        catalog.execute(
            "PRAGMA writable_schema = ON"
        )  # SQLite makes the smaller index, and then takes it for the whole one
        catalog.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'images_by_hash'", (less,))
        catalog.execute("PRAGMA writable_schema = RESET")
        catalog.execute("REINDEX images_by_hash")
        catalog.execute("PRAGMA writable_schema = ON")
        catalog.execute("UPDATE sqlite_master SET sql = ? WHERE name = 'images_by_hash'", (whole,))
    with fake_gallery(tmp_path / "g") as gallery, pytest.raises(GalleryDamaged, match="index of contents"):
        gallery.query(view, k=3)
    repair(tmp_path / "g")
    with fake_gallery(tmp_path / "g") as gallery:
        gallery.index()
        assert answers(gallery, view, 3) == wanted

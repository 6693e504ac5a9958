"""Leaks by similarity against a plain search, planted copies among training pictures, and the sheets that show things."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from fakes import fake_model
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageColor

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.reading import load_groundtruth
from retrieval.errors import DatasetError, UsageError
from retrieval.training.data import leaks as module
from retrieval.training.data.leaks import Leak, check_leaks, find_leaks, leak_sheet, without_leaks
from retrieval.training.data.mining import Mined, MinedTuple
from retrieval.training.data.preview import preview_sheet
from retrieval.training.data.sources import read_training_set
from retrieval.training.data.training_set import TrainingSet
from retrieval.views import sheet as sheet_module

GREEN, RED = (ImageColor.getrgb(sheet_module._FRAMES[mark]) for mark in ("positive", "negative"))


def made(clusters: list[int], paths: list[Path] | None = None) -> TrainingSet:
    where = tuple(paths or (Path(f"{i}") for i in range(len(clusters))))
    return TrainingSet("made", where, np.array(clusters, np.int64), np.zeros((0, 2), np.int64))


# -- by descriptor -----------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 60), st.integers(1, 5), st.sampled_from([-1, 0.2, 0.8, 1])
)
def test_leaks_are_those_of_a_plain_search(seed: int, asked: int, count: int, dim: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    queries, training = (rng.standard_normal((n, dim)).astype(np.float32) for n in (asked, count))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    training /= np.linalg.norm(training, axis=1, keepdims=True)
    training[rng.integers(count, size=3)] = queries[0]
    training[rng.integers(count)] = np.nan
    expected = []
    for q in range(asked):
        for p in range(count):
            similarity = float(np.sum(queries[q].astype(np.float64) * training[p].astype(np.float64)))
            if similarity >= threshold:
                expected.append((q, p, similarity))
    expected.sort(key=lambda leak: (-leak[2], leak[0], leak[1]))
    for block in (1, 1 << 20):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_SCORES_AT_ONCE", block)
            found = find_leaks(queries, training, threshold)
        assert [(leak.query, leak.picture) for leak in found] == [(q, p) for q, p, _ in expected]
        assert [leak.similarity for leak in found] == pytest.approx([s for _, _, s in expected], abs=1e-12)


def test_queries_that_are_not_finite_leak_nothing() -> None:
    queries = np.eye(3, dtype=np.float32)
    queries[1] = np.nan
    assert find_leaks(queries, np.eye(3, dtype=np.float32), 0.9) == [Leak(0, 0, 1.0), Leak(2, 2, 1.0)]
    assert find_leaks(queries, np.zeros((0, 3), np.float32), 0.9) == []


def test_whole_clusters_go_with_a_leak_unless_told_otherwise() -> None:
    data = made([4, 4, -1, 7, 7, -1, 4])
    leaks = [Leak(0, 1, 0.9), Leak(3, 1, 0.88), Leak(0, 2, 0.87)]
    assert without_leaks(data, leaks).tolist() == [False, False, False, True, True, True, False]
    assert without_leaks(data, leaks, whole_clusters=False).tolist() == [True, False, False, True, True, True, True]
    assert without_leaks(data, []).all()


def test_what_is_refused() -> None:
    eye = np.eye(3, dtype=np.float32)
    with pytest.raises(UsageError, match="do not fit"):
        find_leaks(eye, eye[:, :2], 0.5)
    for threshold in (1.5, -2, float("nan")):
        with pytest.raises(UsageError, match="between -1 and 1"):
            find_leaks(eye, eye, threshold)


# -- on pictures -------------------------------------------------------------------------------------------------------


def pattern(seed: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((48, 36), Image.Resampling.BICUBIC)


@pytest.fixture
def benchmark(tmp_path: Path) -> GroundTruth:
    """Query 0 is all of its picture, query 1 a box in a larger one; the gallery is not on this disk."""
    folder = tmp_path / "benchmark"
    folder.mkdir()
    pattern(100).save(folder / "q0.png")
    scene = pattern(200).resize((96, 72))
    scene.paste(pattern(101), (10, 20))
    scene.save(folder / "q1.png")
    queries = [
        {"image": "q0.png", "bbox": None, "easy": ["absent/a.jpg"]},
        {"image": "q1.png", "bbox": [10, 20, 58, 56], "easy": ["absent/b.jpg"]},
    ]
    form = {"name": "bench", "gallery": ["absent/a.jpg", "absent/b.jpg"], "queries": queries}
    (folder / "groundtruth.json").write_text(json.dumps(form))
    return load_groundtruth(folder / "groundtruth.json")


@pytest.fixture
def training(tmp_path: Path, benchmark: GroundTruth) -> TrainingSet:
    """Classes of two; planted: query 0 itself in class b, the box of query 1 in d, its whole picture in e."""
    for i, label in enumerate("abcdef"):
        (tmp_path / "train" / label).mkdir(parents=True)
        for k in range(2):
            pattern(10 * i + k).save(tmp_path / "train" / label / f"{k}.png")
    pattern(100).save(tmp_path / "train" / "b" / "1.png")
    pattern(101).save(tmp_path / "train" / "d" / "0.png")
    Image.open(benchmark.root / "q1.png").save(tmp_path / "train" / "e" / "1.png")
    (tmp_path / "train" / "f" / "1.png").write_bytes(b"not a picture")
    return read_training_set(tmp_path / "train")


def test_planted_pictures_are_found_by_box_and_by_whole_picture(
    benchmark: GroundTruth, training: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    for block in (5, 4096):
        monkeypatch.setattr(module, "_PICTURES_AT_ONCE", block)
        check = check_leaks(
            benchmark, training, fake_model(), 0.99, progress=lambda done, total: seen.append((done, total))
        )
        leaking = [
            (leak.query, os.path.relpath(training.paths[leak.picture]).split(os.sep)[-2:]) for leak in check.leaks
        ]
        assert sorted(leaking) == [(0, ["b", "1.png"]), (1, ["d", "0.png"]), (1, ["e", "1.png"])]
        assert all(leak.similarity == pytest.approx(1, abs=0.01) for leak in check.leaks)
        left = training.subset(check.keep)
        assert [training.cluster_names[c] for c in left.clusters] == ["a", "a", "c", "c", "f", "f"]
        assert check.notes == [
            "3 of 12 training pictures are as close as 0.99 to a query of bench",
            "3 further pictures of their clusters are left out with them",
            "1 training pictures cannot be read and were not compared",
        ]
    assert seen == [(5, 12), (10, 12), (12, 12), (12, 12)]
    alone = check_leaks(benchmark, training, fake_model(), 0.99, whole_clusters=False)
    assert int((~alone.keep).sum()) == 3
    assert len(alone.notes) == 2


def test_a_query_that_cannot_be_read_is_named(benchmark: GroundTruth, training: TrainingSet) -> None:
    (benchmark.root / "q0.png").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"bench: queries\[0\] .*q0.png cannot be used"):
        check_leaks(benchmark, training, fake_model(), 0.9)


# -- sheets ------------------------------------------------------------------------------------------------------------

COLOURS = [(10, 200, 30), (200, 10, 150), (20, 30, 220), (240, 160, 10), (0, 180, 200), (120, 60, 10)]


@pytest.fixture
def plain(tmp_path: Path) -> TrainingSet:
    paths = [tmp_path / f"p{i}.png" for i in range(len(COLOURS))]
    for path, colour in zip(paths, COLOURS, strict=True):
        Image.new("RGB", (300, 200), colour).save(path)
    return made([0, 0, 1, 1, -1, 2], paths)


def place(sheet: Image.Image, colour: tuple[int, ...]) -> tuple[int, int, int]:
    """Where a colour lies: its left and top edge, and how many pixels there are."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    return (int(columns.min()), int(rows.min()), len(rows)) if len(rows) else (-1, -1, 0)


def test_a_preview_shows_positives_green_and_negatives_red(plain: TrainingSet) -> None:
    mined = Mined([MinedTuple(0, 1, (3, 4)), MinedTuple(2, 3, (5, 0)), MinedTuple(3, 2, (5, 1))], 0.8)
    sheet = preview_sheet(plain, mined, count=1, thumb=100)
    lefts = [place(sheet, COLOURS[i])[0] for i in (0, 1, 3, 4)]
    assert -1 < lefts[0] < lefts[1] < lefts[2] < lefts[3]
    assert place(sheet, COLOURS[5])[2] == 0  # of the second tuple
    assert lefts[0] < place(sheet, GREEN)[0] < lefts[1] < place(sheet, RED)[0] < lefts[2]
    assert 1.8 < place(sheet, RED)[2] / place(sheet, GREEN)[2] < 2.2
    more = preview_sheet(plain, mined, thumb=100)
    assert more.height > 2 * sheet.height
    assert place(more, COLOURS[5])[2] > 0
    names = TrainingSet("n", plain.paths, plain.clusters, plain.pairs, cluster_names=("tower", "bridge", "gate"))
    assert preview_sheet(names, mined, thumb=100).tobytes() != more.tobytes()


def test_a_preview_shows_pictures_as_they_are_changed(plain: TrainingSet) -> None:
    views = TrainingSet("v", plain.paths, np.arange(6), plain.pairs, two_views=True)
    mined = Mined([MinedTuple(0, 0, (1,))], 0.8)
    first = preview_sheet(views, mined, preset="views", seed=1, thumb=100)
    assert first.tobytes() == preview_sheet(views, mined, preset="views", seed=1, thumb=100).tobytes()
    assert first.tobytes() != preview_sheet(views, mined, preset="views", seed=2, thumb=100).tobytes()
    assert first.tobytes() != preview_sheet(views, mined, thumb=100).tobytes()
    plain.paths[1].unlink()
    preview_sheet(views, mined, preset="views", seed=1, thumb=100)  # a grey tile takes its place
    with pytest.raises(UsageError, match="no augmentation"):
        preview_sheet(views, mined, preset="strong")


def test_leaks_are_shown_beside_their_query(
    benchmark: GroundTruth, plain: TrainingSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    original = sheet_module._Pen.text

    def text(self, x, y, width, text, *rest):
        texts.append(text)
        return original(self, x, y, width, text, *rest)

    monkeypatch.setattr(sheet_module._Pen, "text", text)
    sheet = leak_sheet(benchmark, plain, [Leak(0, 4, 0.87), Leak(1, 1, 0.91), Leak(1, 0, 0.99)], thumb=100)
    tops = [place(sheet, COLOURS[i])[1] for i in (0, 1, 4)]
    assert -1 < tops[0] == tops[1] < tops[2]  # query 1 has the closest
    assert place(sheet, COLOURS[0])[0] < place(sheet, COLOURS[1])[0]
    assert place(sheet, RED)[2] > 0
    assert [t for t in texts if t.startswith("0.")] == ["0.990", "0.910", "0.870"]
    assert [t for t in texts if t.startswith("q")] == ["query", "q1.png", "query", "q0.png"]

"""``retrieve evaluate``: figures against loops over a tiny set, other programs' rankings, what is refused, saved, compared."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from evaluation_set import (
    cached_gallery,
    descriptors,
    figures,
    full_rankings,
    make_set,
    means,
    retrieve,
    use_fake_engine,
)
from fakes import DIM, FakeEngine, fake_gallery
from paintings import some_paintings
from PIL import Image
from tiny import knowing_tiny

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.reading import load_groundtruth
from retrieval.errors import DatasetError, GalleryMismatch, UsageError
from retrieval.evaluation.described_set import describe_set
from retrieval.evaluation.evaluator import Evaluator
from retrieval.evaluation.rankings import read_rankings
from retrieval.evaluation.report import compare_reports, load_report, regression_rows, regressions
from retrieval.evaluation.set_cache import QUERIES_FILE
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.store.vectors import VectorStore
from retrieval.gallery.store.view import VectorView

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    return use_fake_engine(monkeypatch)


@pytest.fixture
def truth(tmp_path: Path) -> GroundTruth:
    return make_set(tmp_path / "set")


def by_hand(truth: GroundTruth) -> tuple[list[list[str]], dict[str, dict[str, list[float]]]]:
    rankings = [[truth.gallery[i] for i in row] for row in full_rankings(*descriptors(truth))]
    return rankings, figures(truth, rankings)


def evaluate(truth: GroundTruth, tmp_path: Path, *options: object) -> dict:
    folder = tmp_path / "cache"
    if not folder.exists():
        cached_gallery(folder)
    return json.loads(
        retrieve("evaluate", truth.root / "groundtruth.json", "--gallery", folder, "--format", "json", *options)
    )


def check_report(report: dict, expected: dict[str, dict[str, list[float]]]) -> None:
    assert set(report["protocols"]) == {"easy", "medium", "hard"}
    for protocol, values in expected.items():
        found = report["protocols"][protocol]
        for metric, mean in means(expected)[protocol].items():
            assert found[metric] == pytest.approx(mean, abs=1e-9), (protocol, metric)
        assert [np.nan if v is None else v for v in found["AP"]] == pytest.approx(values["mAP"], abs=1e-9, nan_ok=True)


# -- figures ---------------------------------------------------------------------------------------------------------


def test_figures_equal_a_loop_over_sorted_rankings(truth: GroundTruth, tmp_path: Path, engine: FakeEngine) -> None:
    report = evaluate(truth, tmp_path, "--save", tmp_path / "saved.json")
    rankings, expected = by_hand(truth)
    check_report(report, expected)
    assert 0.3 < report["protocols"]["hard"]["mAP"] < report["protocols"]["easy"]["mAP"]  # a set that can tell
    assert report["protocols"]["easy"]["queries"] == 5  # object 1 has nothing easy
    assert report["protocols"]["easy"]["AP"][1] is None
    low, high = report["protocols"]["medium"]["intervals"]["mAP"]
    assert low < report["protocols"]["medium"]["mAP"] < high
    for query, ranking in zip(report["queries"], rankings, strict=True):
        assert [path for path, _ in query["first"]] == ranking[:10]
    assert report["settings"]["groundtruth"]
    assert report["settings"]["fingerprint"]
    assert report["environment"]["numpy"] == np.__version__
    assert load_report(tmp_path / "saved.json")["protocols"] == report["protocols"]


def test_the_table_shows_the_figures_in_percent(truth: GroundTruth, tmp_path: Path, engine: FakeEngine) -> None:
    cached_gallery(tmp_path / "cache")
    out = retrieve("evaluate", truth.root / "groundtruth.json", "--gallery", tmp_path / "cache", "-q")
    expected = means(by_hand(truth)[1])
    lines = {line.split()[0]: line for line in out.splitlines()}
    for protocol in expected:
        assert f" {100 * expected[protocol]['mAP']:.2f} [" in lines[protocol]
        assert f" {100 * expected[protocol]['mP@10']:.2f} [" in lines[protocol]
    assert lines["easy"].split()[1] == "5"
    rows = retrieve("evaluate", truth.root / "groundtruth.json", "--gallery", tmp_path / "cache", "--format", "csv")
    table = [line.split(",") for line in rows.splitlines()]
    cell = next(float(r[4]) for r in table if r[:2] == ["raw", "hard"] and r[3] == "mP@5")
    assert cell == pytest.approx(expected["hard"]["mP@5"], abs=1e-9)


def test_original_protocol_has_one_kind_of_right_answer(truth: GroundTruth, tmp_path: Path, engine: FakeEngine) -> None:
    form = truth.to_json() | {"original": True}
    for query in form["queries"]:
        query["easy"] += query.pop("hard")
    (truth.root / "groundtruth.json").write_text(json.dumps(form))
    report = evaluate(truth, tmp_path)
    assert list(report["protocols"]) == ["original"]
    assert report["protocols"]["original"]["mAP"] == pytest.approx(means(by_hand(truth)[1])["medium"]["mAP"], abs=1e-9)


def test_copies_in_the_gallery_tie_by_their_order(truth: GroundTruth, tmp_path: Path, engine: FakeEngine) -> None:
    # A negative becomes a copy of a right answer, once before and once after it in the gallery's order.
    right = truth.queries[0].easy[0]
    others = [path for path in truth.gallery if "other" in path]
    before, after = min(others), max(others)
    form = truth.to_json()
    form["gallery"] = [before, *[p for p in truth.gallery if p not in (before, after)], after]
    for path in (before, after):
        shutil.copyfile(truth.root / right, truth.root / path)
    (truth.root / "groundtruth.json").write_text(json.dumps(form))
    changed = load_groundtruth(truth.root / "groundtruth.json")
    check_report(evaluate(changed, tmp_path), by_hand(changed)[1])


def test_leave_one_out_of_labelled_folders(tmp_path: Path, engine: FakeEngine) -> None:
    truth = load_groundtruth(labelled_folder(tmp_path))
    cached_gallery(tmp_path / "cache")
    out = retrieve("evaluate", tmp_path / "labelled", "--gallery", tmp_path / "cache", "--format", "json")
    rows = retrieve("evaluate", tmp_path / "labelled", "--gallery", tmp_path / "cache").splitlines()[2:]
    one = re.split(" {2,}", rows[0])  # nothing is hard here: both ask the same
    assert (len(rows), one[:2]) == (1, ["easy, medium", str(len(truth.queries))])
    lines = retrieve("evaluate", tmp_path / "labelled", "--gallery", tmp_path / "cache", "--rerank", "qe").splitlines()
    assert re.split(" {2,}", lines[1].strip()) == ["easy, medium mAP", "once s", "ms/query"]
    assert [line.split(" ")[0] for line in lines[6:]] == ["raw", "qe"]
    assert json.loads(out)["protocols"]["easy"] == json.loads(out)["protocols"]["medium"]
    check_hand = means(by_hand(truth)[1])
    assert json.loads(out)["protocols"]["medium"]["mAP"] == pytest.approx(check_hand["medium"]["mAP"], abs=1e-9)
    assert engine.described == len(truth.gallery)  # queries are gallery pictures: nothing is described twice


def labelled_folder(tmp_path: Path) -> Path:
    made = make_set(tmp_path / "made")
    for path in made.gallery:
        if "easy" in path or "hard" in path:
            label = path.split("-")[1]
            (tmp_path / "labelled" / label).mkdir(parents=True, exist_ok=True)
            shutil.copy(made.root / path, tmp_path / "labelled" / label)
    return tmp_path / "labelled"


def test_of_a_folder_what_cannot_be_read_is_left_out_with_one_warning(
    tmp_path: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = labelled_folder(tmp_path)
    sound = load_groundtruth(folder)
    (folder / "0" / "broken.png").write_text("no picture")
    whole = folder / sound.gallery[0]
    (folder / "2" / "half.png").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    cached_gallery(tmp_path / "cache")
    for _ in range(2):  # another time it is the same, though the gallery has seen them
        out = json.loads(retrieve("evaluate", folder, "--gallery", tmp_path / "cache", "--format", "json"))
        (warned,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
        total = len(sound.gallery) + 2
        assert warned.startswith(f"warning: 2 of {total} pictures left out, which cannot be used: '0/broken.png' (")
        assert "'2/half.png' (" in warned
        expected = by_hand(sound)[1]["medium"]["mAP"]
        assert out["protocols"]["medium"]["AP"] == pytest.approx(expected, abs=1e-9)
    assert engine.described == len(sound.gallery)
    # Where nothing is left to ask for, and where someone listed the pictures, they are named and nothing is measured.
    for name in sound.gallery:
        (folder / name).write_text("no picture")
    with pytest.raises(
        DatasetError, match=r"labelled: \d+ pictures cannot be used: .* Mend them or .* out of the folder"
    ):
        retrieve("evaluate", folder, "--gallery", tmp_path / "cache")


def test_of_a_folder_a_link_to_nothing_and_what_may_not_be_read_are_left_out(
    tmp_path: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = labelled_folder(tmp_path)
    sound = load_groundtruth(folder)
    (folder / "0" / "dead.png").symlink_to(tmp_path / "gone.png")
    shutil.copy(folder / sound.gallery[0], folder / "1" / "secret.png")
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "secret" not in str(path) and allowed(path, mode))
    cached_gallery(tmp_path / "cache")
    out = json.loads(retrieve("evaluate", folder, "--gallery", tmp_path / "cache", "--format", "json"))
    (warned,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert warned.startswith(f"warning: 2 of {len(sound.gallery) + 2} pictures left out, which cannot be used: ")
    assert "'0/dead.png' (a symbolic link to nothing); '1/secret.png' (Permission denied)" in warned
    assert out["protocols"]["medium"]["AP"] == pytest.approx(by_hand(sound)[1]["medium"]["mAP"], abs=1e-9)
    with Gallery.open(tmp_path / "cache") as gallery:  # whoever learns from such a folder goes on likewise
        said: list[str] = []
        described = describe_set(load_groundtruth(folder), gallery, say=said.append)
    assert [path for path, _ in described.pictures] == [str(folder / name) for name in sound.gallery]
    assert said == [warned]


def test_of_a_list_what_cannot_be_read_is_refused(tmp_path: Path, engine: FakeEngine) -> None:
    folder = labelled_folder(tmp_path)
    lines = [f"{name},{name.split('/')[0]}" for name in load_groundtruth(folder).gallery]
    (folder / "0" / "broken.png").write_text("no picture")
    (folder / "list.csv").write_text("\n".join([*lines, "0/broken.png,0"]) + "\n")
    cached_gallery(tmp_path / "cache")
    with pytest.raises(DatasetError, match=r"1 picture cannot be used: '0/broken.png' .* out of the ground truth"):
        retrieve("evaluate", folder / "list.csv", "--gallery", tmp_path / "cache")


def test_memory_mapped_vectors_in_any_order(tmp_path: Path, truth: GroundTruth) -> None:
    """A view over two segments, permuted, with float16 storage, against the same numbers in memory."""
    rng = np.random.default_rng(0)
    count, dim = 65_536 + 700, 8
    vectors = rng.standard_normal((count, dim)).astype(np.float16)
    store = VectorStore(tmp_path, dim, "float16", 0)
    for begin in range(0, count, 30_000):
        part = vectors[begin : begin + 30_000]
        store.write(begin, part, ["00" * 28] * len(part))
    rows = rng.permutation(count)[: len(truth.gallery) + 66_000]
    view = VectorView(store, rows)
    assert view.shape == (len(rows), dim)
    assert np.shape(view) == view.shape
    assert len(view) == len(rows)
    np.testing.assert_array_equal(np.asarray(view), vectors[rows])
    writable = np.array(VectorView(store, np.arange(50)), np.float16)
    writable += 1  # a copy, not the file
    np.testing.assert_array_equal(np.asarray(VectorView(store, np.arange(50))), vectors[:50])
    np.testing.assert_array_equal(view[10:200], vectors[rows[10:200]])
    np.testing.assert_array_equal(view[np.array([[5, 3], [9, 66_000]])], vectors[rows[[[5, 3], [9, 66_000]]]])
    np.testing.assert_array_equal(view[7], vectors[rows[7]])
    plain = VectorView(store, np.arange(count))
    np.testing.assert_array_equal(plain[65_000:66_000], vectors[65_000:66_000])
    assert isinstance(plain[3:60_000], np.memmap)  # as it lies on the disk
    queries = rng.standard_normal((len(truth.queries), dim)).astype(np.float32)
    scores = queries.astype(float) @ vectors[rows].astype(float).T
    order = [np.lexsort((np.arange(len(rows)), -row)) for row in scores]
    names = [*truth.gallery, *map(str, range(66_000))]
    measured = Evaluator(truth, queries, view).raw()
    expected = figures(truth, [[names[i] for i in row] for row in order])
    for protocol, values in expected.items():
        np.testing.assert_allclose(measured.results[protocol].average_precisions, values["mAP"], atol=1e-12)
    assert [list(f) for f in measured.first] == [list(row[:10]) for row in order]
    assert view.digest != VectorView(store, rows[::-1]).digest
    assert view.digest == VectorView(store, rows).digest


# -- the cache -------------------------------------------------------------------------------------------------------


def test_nothing_is_described_twice(truth: GroundTruth, tmp_path: Path, engine: FakeEngine) -> None:
    first = evaluate(truth, tmp_path)
    total = len(truth.gallery) + len(truth.queries)
    assert engine.described == total
    assert evaluate(truth, tmp_path)["protocols"] == first["protocols"]
    assert engine.described == total
    # Another box is another query; one more picture is one more.
    form = truth.to_json()
    form["queries"][2]["bbox"] = [0, 0, 30, 30]
    Image.new("RGB", (40, 40), "red").save(truth.root / "gallery" / "new.png")
    form["gallery"].append("gallery/new.png")
    (truth.root / "groundtruth.json").write_text(json.dumps(form))
    changed = load_groundtruth(truth.root / "groundtruth.json")
    check_report(evaluate(changed, tmp_path), by_hand(changed)[1])
    assert engine.described == total + 2
    # Changed content is noticed.
    shutil.copyfile(truth.root / truth.gallery[5], truth.root / truth.gallery[6])
    check_report(evaluate(changed, tmp_path), by_hand(changed)[1])
    assert engine.described == total + 2  # a known content under another name


class Bomb:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("how", ["pickle", "object array", "zip of pickles", "truncated", "other model", "nan"])
def test_cached_query_descriptors_are_data_or_nothing(
    how: str, truth: GroundTruth, tmp_path: Path, engine: FakeEngine
) -> None:
    expected = evaluate(truth, tmp_path)["protocols"]
    file, mark = tmp_path / "cache" / QUERIES_FILE, tmp_path / "ran"
    if how == "pickle":
        file.write_bytes(pickle.dumps(Bomb(mark)))
    elif how == "object array":
        np.savez(
            tmp_path / "x.npz", keys=np.array([Bomb(mark)], object), vectors=np.zeros(1), fingerprint=np.array("a")
        )
        os.replace(tmp_path / "x.npz", file)
    elif how == "zip of pickles":
        import zipfile

        with zipfile.ZipFile(file, "w") as archive:
            for name in ("keys", "vectors", "fingerprint"):
                archive.writestr(f"{name}.npy", pickle.dumps(Bomb(mark)))
    elif how == "truncated":
        file.write_bytes(file.read_bytes()[:-200])
    else:
        with np.load(file) as found:
            arrays = dict(found)
        if how == "other model":
            arrays["fingerprint"] = np.array("0" * 16)
            arrays["vectors"] = arrays["vectors"][::-1]
        else:
            arrays["vectors"][0, 0] = np.nan
        np.savez(file, **arrays)
    before = engine.described
    assert evaluate(truth, tmp_path)["protocols"] == expected
    assert engine.described == before + len(truth.queries)
    assert not mark.exists()


def test_cache_lies_in_the_users_cache_folder_by_set_and_model(
    truth: GroundTruth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fakes import fake_model

    from retrieval.evaluation.set_cache import cache_folder

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    folder = cache_folder(truth, fake_model())
    assert folder.parent == tmp_path / "x" / "retrieval" / "evaluate"
    assert folder.name.startswith("tiny-")
    assert folder.name.endswith(fake_model().fingerprint)
    shutil.copytree(truth.root, tmp_path / "elsewhere")
    elsewhere = load_groundtruth(tmp_path / "elsewhere" / "groundtruth.json")
    assert len({folder, cache_folder(elsewhere, fake_model()), cache_folder(truth, fake_model(weights="b"))}) == 3


def test_distractors_are_all_other_pictures_but_the_queries(
    truth: GroundTruth, tmp_path: Path, engine: FakeEngine
) -> None:
    extra = tmp_path / "extra"
    extra.mkdir()
    rng = np.random.default_rng(5)
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((40, 30)).save(extra / f"{i}.png")
    shutil.copy(truth.root / truth.queries[0].image, extra / "copy-of-a-query.png")
    shutil.copy(truth.root / truth.queries[0].easy[0], extra / "copy-of-an-answer.png")
    with fake_gallery(tmp_path / "cache") as gallery:
        gallery.index([extra, truth.root / "queries"])
    plain = evaluate(truth, tmp_path)
    report = evaluate(truth, tmp_path, "--distractors")
    assert report["settings"]["gallery"] == len(truth.gallery) + 31
    queries, vectors = descriptors(truth)
    paths = sorted(p for p in extra.iterdir() if "query" not in p.name)
    from evaluation_set import describe

    more = np.concatenate([vectors, np.stack([describe(p) for p in paths])])
    names = [*truth.gallery, *map(str, paths)]
    expected = figures(truth, [[names[i] for i in row] for row in full_rankings(queries, more)])
    check_report(report, expected)
    assert report["protocols"]["hard"]["mAP"] < plain["protocols"]["hard"]["mAP"]
    with pytest.raises(UsageError, match="--gallery"):
        retrieve("evaluate", truth.root / "groundtruth.json", "--distractors")


# -- errors before hours are spent -----------------------------------------------------------------------------------


def break_set(truth: GroundTruth, how: str) -> str:
    """Make the set wrong; returns what the message must name."""
    form = truth.to_json()
    victim = truth.gallery[3]
    named = re.escape(victim)
    if how == "missing picture":
        (truth.root / victim).unlink()
    elif how == "missing query":
        (truth.root / "queries" / "4.png").unlink()
        named = "queries/4.png"
    elif how == "not a picture":
        (truth.root / victim).write_text("hello")
    elif how == "query is not a picture":
        form["queries"][4]["bbox"] = None
        (truth.root / "queries" / "4.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
        named = "queries/4.png"
    elif how == "box outside":
        form["queries"][4]["bbox"] = [8, 6, 58, 36]
        named = r"queries\[4\].*56 x 44"
    elif how == "empty":
        form["queries"] = []
        named = "queries: none"
    elif how == "no right answers":
        for query in form["queries"]:
            query["easy"] = query["hard"] = []
        named = "no query has a right answer"
    else:
        form["queries"][0]["easy"].append("gallery/unknown.png")
        named = "gallery/unknown.png"
    (truth.root / "groundtruth.json").write_text(json.dumps(form))
    return named


@pytest.mark.parametrize(
    "how",
    [
        "missing picture",
        "missing query",
        "empty",
        "no right answers",
        "unknown name",
    ],
)
def test_wrong_sets_are_refused_before_anything_is_described(
    how: str, truth: GroundTruth, tmp_path: Path, engine: FakeEngine
) -> None:
    named = break_set(truth, how)
    with pytest.raises(DatasetError, match=named):
        evaluate(truth, tmp_path)
    assert engine.described == 0


@pytest.mark.parametrize("how", ["not a picture", "query is not a picture", "box outside"])
def test_what_only_a_file_s_content_shows_is_refused_and_nothing_is_described_twice(
    how: str, truth: GroundTruth, tmp_path: Path, engine: FakeEngine
) -> None:
    shutil.copytree(truth.root, tmp_path / "sound")
    named = break_set(truth, how)
    with pytest.raises(DatasetError, match=named):
        evaluate(truth, tmp_path)
    if how != "not a picture":  # queries come first: the gallery was not begun
        assert engine.described < len(truth.queries)
    for path in (tmp_path / "sound").rglob("*"):
        if path.is_file():
            shutil.copy2(path, truth.root / path.relative_to(tmp_path / "sound"))
    evaluate(truth, tmp_path)
    boxed = sum(query.bbox is not None for query in truth.queries)
    pictures = {*truth.gallery, *(query.image for query in truth.queries if query.bbox is None)}
    assert engine.described == len(pictures) + boxed


def test_a_picture_that_breaks_while_it_is_decoded_is_named(
    truth: GroundTruth, tmp_path: Path, engine: FakeEngine
) -> None:
    data = (truth.root / truth.gallery[3]).read_bytes()
    (truth.root / truth.gallery[3]).write_bytes(data[: len(data) // 2])
    with pytest.raises(DatasetError, match=re.escape(truth.gallery[3])):
        evaluate(truth, tmp_path)


def test_nan_in_stored_descriptors_is_refused(truth: GroundTruth, tmp_path: Path, engine: FakeEngine) -> None:
    evaluate(truth, tmp_path)
    file = next((tmp_path / "cache" / "vectors").glob("*.f32"))
    vectors = np.memmap(file, np.float32, "r+").reshape(-1, DIM)
    vectors[4, 7] = np.nan
    vectors.flush()
    with pytest.raises(DatasetError, match="NaN"):
        evaluate(truth, tmp_path)


def test_a_gallery_of_another_model_or_rule_is_refused(truth: GroundTruth, tmp_path: Path, engine: FakeEngine) -> None:
    evaluate(truth, tmp_path)
    with pytest.raises(GalleryMismatch):
        evaluate(truth, tmp_path, "--size", 48)
    with pytest.raises(UsageError, match="EXIF"):
        evaluate(truth, tmp_path, "--no-exif")
    evaluate(truth, tmp_path, "--exif")
    form = truth.to_json() | {"name": "roxford5k"}  # a benchmark's name: its figures know no orientation
    (truth.root / "groundtruth.json").write_text(json.dumps(form))
    with pytest.raises(UsageError, match="EXIF"):
        evaluate(truth, tmp_path)


def test_exif_orientation_is_off_for_benchmarks_and_on_for_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval.describe.choice import ModelChoice
    from retrieval.evaluation.set_cache import open_gallery

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    truth = make_set(tmp_path / "set")
    rules = {}
    for name, exif in (("own", None), ("rparis6k", None), ("rparis6k", True), ("own", False)):
        named = GroundTruth(name, truth.root, truth.gallery, truth.queries)
        with open_gallery(named, "x", None, ModelChoice("tiny-gem@random:0", 64, exif=exif), "auto", print) as gallery:
            rules[name, exif] = gallery.spec.image.exif
    assert rules == {("own", None): True, ("rparis6k", None): False, ("rparis6k", True): True, ("own", False): False}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["nowhere.json"], "nowhere.json"),
        ([], "no set was named"),
        (["SET", "--rerank", "nonsense"], "nonsense.*alpha-qe"),
        (["SET", "--rerank", "qe:m=3"], "m=3.*n=10"),
        (["SET", "--rerank", "qe:n=x"], "n=x"),
        (["SET", "--rerank", "alpha-qe", "--rerank", "alpha-qe:alpha=3"], "twice"),
        (["SET", "--rerank", "all", "--save", "x.json"], "one --rerank"),
        (["SET", "--save", "no/where/x.json"], "does not exist"),
        (["SET", "--truncated"], "--ranks"),
        (["SET", "--sheet", "x.jpg"], "--compare"),
        (["SET", "--whiten-dim", "4"], "--whiten-on"),
        (["SET", "--ranks", "r.txt", "--rerank", "qe"], "--ranks"),
        (["--compare", "a.json", "b.json", "--save", "c.json"], "--compare"),
        (["SET", "--ranks", "r.txt"], "no such file"),
    ],
)
def test_wrong_requests(options: list[str], named: str, truth: GroundTruth) -> None:
    chosen = [str(truth.root / "groundtruth.json") if o == "SET" else o for o in options]
    with pytest.raises((UsageError, DatasetError, click.UsageError), match=named):
        retrieve("evaluate", *chosen)


# -- other programs' rankings ----------------------------------------------------------------------------------------


def write_rankings(path: Path, truth: GroundTruth, rankings: list[list[str]], form: str) -> Path:
    """``rankings`` of gallery paths in one of the ways in which a program may write them."""
    rows = list(zip(truth.queries, rankings, strict=True))
    absolute = {p: os.path.join(truth.root, p) for p in truth.gallery}
    if form == "jsonl":
        lines = [
            json.dumps({"query": q.image, "bbox": None, "results": [{"rank": 1, "path": absolute[p]} for p in ranking]})
            for q, ranking in rows
        ]
    elif form == "tabs":
        lines = ["\t".join([q.image, *ranking]) for q, ranking in rows]
    elif form == "spaces":
        lines = [" ".join([f"'{q.image}'", *(f'"{p}"' for p in ranking)]) for q, ranking in rows]
    elif form == "names":  # without folder and suffix, in another order, with an empty line
        lines = ["", *(" ".join([Path(q.image).stem, *(Path(p).stem for p in r)]) for q, r in rows[::-1])]
    else:
        place = {p: i for i, p in enumerate(truth.gallery)}
        longest = max(len(r) for r in rankings)
        table = [[place[p] for p in r] + [-1] * (longest - len(r)) for r in rankings]
        np.save(path, np.array(table, np.int32))
        return path
    path.write_text("\n".join(lines) + "\n")
    return path


FORMS = [("jsonl", "r.jsonl"), ("tabs", "r.txt"), ("spaces", "r.txt"), ("names", "r.txt"), ("npy", "r.npy")]


@pytest.mark.parametrize(("form", "name"), FORMS)
def test_rankings_of_other_programs(form: str, name: str, truth: GroundTruth, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rankings = [list(rng.permutation(truth.gallery)) for _ in truth.queries]
    for query, ranking in zip(truth.queries, rankings, strict=True):  # better than chance
        ranking.sort(key=lambda p: p not in (*query.easy, *query.junk) or rng.random() < 0.5)
    file = write_rankings(tmp_path / name, truth, rankings, form)
    out = retrieve("evaluate", truth.root / "groundtruth.json", "--ranks", file, "--format", "json")
    check_report(json.loads(out), figures(truth, rankings))
    # Shortened ones must be declared; the ground truth still says how many right answers there are.
    short = [ranking[: 7 + i % 2] for i, ranking in enumerate(rankings)]
    write_rankings(file, truth, short, form)
    with pytest.raises(DatasetError, match="truncated"):
        retrieve("evaluate", truth.root / "groundtruth.json", "--ranks", file)
    out = retrieve("evaluate", truth.root / "groundtruth.json", "--ranks", file, "--truncated", "--format", "json")
    check_report(json.loads(out), figures(truth, short))


def test_what_retrieve_query_prints_is_scored_like_the_descriptors(
    truth: GroundTruth, tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = truth.to_json()
    for query in form["queries"]:
        query["bbox"] = None  # `retrieve query` takes a box with one picture only
    (truth.root / "groundtruth.json").write_text(json.dumps(form))
    report = evaluate(truth, tmp_path)
    monkeypatch.chdir(truth.root / "queries")  # paths in the output are relative where they can be
    shutil.copytree(tmp_path / "cache", tmp_path / "index")
    printed = retrieve("query", ".", "--index", tmp_path / "index", "-k", 1000, "--format", "json", "--rank", "cosine")
    (tmp_path / "results").write_text(printed)
    monkeypatch.chdir(truth.root / "queries")
    out = retrieve("evaluate", truth.root / "groundtruth.json", "--ranks", tmp_path / "results", "--format", "json")
    assert json.loads(out)["protocols"] == report["protocols"]


@pytest.mark.parametrize("by", ["fused", "local"])
def test_evaluate_ranks_as_query_does(
    by: str, truth: GroundTruth, tmp_path: Path, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = truth.to_json()
    for query in form["queries"]:
        query["bbox"] = None
    (truth.root / "groundtruth.json").write_text(json.dumps(form))
    arguments = ("--gallery", tmp_path / "index", "--rank", by, "--format", "json")
    evaluate(truth, tmp_path)
    shutil.copytree(tmp_path / "cache", tmp_path / "index")
    report = json.loads(retrieve("evaluate", truth.root / "groundtruth.json", *arguments))
    monkeypatch.chdir(truth.root / "queries")
    printed = retrieve("query", ".", "--index", tmp_path / "index", "-k", 1000, "--format", "json", "--rank", by)
    (tmp_path / "results").write_text(printed)
    out = retrieve("evaluate", truth.root / "groundtruth.json", "--ranks", tmp_path / "results", "--format", "json")
    assert json.loads(out)["protocols"] == report["protocols"]


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (lambda r: r[0].__setitem__(3, r[0][1]), r"r\.txt:1: .* is there twice, at ranks 2 and 4"),
        (
            lambda r: r[1].__setitem__(2, "gallery/strange.png"),
            r"r\.txt:2: 'gallery/strange.png' \(rank 3\) is not in the gallery",
        ),
        (lambda r: r.pop(), r"1 of 6 queries of tiny have no ranking, such as 'queries/5.png'"),
    ],
)
def test_rankings_with_mistakes(spoil: object, named: str, truth: GroundTruth, tmp_path: Path) -> None:
    rankings = [list(truth.gallery) for _ in truth.queries]
    spoil(rankings)  # type: ignore[operator]
    lines = ["\t".join([q.image, *r]) for q, r in zip(truth.queries, rankings, strict=False)]
    (tmp_path / "r.txt").write_text("\n".join(lines))
    with pytest.raises(DatasetError, match=named):
        read_rankings(tmp_path / "r.txt", truth)


def test_more_mistakes_in_rankings(truth: GroundTruth, tmp_path: Path) -> None:
    file = tmp_path / "r"

    def refused(text: str | bytes, match: str, name: str = "r") -> None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(DatasetError, match=match):
            read_rankings(tmp_path / name, truth)

    whole = "\t".join(truth.gallery)
    everyone = "\n".join(f"{q.image}\t{whole}" for q in truth.queries)
    refused(everyone + f"\nqueries/0.png\t{whole}", "more than once")
    refused(everyone + f"\nqueries/9.png\t{whole}", "'queries/9.png' is not a query")
    refused("\n\n", "no rankings")
    refused("it's one quote", "Separate paths by tabs")
    refused('{"query": "queries/0.png"}', "r:1: not a ranking")
    refused('{"query": "queries/0.png", "results": [{"path": 3}]}', "not a ranking")
    refused(everyone.replace(truth.gallery[0], "/elsewhere/" + truth.gallery[0]), "not in the gallery")
    with pytest.raises(DatasetError, match="no such file"):
        read_rankings(tmp_path / "nothing", truth)
    count, size = len(truth.queries), len(truth.gallery)
    rows = np.tile(np.arange(size), (count, 1))
    for array, match in (
        (rows.T, "transpose"),
        (rows[:-1], "a row for each query"),
        (rows.astype(float), "whole numbers"),
        (rows + 1, f"position {size} is not"),
        (np.where(rows == 4, 5, rows), "position 5 is there more than once"),
        (np.where(rows == 4, -1, rows), "only -1 may stand .* at the end"),
        (np.array([{"a": 1}], object), "not an array file"),
    ):
        np.save(tmp_path / "r.npy", array)
        with pytest.raises(DatasetError, match=match):
            read_rankings(tmp_path / "r.npy", truth)
    refused(pickle.dumps(Bomb(tmp_path / "ran")), "not an array file", "r.npy")
    assert not (tmp_path / "ran").exists()
    assert file.exists()


def test_names_with_spaces_and_names_that_several_pictures_have(tmp_path: Path) -> None:
    form = {
        "name": "spaces",
        "gallery": ["a/one two.jpg", "b/one two.jpg", "b/three.jpg", "b/three.png"],
        "queries": [
            {"image": "q 1.jpg", "easy": ["b/three.png"]},
            {"image": "q 1.jpg", "bbox": [0, 0, 5, 5], "hard": ["b/three.jpg"]},
        ],
    }
    (tmp_path / "gt.json").write_text(json.dumps(form))
    truth = load_groundtruth(tmp_path / "gt.json")
    (tmp_path / "r").write_text("q 1.jpg\ta/one two.jpg\tthree.png\r\n'q 1.jpg' 'b/one two.jpg' three.png\n")
    assert [list(r) for r in read_rankings(tmp_path / "r", truth)] == [[0, 3], [1, 3]]
    # With boxes in the file, the order of the lines does not matter.
    lines = [
        {"query": "q 1.jpg", "bbox": [0, 0, 5, 5], "results": [{"path": "three.jpg"}]},
        {"query": str(tmp_path / "q 1.jpg"), "bbox": None, "results": [{"path": "./b/../a/one two.jpg"}]},
    ]
    (tmp_path / "r").write_text("\n".join(map(json.dumps, lines)))
    assert [list(r) for r in read_rankings(tmp_path / "r", truth)] == [[0], [2]]
    for name, match in (("one two.jpg", "2 pictures have this name"), ("three", "2 pictures have this name")):
        (tmp_path / "r").write_text(f"q 1.jpg\t{name}\nq 1.jpg\t{name}\n")
        with pytest.raises(DatasetError, match=match):
            read_rankings(tmp_path / "r", truth)


# -- comparing -------------------------------------------------------------------------------------------------------


def test_comparison_of_two_saved_results(
    truth: GroundTruth, tmp_path: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(truth, tmp_path, "--save", tmp_path / "a.json")
    rng = np.random.default_rng(3)
    rankings, before = by_hand(truth)
    worse = [list(r) for r in rankings]
    for i in (2, 4):
        rng.shuffle(worse[i])
    file = write_rankings(tmp_path / "r.txt", truth, worse, "tabs")
    retrieve("evaluate", truth.root / "groundtruth.json", "--ranks", file, "--save", tmp_path / "b.json", "-q")
    after = figures(truth, worse)
    a, b = load_report(tmp_path / "a.json"), load_report(tmp_path / "b.json")
    compared = compare_reports(a, b)
    for protocol in ("easy", "medium", "hard"):
        lost = np.array(after[protocol]["mAP"]) - np.array(before[protocol]["mAP"])
        known = lost[~np.isnan(lost)]
        result = compared[protocol]
        assert result.difference.mean == pytest.approx(known.mean(), abs=1e-9)
        assert (result.wins, result.losses, result.ties) == (
            (known > 1e-9).sum(),
            (known < -1e-9).sum(),
            (abs(known) < 1e-9).sum(),
        )
        assert result.difference.low <= result.difference.mean <= result.difference.high
    lost = np.array(before["medium"]["mAP"]) - np.array(after["medium"]["mAP"])
    worst = regressions(a, b, "medium")
    assert [r.query for r in worst] == [i for i in np.argsort(-lost) if lost[i] > 1e-9]
    assert {r.query for r in worst} == {2, 4}
    assert worst[0].before == pytest.approx(before["medium"]["mAP"][worst[0].query], abs=1e-9)

    rows = regression_rows(a, b, worst)
    assert len(rows) == 4  # each regression in A and below it in B
    for row, ranking in zip(rows, [x for r in worst for x in (rankings[r.query], worse[r.query])], strict=True):
        query = truth.queries[int(Path(str(row.query.path)).stem)]  # type: ignore[union-attr]
        assert [os.path.relpath(c.path, truth.root) for c in row.results] == ranking[:10]
        for cell, path in zip(row.results, ranking, strict=False):
            expected = (
                "positive" if path in (*query.easy, *query.hard) else "junk" if path in query.junk else "negative"
            )
            assert cell.mark == expected
    out = retrieve(
        "evaluate", "--compare", tmp_path / "a.json", tmp_path / "b.json", "--sheet", tmp_path / "s.png", "-q"
    )
    assert Image.open(tmp_path / "s.png").width > 500
    assert f"queries/{worst[0].query}.png" in out
    spec = a["settings"]["model"]
    told = f"(weights {spec['weights']['id']}, size {spec['image']['size']}, {a['settings']['fingerprint']})"
    assert out.splitlines()[0].endswith(f"{told}, ranked by cosine")
    line = next(line for line in out.splitlines() if line.startswith("medium"))
    assert f"{100 * compared['medium'].difference.mean:.2f} [" in line
    told = json.loads(retrieve("evaluate", "--compare", tmp_path / "a.json", tmp_path / "b.json", "--format", "json"))
    assert told["protocols"]["hard"]["losses"] == compared["hard"].losses
    retrieve("evaluate", "--compare", tmp_path / "b.json", tmp_path / "a.json", "--sheet", tmp_path / "none.png")
    assert "no query got worse under the medium protocol: no sheet written" in capsys.readouterr().err
    assert not (tmp_path / "none.png").exists()


def test_reports_of_different_sets_or_damaged_ones_are_refused(
    truth: GroundTruth, tmp_path: Path, engine: FakeEngine
) -> None:
    evaluate(truth, tmp_path, "--save", tmp_path / "a.json")
    report = json.loads((tmp_path / "a.json").read_text())
    # The same set under another name and in another place can be compared; other labels cannot.
    form = truth.to_json() | {"name": "renamed"}
    (truth.root / "groundtruth.json").write_text(json.dumps(form))
    evaluate(truth, tmp_path, "--save", tmp_path / "b.json")
    compare_reports(load_report(tmp_path / "a.json"), load_report(tmp_path / "b.json"))
    form["queries"][0]["junk"].pop()
    (truth.root / "groundtruth.json").write_text(json.dumps(form))
    evaluate(truth, tmp_path, "--save", tmp_path / "b.json")
    with pytest.raises(UsageError, match="different ground truths"):
        compare_reports(load_report(tmp_path / "a.json"), load_report(tmp_path / "b.json"))
    for spoil in (
        lambda r: r["protocols"]["easy"]["AP"].pop(),
        lambda r: r["protocols"]["easy"]["AP"].__setitem__(0, 1.5),
        lambda r: r["protocols"]["easy"]["AP"].__setitem__(0, "x"),
        lambda r: r.pop("settings"),
        lambda r: r["queries"][0].update(first=[3]),
    ):
        broken = json.loads(json.dumps(report))
        spoil(broken)
        (tmp_path / "c.json").write_text(json.dumps(broken))
        with pytest.raises(DatasetError, match=r"c\.json is not a saved evaluation"):
            load_report(tmp_path / "c.json")
    (tmp_path / "c.json").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(DatasetError):
        load_report(tmp_path / "c.json")
    with pytest.raises(DatasetError, match="cannot be read"):
        load_report(tmp_path / "nothing.json")


# -- as documented, and on real pictures -----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_documented_run(tmp_path: Path) -> None:
    """The shell block of docs/evaluation.md, from a synthetic set to the comparison of two models.
    Slow: five processes, as a shell runs them, and two models."""
    text = (ROOT / "docs" / "evaluation.md").read_text()
    block = re.search(r"^```bash\n(retrieve datasets make-synthetic.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert block is not None
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "retrieve").write_text(f'#!/bin/sh\nexec {sys.executable} -m retrieval "$@"\n')
    (bin_folder / "retrieve").chmod(0o755)
    env = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    env.pop("RETRIEVE_INDEX", None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block[1]], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    saved = {path.stem: load_report(path) for path in tmp_path.glob("*.json")}
    assert len(saved) == 2
    a, b = saved.values()
    truth = load_groundtruth(next(tmp_path.glob("*/groundtruth.json")))
    assert any(q.junk for q in truth.queries)
    assert any(q.hard for q in truth.queries)
    assert truth.queries[0].bbox
    for report in (a, b):
        for protocol in report["protocols"].values():
            assert protocol["queries"] == len(truth.queries)
            assert 0 < protocol["mAP"] <= 1
    for name, result in compare_reports(a, b).items():
        means_of = [form["protocols"][name]["mAP"] for form in (a, b)]
        assert result.difference.mean == pytest.approx(means_of[1] - means_of[0], abs=1e-9)
    assert "wins" in done.stdout
    assert list(tmp_path.glob("*.jpg"))


def score_py(truth: GroundTruth, results: Path) -> float:
    """mAP in percent as the independent scorer for ``retrieve query`` has it, written down once more."""
    total, count = 0.0, 0
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    ranked = {os.path.realpath(row["query"]): [os.path.realpath(r["path"]) for r in row["results"]] for row in rows}
    for query in truth.queries:
        right = {os.path.realpath(truth.root / p) for p in (*query.easy, *query.hard)}
        junk = {os.path.realpath(truth.root / p) for p in query.junk}
        kept = [p for p in ranked[os.path.realpath(truth.root / query.image)] if p not in junk]
        hits = [i for i, p in enumerate(kept) if p in right]
        total += sum(((1.0 if r == 0 else j / r) + (j + 1) / (r + 1)) / 2 / len(right) for j, r in enumerate(hits))
        count += 1
    return 100 * total / count


@pytest.mark.slow
@pytest.mark.realdata
def test_paintings_verified_and_scored_elsewhere(shared_data: Path, tmp_path: Path) -> None:
    """Embedded model on paintings at 384 pixels: verification lifts mAP to 95 and more; ``retrieve query`` agrees. Among the
    photos are the five of the set that descriptors alone take for others. Slow: points of photos."""
    file = some_paintings(shared_data, tmp_path / "paintings", (*range(10), 14, 26))
    truth = load_groundtruth(file)
    index = tmp_path / "index"
    model = ("--model", "efficientnet_lite0-gem", "--size", 384)
    out = retrieve("evaluate", file, *model, "--gallery", index, "--rerank", "verify", "--format", "json", "-q")
    raw, verified = json.loads(out)["systems"]
    assert verified["protocols"]["medium"]["mAP"] >= 0.95
    assert 0.60 < raw["protocols"]["medium"]["mAP"] < 0.80
    queries = [truth.root / q.image for q in truth.queries]
    (tmp_path / "results").write_text(
        retrieve("query", *queries, "--index", index, "-k", 1000, "--format", "json", "-q")
    )
    given = json.loads(retrieve("evaluate", file, "--ranks", tmp_path / "results", "--format", "json"))
    given = given["protocols"]["medium"]
    assert 100 * given["mAP"] == pytest.approx(score_py(truth, tmp_path / "results"), abs=0.01)
    assert given["mAP"] == pytest.approx(raw["protocols"]["medium"]["mAP"], abs=1e-6)
    # The same re-ranking, query by query.
    with Gallery.open(index) as gallery:
        described = describe_set(truth, gallery)
        assert len(described.gallery) == len(truth.gallery)
    printed = retrieve("query", *queries[:5], "--index", index, "-k", 1, "--rerank", "verify", "--format", "json", "-q")
    for line, query in zip(printed.splitlines(), truth.queries, strict=False):
        best = os.path.relpath(json.loads(line)["results"][0]["path"], truth.root)
        assert best in query.easy


def test_a_query_s_file_is_opened_once(tmp_path: Path, truth: GroundTruth) -> None:
    """Counted in a process of its own by the interpreter's audit: queries with boxes, without, and of the gallery."""
    form = truth.to_json()
    form["queries"].append({**form["queries"][0], "image": form["gallery"][-1], "bbox": None})
    path = truth.root / "once.json"
    path.write_text(json.dumps(form))
    code = f"""
import collections, os, sys
import tiny
opened = collections.Counter()
def listen(event, args):
    if event == "open" and isinstance(args[0], str | bytes):
        opened[os.path.abspath(os.fsdecode(args[0]))] += 1
sys.addaudithook(listen)
from retrieval import evaluate
from retrieval.datasets.reading import load_groundtruth
truth = load_groundtruth({str(path)!r})
evaluate(truth, "tiny-gem@random:0", size=64, engine="torch", gallery={str(tmp_path / "g")!r})
files = [os.path.abspath(os.path.join(truth.root, query.image)) for query in truth.queries]
print(sorted({{opened[file] for file in files}}), len(files))
"""
    done = subprocess.run([sys.executable, "-c", code], env=knowing_tiny(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[1] {len(form['queries'])}"

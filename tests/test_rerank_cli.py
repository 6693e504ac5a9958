"""Re-rankers by name, in ``evaluate --rerank`` and ``query --rerank``, against plain loops over a tiny set."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from evaluation_set import (
    cached_gallery,
    descriptors,
    figures,
    full_rankings,
    make_set,
    retrieve,
    use_fake_engine,
)
from fakes import FakeEngine, fake_gallery
from PIL import Image
from textures import write_textures

from retrieval import Gallery
from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.reading import load_groundtruth
from retrieval.errors import UsageError
from retrieval.gallery import local_features as local_module
from retrieval.gallery.local_features import SIFT, LocalMatcher
from retrieval.gallery.opened import searchable_view
from retrieval.gallery.second_look import RerankedSearch
from retrieval.gallery.store.view import DerivedArrays
from retrieval.ranking.geometry import local_features, verify
from retrieval.ranking.method import Context, Moved, Reordered
from retrieval.ranking.methods import METHODS
from retrieval.ranking.rerank import parse_reranker

Array = np.ndarray


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    return use_fake_engine(monkeypatch)


@pytest.fixture
def truth(tmp_path: Path) -> GroundTruth:
    return make_set(tmp_path / "set")


# -- the methods once more, as plainly as can be ---------------------------------------------------------------------


def unit(v: Array) -> Array:
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def ranked(scores: Array, before: Array | None = None) -> list[int]:
    """By score; equal ones (up to rounding) as they stood before, or by number."""
    place = np.arange(len(scores)) if before is None else np.argsort(before)
    return list(np.lexsort((place, -np.round(scores, 9))))


def expanded(q: Array, g: Array, n: int, alpha: float) -> list[int]:
    s = g @ q
    near = ranked(s)[:n]
    return ranked(g @ unit(q + sum(max(s[i], 0) ** alpha * g[i] for i in near)))


def augmented(g: Array, n: int, alpha: float) -> Array:
    out = []
    for i in range(len(g)):
        s = g @ g[i]
        near = [j for j in ranked(s) if j != i][:n]
        out.append(unit(g[i] + sum(max(s[j], 0) ** alpha * g[j] for j in near)))
    return np.array(out)


def jaccard_ranking(q: Array, g: Array, n: int, k1: int, k2: int, lambda_: float) -> list[int]:
    raw = ranked(g @ q)
    x = np.concatenate([q[None], g[raw[:n]]])
    s = x @ x.T
    near = [[i, *(j for j in ranked(s[i]) if j != i)] for i in range(len(x))]

    def mutual(i: int, k: int) -> set[int]:
        return {j for j in near[i][: k + 1] if i in near[j][: k + 1]}

    v = np.zeros_like(s)
    for i in range(len(x)):
        members = mutual(i, k1)
        for j in mutual(i, k1):
            more = mutual(j, round(k1 / 2))
            if len(more & mutual(i, k1)) * 3 >= 2 * len(more):
                members |= more
        for j in members:
            v[i, j] = np.exp(s[i, j] - 1)
    v /= v.sum(axis=1, keepdims=True)
    v = np.array([v[near[i][:k2]].mean(axis=0) for i in range(len(x))])
    jaccard = np.array([1 - np.minimum(v[0], row).sum() / np.maximum(v[0], row).sum() for row in v[1:]])
    distance = (1 - lambda_) * jaccard + lambda_ * (1 - s[0, 1:])
    return [raw[i] for i in ranked(-distance)] + raw[n:]


def diffused(q: Array, g: Array, k: int, seeds: int, alpha: float, gamma: float) -> list[int]:
    s = g @ g.T
    near = [[j for j in ranked(s[i]) if j != i][:k] for i in range(len(g))]
    a = np.array(
        [
            [max(s[i, j], 0) ** gamma if j in near[i] and i in near[j] else 0 for j in range(len(g))]
            for i in range(len(g))
        ]
    )
    degree = a.sum(axis=1)
    scale = np.array([d**-0.5 if d > 0 else 0 for d in degree])
    a *= scale[:, None] * scale
    y = np.zeros(len(g))
    raw = ranked(g @ q)
    for i in raw[:seeds]:
        y[i] = max(g[i] @ q, 0) ** gamma
    f = np.linalg.solve(np.eye(len(g)) - alpha * a, (1 - alpha) * y)
    return ranked(np.where(abs(f) < 1e-12 * abs(f).max(), 0, f), np.array(raw))


PLAIN: dict[str, Callable[[Array, Array], list[int]]] = {
    "qe:n=3": lambda q, g: expanded(q, g, 3, 0.0),
    "alpha-qe:n=5,alpha=2": lambda q, g: expanded(q, g, 5, 2.0),
    "dba:n=4": lambda q, g: ranked(augmented(g, 4, 3.0) @ q),
    "k-reciprocal:n=20,k1=6,k2=3": lambda q, g: jaccard_ranking(q, g, 20, 6, 3, 0.3),
    "diffusion:k=4,seeds=2": lambda q, g: diffused(q, g, 4, 2, 0.99, 3.0),
    "spectral:k=4,seeds=2,alpha=0.9,rank=1000": lambda q, g: diffused(q, g, 4, 2, 0.9, 3.0),
}


def rankings_of(outcome: Moved | Reordered, queries: Array, gallery: Array) -> list[list[int]]:
    """Full rankings that an outcome stands for."""
    if isinstance(outcome, Moved):
        return [list(row) for row in full_rankings(outcome.queries, np.asarray(outcome.gallery))]
    out = []
    for ids, raw in zip(outcome.ids, full_rankings(queries, gallery), strict=True):
        assert set(ids) == set(raw[: len(ids)])  # the first answers in another order
        out.append([*ids, *raw[len(ids) :]])
    return out


@pytest.mark.parametrize("name", PLAIN)
def test_rankings_equal_plain_loops(name: str, truth: GroundTruth) -> None:
    queries, gallery = descriptors(truth)
    outcome = parse_reranker(name).prepare(gallery)(queries)
    q, g = queries.astype(float), gallery.astype(float)
    expected = [PLAIN[name](row, g) for row in q]
    assert rankings_of(outcome, queries, gallery) == expected
    assert expected != [list(row) for row in full_rankings(queries, gallery)]  # it did something
    # Each query by itself gives what all together give.
    online = parse_reranker(name).prepare(gallery)
    for i in range(len(queries)):
        assert rankings_of(online(queries[i : i + 1]), queries[i : i + 1], gallery) == [expected[i]]


@pytest.mark.parametrize("name", PLAIN)
def test_evaluate_measures_what_the_re_ranker_gives(
    name: str, truth: GroundTruth, tmp_path: Path, engine: FakeEngine
) -> None:
    cached_gallery(tmp_path / "cache")
    out = retrieve(
        "evaluate",
        truth.root / "groundtruth.json",
        "--gallery",
        tmp_path / "cache",
        "--rerank",
        name,
        "--format",
        "json",
    )
    raw, system = json.loads(out)["systems"]
    queries, gallery = (x.astype(float) for x in descriptors(truth))
    expected = figures(truth, [[truth.gallery[i] for i in PLAIN[name](q, gallery)] for q in queries])
    for protocol, values in expected.items():
        assert [np.nan if v is None else v for v in system["protocols"][protocol]["AP"]] == pytest.approx(
            values["mAP"], abs=1e-9, nan_ok=True
        )
        assert system["protocols"][protocol]["mP@5"] == pytest.approx(float(np.nanmean(values["mP@5"])), abs=1e-9)
    assert (raw["name"], system["name"]) == ("raw", name)
    assert system["query_ms"] > 0
    saved = tmp_path / "saved.json"
    retrieve(
        "evaluate",
        truth.root / "groundtruth.json",
        "--gallery",
        tmp_path / "cache",
        "--rerank",
        name,
        "--save",
        saved,
        "-q",
    )
    report = json.loads(saved.read_text())
    assert report["protocols"] == system["protocols"]
    assert report["settings"]["rerank"] == name
    first = [[truth.gallery[i] for i in PLAIN[name](q, gallery)[:10]] for q in queries]
    assert [[path for path, _ in query["first"]] for query in report["queries"]] == first


@pytest.mark.parametrize("name", PLAIN)
def test_query_ranks_as_evaluate_does(name: str, truth: GroundTruth, tmp_path: Path, engine: FakeEngine) -> None:
    with fake_gallery(tmp_path / "index") as made:
        made.index([truth.root / "gallery"])
    query = truth.queries[3]
    box = ",".join(f"{v:g}" for v in query.bbox or ())
    out = retrieve(
        "query", truth.root / query.image, "--bbox", box, "--index", tmp_path / "index", "-k", 30,
        "--rerank", name, "--format", "json", "-q",
    )  # fmt: skip
    answer = json.loads(out)
    queries, gallery = (x.astype(float) for x in descriptors(truth))
    expected = PLAIN[name](queries[3], gallery)
    found = [os.path.relpath(r["path"], truth.root) for r in answer["results"]]
    assert found == [truth.gallery[i] for i in expected[:30]]
    assert [r["rank"] for r in answer["results"]] == list(range(1, 31))
    assert [r["score"] for r in answer["results"]] == pytest.approx(list(gallery[expected[:30]] @ queries[3]), abs=1e-6)
    assert answer["rerank"] == name
    scores = [r["rerank_score"] for r in answer["results"]]
    looked_at = parse_reranker(name).parameters.get("n", 30) if name.startswith("k-") else 30
    assert all(s is not None for s in scores[:looked_at])
    assert all(s is None for s in scores[looked_at:])
    assert scores[:looked_at] == sorted(scores[:looked_at], reverse=True)


def test_costs_and_formats_of_query(
    truth: GroundTruth, tmp_path: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_gallery(tmp_path / "index") as made:
        made.index([truth.root / "gallery"])
    ask = (
        "query",
        truth.root / truth.queries[0].image,
        "--index",
        tmp_path / "index",
        "-k",
        4,
        "--rerank",
        "k-reciprocal:n=3,k1=2",
    )
    rows = [line.split(",") for line in retrieve(*ask, "--format", "csv").splitlines()]
    assert rows[0][5] == "rerank_score"
    assert float(rows[3][5]) > 0
    assert rows[4][5] == ""  # beyond what was looked at again
    assert re.search(r"k-reciprocal:n=3,k1=2: \d+\.\d ms a query, \d+\.\d s for the gallery", capsys.readouterr().err)
    lines = retrieve(*ask, "-q").splitlines()
    assert [line.split()[4] == "-" for line in lines] == [False, False, False, True]
    assert "rerank" not in retrieve(*ask[:-2], "--format", "json")
    with pytest.raises(UsageError, match="unknown re-ranker 'x'"):
        retrieve(*ask[:-1], "x")


def test_all_of_them_side_by_side(truth: GroundTruth, tmp_path: Path, engine: FakeEngine) -> None:
    cached_gallery(tmp_path / "cache")
    words = ("evaluate", truth.root / "groundtruth.json", "--gallery", tmp_path / "cache", "--rerank", "all", "-q")
    lines = retrieve(*words).splitlines()
    assert max(map(len, lines[1:])) <= 100
    split = lines.index("")
    lines, precise = lines[:split], lines[split + 1 :]
    assert [line.split()[0] for line in lines[2:]] == ["raw", *METHODS]
    assert re.search(r"easy mAP +medium mAP +hard mAP +once s +ms/query", lines[1])
    for line in lines[2:]:
        assert len(re.findall(r"\d+\.\d\d \[\d+\.\d, \d+\.\d\]", line)) == 3
        assert float(line.split()[-1]) >= 0
    names = ("mP@1", "mP@5", "mP@10")
    assert precise[0].split() == [*names]
    means = {tuple(line.split()[:2]): re.findall(r"(\S+) \[", line) for line in precise[1:]}
    for system in json.loads(retrieve(*words, "--format", "json"))["systems"]:
        for protocol, measured in system["protocols"].items():
            assert means.pop((protocol, system["name"])) == [f"{100 * measured[name]:.2f}" for name in names]
    assert not means


def test_those_that_leave_all_as_it_was_are_named(
    truth: GroundTruth, tmp_path: Path, engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    cached_gallery(tmp_path / "cache")
    names = ("diffusion", "spectral", "diffusion:k=2", "k-reciprocal")
    words = ["evaluate", truth.root / "groundtruth.json", "--gallery", tmp_path / "cache", "--format", "json"]
    systems = json.loads(retrieve(*words, *(w for name in names for w in ("--rerank", name))))["systems"]
    same = [s["name"] for s in systems[1:] if s["protocols"] == systems[0]["protocols"]]
    noted = re.search(r"note: (.*) left every figure as it was, .* obeyed: diffusion:k=5", capsys.readouterr().err)
    assert {"diffusion", "spectral"} <= set(same)  # the pictures of this set are noise: none is close to another
    assert noted
    assert noted[1] == "diffusion, spectral"


def test_an_empty_gallery_and_one_of_a_single_picture(tmp_path: Path, engine: FakeEngine) -> None:
    truth = make_set(tmp_path / "set", objects=2)
    query = truth.root / truth.queries[0].image
    with fake_gallery(tmp_path / "index") as made:
        vector = made.model.describe(query)
        for count in (0, 1, 2):
            if count:
                made.index([truth.root / path for path in truth.gallery[:count]])
            for name in METHODS:
                assert len(RerankedSearch(made, parse_reranker(name)).search(vector, 5, query)) == count, name


# -- what is kept on the disk ----------------------------------------------------------------------------------------


def test_what_needs_the_gallery_alone_is_computed_once(tmp_path: Path, engine: FakeEngine) -> None:
    truth = make_set(tmp_path / "set")
    with fake_gallery(tmp_path / "index") as gallery:
        gallery.index([truth.root / "gallery"])
        computed: list[int] = []

        def kept(**parameters: int) -> float:
            _, view = searchable_view(gallery)

            def compute() -> dict[str, Array]:
                computed.append(1)
                return {"mean": np.asarray(view).mean(axis=0) * parameters["n"]}

            return float(DerivedArrays(gallery.folder, view)("thing", parameters, compute)["mean"][0])

        one = kept(n=1)
        assert (kept(n=1), len(computed)) == (one, 1)
        assert (kept(n=2), len(computed)) == (pytest.approx(2 * one), 2)
        file = next((gallery.folder / "derived").iterdir())  # one file a name
        assert len(list((gallery.folder / "derived").iterdir())) == 1
        file.write_bytes(b"\x80\x04damaged")
        assert (kept(n=2), len(computed)) == (pytest.approx(2 * one), 3)
        gallery.remove(str(truth.root / truth.gallery[0]))
        assert kept(n=2) != pytest.approx(2 * one)  # other pictures, other arrays
        assert len(computed) == 4
        shutil.rmtree(gallery.folder / "derived")
        (gallery.folder / "derived").write_text("in the way")
        kept(n=2)
        assert len(computed) == 5


@pytest.mark.parametrize("name", ["dba", "diffusion", "spectral"])
def test_kept_arrays_do_not_change_the_ranking(name: str, tmp_path: Path, engine: FakeEngine) -> None:
    truth = make_set(tmp_path / "set")
    queries, _ = descriptors(truth)
    with fake_gallery(tmp_path / "index") as gallery:
        gallery.index([truth.root / "gallery"])
        answers = []
        for _ in range(2):
            search = RerankedSearch(gallery, parse_reranker(name))
            answers.append([search.search(q, 20) for q in queries])
            assert any(path.name.startswith(("dba", "graph")) for path in (gallery.folder / "derived").iterdir())
        assert answers[0] == answers[1]


# -- verification ----------------------------------------------------------------------------------------------------


def textured(rng: np.random.Generator, side: int = 200) -> Image.Image:
    """A picture with many corners at many places."""
    cells = Image.fromarray(rng.integers(0, 256, (side // 5, side // 5, 3), dtype=np.uint8))
    return cells.resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def scenes(tmp_path: Path) -> GroundTruth:
    """Ten textures as the gallery; queries show one of them turned and smaller, inside a larger picture of another."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "scenes"
    (folder / "gallery").mkdir(parents=True)
    pictures = [textured(rng) for _ in range(10)]
    for i, picture in enumerate(pictures):
        picture.save(folder / "gallery" / f"{i}.png")
    queries = []
    for i in (2, 5, 7):
        ground = pictures[(i + 1) % 10].resize((300, 300))
        ground.paste(pictures[i].rotate(100, Image.Resampling.BICUBIC).resize((160, 160)), (20, 90))
        ground.save(folder / f"{i}.png")
        box = [40, 110, 160, 230]
        queries.append({"image": f"{i}.png", "bbox": box, "easy": [f"gallery/{i}.png"]})
    form = {"name": "scenes", "gallery": [f"gallery/{i}.png" for i in range(10)], "queries": queries}
    (folder / "gt.json").write_text(json.dumps(form))
    return load_groundtruth(folder / "gt.json")


def test_verification_in_evaluate_and_query(scenes: GroundTruth, tmp_path: Path, engine: FakeEngine) -> None:
    cached_gallery(tmp_path / "cache")
    ask = (
        "evaluate",
        scenes.root / "gt.json",
        "--gallery",
        tmp_path / "cache",
        "--rerank",
        "verify",
        "--format",
        "json",
    )
    raw, verified = json.loads(retrieve(*ask))["systems"]
    assert raw["protocols"]["easy"]["mAP"] < 0.9
    assert verified["protocols"]["easy"]["mAP"] == 1
    assert verified["once_seconds"] > 0  # the points of the gallery's pictures
    for q in scenes.queries:
        box = ",".join(map(str, q.bbox or ()))
        out = retrieve(
            "query",
            scenes.root / q.image,
            "--bbox",
            box,
            "--index",
            tmp_path / "cache",
            "--rerank",
            "verify",
            "--format",
            "json",
        )
        results = json.loads(out)["results"]
        assert os.path.relpath(results[0]["path"], scenes.root) == q.easy[0]
        # Inliers as counted by hand; fewer than ten move nothing.
        crop = np.asarray(Image.open(scenes.root / q.image).crop(q.bbox))
        seen = local_features(crop)
        counts = [r["rerank_score"] for r in results]
        for r in results:
            own = local_features(np.asarray(Image.open(r["path"])))
            assert r["rerank_score"] == verify(seen, [own])[0].inliers
        assert counts[0] >= 10
        others = [r["score"] for r in results if r["rerank_score"] < 10]
        assert others == sorted(others, reverse=True)
    # The query outside of its box is another picture.
    whole = json.loads(
        retrieve(
            "query", scenes.root / "2.png", "--index", tmp_path / "cache", "--rerank", "verify", "--format", "json"
        )
    )
    assert {os.path.basename(r["path"]) for r in whole["results"][:2]} == {"2.png", "3.png"}


def test_points_are_found_once_for_each_content(
    scenes: GroundTruth, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[int, ...]] = []

    def counted(image: Array, *arguments: int) -> object:
        found.append(image.shape)
        return local_features(image, *arguments)

    monkeypatch.setattr(local_module, "local_features", counted)
    shutil.copy(scenes.root / "gallery" / "0.png", scenes.root / "gallery" / "copy.png")
    warnings: list[str] = []
    with fake_gallery(tmp_path / "index") as gallery:
        gallery.index([scenes.root / "gallery"])
        records = dict(gallery.records())
        pictures = [(path, record.hash) for path, record in records.items()]
        matcher = LocalMatcher(gallery.folder, pictures.__getitem__, kind=SIFT, exif=True, warn=warnings.append)
        query = matcher.query(scenes.root / "2.png", (40, 110, 160, 230))
        everything = np.arange(len(pictures))
        first = matcher.inliers(query, everything)
        assert 1 + 10 <= len(found) <= 1 + 11  # two threads may meet at the copy
        seconds, count = matcher.seconds, len(found)
        assert seconds > 0
        np.testing.assert_array_equal(matcher.inliers(query, everything), first)
        assert (len(found), matcher.seconds) == (count, seconds)
        files = sorted(p for p in (gallery.folder / "local" / "points1000-640").rglob("*") if p.is_file())
        assert len(files) == 10
        # Damaged files are found again, deleted ones too, and such of another content.
        whole = [path.read_bytes() for path in files[:4]]
        files[0].write_bytes(whole[0][:-7])
        files[1].unlink()
        files[2].write_bytes(whole[2][:40] + bytes(len(whole[2]) - 40))
        files[3].write_bytes(whole[2])
        np.testing.assert_array_equal(matcher.inliers(query, everything), first)
        assert count + 4 <= len(found) <= count + 8
        assert [path.read_bytes() for path in files[:4]] == whole
        # A file that is no longer what the gallery describes is looked at, and not kept under the old content.
        count = len(found)
        files[2].unlink()
        changed = next(path for path, digest in pictures if files[2].name == digest)
        Image.new("RGB", (50, 50)).save(changed)
        matcher.inliers(query, everything)
        assert not files[2].exists()
        assert len(found) == count + 1
        os.unlink(changed)
        counts = matcher.inliers(query, everything)
        assert counts[[path for path, _ in pictures].index(changed)] == 0
        assert len(warnings) == 1
        assert changed in warnings[0]


@pytest.mark.parametrize("name", ["alpha-qe", "verify"])
def test_pictures_that_a_writer_takes_out_meanwhile_are_passed_over(
    name: str, tmp_path: Path, engine: FakeEngine
) -> None:
    """What is re-ranked is the gallery as it was when the first question came."""
    paths = write_textures(tmp_path / "album", 8)
    with fake_gallery(tmp_path / "g", engine) as gallery:
        gallery.index([tmp_path / "album"])
        search = RerankedSearch(gallery, parse_reranker(name))
        vector = gallery.model.describe(str(paths[0]))
        with Gallery.open(gallery.folder) as writer:
            writer.remove([str(paths[0]), str(paths[3])])
        found = search.search(vector, 8, str(paths[0]))
    assert sorted(Path(match.path).name for match in found) == [p.name for i, p in enumerate(paths) if i not in (0, 3)]
    assert [match.rank for match in found] == list(range(1, 7))


@pytest.mark.parametrize(("name", "kind"), [("verify", "sift"), ("xfeat", "xfeat")])
def test_verification_needs_pictures(truth: GroundTruth, name: str, kind: str) -> None:
    queries, gallery = descriptors(truth)
    with pytest.raises(UsageError, match="pictures"):
        parse_reranker(name).prepare(gallery)
    asked: list[tuple[str, int, list[int]]] = []

    def matches(kind: str, query: int, ids: Array) -> Array:
        asked.append((kind, query, list(ids)))
        return np.arange(len(ids)) * 6

    outcome = parse_reranker(f"{name}:n=4,minimum=12").prepare(gallery, Context(matches=matches))(queries)
    raw = full_rankings(queries, gallery)
    assert asked == [(kind, i, list(row[:4])) for i, row in enumerate(raw)]
    # 0, 6, 12 and 18 inliers: the last two lead, the others stay as they were.
    assert rankings_of(outcome, queries, gallery) == [[row[3], row[2], row[0], row[1], *row[4:]] for row in raw]
    assert isinstance(outcome, Reordered)
    assert outcome.scores.tolist() == [[18, 12, 0, 6]] * len(queries)


# -- names -----------------------------------------------------------------------------------------------------------


def test_names_and_parameters() -> None:
    chosen = parse_reranker("alpha-qe:n=20, alpha=2.5")
    assert chosen.parameters == {"n": 20, "alpha": 2.5}
    assert chosen.name == "alpha-qe:n=20,alpha=2.5"
    assert parse_reranker("alpha-qe:n=50").name == "alpha-qe:n=50"  # obeyed; the default leaves out what may be chance
    assert parse_reranker("alpha-qe:alpha=3").name == "alpha-qe"
    for name, method in METHODS.items():
        assert parse_reranker(name).name == name == method.name
        assert method.summary
    for text, match in (
        ("", "unknown re-ranker"),
        ("QE", "unknown"),
        ("qe:n", "no parameter 'n'"),
        ("qe:n=0", "n=0 is not a whole number"),
        ("qe:n=2.5", "n=2.5"),
        ("alpha-qe:alpha=nan", "alpha=nan"),
        ("alpha-qe:alpha=-1", "alpha=-1"),
    ):
        with pytest.raises(UsageError, match=match):
            parse_reranker(text)
    gallery = np.eye(4, dtype=np.float32)
    with pytest.raises(UsageError, match="alpha"):
        parse_reranker("diffusion:alpha=1").prepare(gallery)(gallery[:1])
    with pytest.raises(UsageError, match="lambda"):
        parse_reranker("k-reciprocal:lambda=2").prepare(gallery)(gallery[:1])

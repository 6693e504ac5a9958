"""``retrieve whiten``: what is learned, the model that is written, the gallery derived from it, and what is refused as a leak."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from evaluation_set import descriptors, make_set, retrieve
from fakes import DIM, fake_gallery, write_pictures
from tiny import MODEL

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.published.revisited import training_path
from retrieval.datasets.published.whitening_pairs import whitening_pairs
from retrieval.datasets.reading import load_groundtruth
from retrieval.describe.model import Model, load_model
from retrieval.errors import DatasetError, GalleryDamaged, GalleryError, GalleryMismatch, UsageError
from retrieval.evaluation.described_set import describe_set, matching_pairs, whitened_vectors
from retrieval.gallery.derive import derive_gallery, fit_gallery
from retrieval.gallery.gallery import Gallery
from retrieval.models.checkpoint import read_spec
from retrieval.models.spec import ModelSpec
from retrieval.models.whitening import Whitening, fit_pairs, fit_pca
from retrieval.models.whitening_origin import leak, learned_on, pictures_seen

SIZE = 64


def stored(gallery: Gallery) -> dict[str, np.ndarray]:
    return {path: gallery.vectors_of([record])[0] for path, record in gallery.records()}


# -- learning --------------------------------------------------------------------------------------------------------


def test_a_gallerys_own_vectors_become_white(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    write_pictures(folder, 120)
    shutil.copy(folder / "0000.png", folder / "copy.png")  # a copy must not count twice
    with fake_gallery(tmp_path / "index") as gallery:
        gallery.index([folder])
        whitening, origin = fit_gallery(gallery, 20)
        vectors = np.stack([v for path, v in stored(gallery).items() if "copy" not in path]).astype(float)
    white = (vectors - whitening.mean) @ whitening.projection.T
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(20), atol=1e-6)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-6)
    assert whitening.kind == "pca"
    assert (origin["name"], origin["pictures"], len(origin["sample"])) == ("photos", 120, 120)


def test_too_few_pictures_are_refused_with_advice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(UsageError, match=r"30 different pictures are too few .* to 48 dimensions.*--dim 15"):
        fit_pca(rng.standard_normal((30, 48)))
    with pytest.raises(UsageError, match="--dim 15"):
        fit_pca(rng.standard_normal((30, 48)), 30)
    assert fit_pca(rng.standard_normal((30, 48)), 29).projection.shape == (29, 48)
    write_pictures(tmp_path / "photos", 20)
    retrieve("index", tmp_path / "photos", "--model", MODEL, "--size", SIZE, "--index", tmp_path / "index", "-q")
    with pytest.raises(UsageError, match=r"20 different pictures are too few .* to 32 dimensions.*--dim 10"):
        retrieve("whiten", "--index", tmp_path / "index", "--out", tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_pairs_must_span_all_dimensions() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 8))
    chain = [(i, i + 1) for i in range(7)]  # seven differences in eight dimensions
    with pytest.raises(UsageError, match=r"7 independent differences .* 8 dimensions"):
        fit_pairs(vectors, chain)
    # A loop and a pair turned round add nothing.
    for more in ([(0, 7)], [(1, 0)], [(3, 5)] * 9):
        with pytest.raises(UsageError, match="7 independent"):
            fit_pairs(vectors, chain + more)
    learned = fit_pairs(vectors, [*chain, (20, 21)], 3)
    assert learned.projection.shape == (3, 8)
    assert learned.kind == "lw"
    # Every set of pairs: as many as the rank of their differences.
    from retrieval.models.whitening import _independent

    for _ in range(50):
        pairs = [(int(a), int(b)) for a, b in rng.integers(0, 12, (rng.integers(1, 15), 2))]
        differences = np.array([vectors[a] - vectors[b] for a, b in pairs])
        wide = np.eye(12)
        assert _independent(pairs) == np.linalg.matrix_rank(np.array([wide[a] - wide[b] for a, b in pairs]))
        assert np.linalg.matrix_rank(differences) <= _independent(pairs)


def test_pairs_of_a_set_are_its_queries_with_their_right_answers(tmp_path: Path) -> None:
    truth = make_set(tmp_path / "set")
    shutil.copy(truth.root / truth.queries[0].easy[0], truth.root / truth.queries[0].easy[1])
    with fake_gallery(tmp_path / "index") as gallery:
        described = describe_set(truth, gallery)
        vectors, pairs = matching_pairs(described)
        queries, pictures = descriptors(truth)
    by_path = dict(zip(truth.gallery, pictures, strict=True))
    expected = [
        (q, by_path[path])
        for q, query in zip(queries, truth.queries, strict=True)
        for path in (*query.easy, *query.hard)
    ]
    del expected[1]  # the copy is the same pair once more
    assert len(pairs) == len(expected)
    np.testing.assert_allclose([vectors[a] for a, _ in pairs], [q for q, _ in expected], atol=1e-6)
    np.testing.assert_allclose([vectors[b] for _, b in pairs], [p for _, p in expected], atol=1e-6)


def test_published_whitening_pairs(tmp_path: Path) -> None:
    cids = [f"{i:032x}" for i in range(6)]
    folder = tmp_path / "retrieval-SfM-30k"
    for cid in cids[:5]:
        (folder / "ims" / training_path(cid)).parent.mkdir(parents=True, exist_ok=True)
    write_pictures(tmp_path / "p", 5)
    for i, cid in enumerate(cids[:5]):
        shutil.copy(tmp_path / "p" / f"{i:04d}.png", folder / "ims" / training_path(cid))
    form = {"cids": cids, "qidxs": [0, 0, 3], "pidxs": [1, 4, 2]}
    (folder / "retrieval-SfM-30k-whiten.pkl").write_bytes(pickle.dumps(form))
    truth = whitening_pairs("retrieval-SfM-30k", tmp_path)
    asked = {q.image: q.easy for q in truth.queries}
    path = [f"ims/{training_path(cid)}" for cid in cids]
    assert asked == {path[0]: (path[1], path[4]), path[3]: (path[2],)}
    assert set(truth.gallery) == set(path[:5])
    with fake_gallery(tmp_path / "index") as gallery:
        described = describe_set(truth, gallery)
        vectors, pairs = matching_pairs(described)
    assert len(vectors) == 5
    assert len(pairs) == 3
    for broken in (
        {**form, "pidxs": [1, 4, 9]},
        {**form, "qidxs": [0]},
        {"cids": cids},
        [1],
        {**form, "cids": ["../../x"] * 6},
    ):
        (folder / "retrieval-SfM-30k-whiten.pkl").write_bytes(pickle.dumps(broken))
        with pytest.raises(DatasetError, match="expected names"):
            whitening_pairs("retrieval-SfM-30k", tmp_path)
    with pytest.raises(DatasetError, match="datasets download retrieval-SfM-120k"):
        whitening_pairs("retrieval-SfM-120k", tmp_path)


# -- the model and the derived gallery -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``photos`` and their gallery ``index``; the whitened model ``model`` and the gallery ``white`` derived from it."""
    folder = tmp_path_factory.mktemp("world")
    write_pictures(folder / "photos", 40, sizes=((64, 48), (48, 64)))
    shutil.copy(folder / "photos" / "0007.png", folder / "photos" / "twin.png")
    (folder / "photos" / "broken.png").write_text("nothing")
    retrieve("index", folder / "photos", "--model", MODEL, "--size", SIZE, "--index", folder / "index", "-q")
    shutil.move(folder / "photos", folder / "away")  # nothing below may open a picture
    out = retrieve(
        "whiten",
        "--index",
        folder / "index",
        "--out",
        folder / "model",
        "--dim",
        16,
        "--derive",
        folder / "white",
        "-q",
    )
    shutil.move(folder / "away", folder / "photos")
    assert "pca from 32 to 16 dimensions, learned on 40 pictures of photos" in out
    assert "41 pictures, whitened" in out
    return folder


def test_the_derived_gallery_holds_what_the_model_describes(world: Path) -> None:
    model = load_model(world / "model")
    assert model.spec.dim == 16
    with Gallery.open(world / "white") as white, Gallery.open(world / "index") as plain:
        white.require(model)
        whitening, _ = fit_gallery(plain, 16)
        before, after = stored(plain), stored(white)
        assert set(before) == set(after)
        assert len(after) == 41
        vectors = np.stack(list(after.values()))
        np.testing.assert_allclose(vectors, whitening.apply(np.stack([before[path] for path in after])), atol=2e-6)
        np.testing.assert_allclose(vectors, model.describe(list(after)), atol=2e-5)
        # Same pictures, same order, same state; copies share a vector and tie.
        for a, b in zip(plain.catalog.records(), white.catalog.records(), strict=True):
            assert (a.path, a.size, a.mtime_ns, a.hash, a.width, a.height, a.status, a.error) == (
                b.path, b.size, b.mtime_ns, b.hash, b.width, b.height, b.status, b.error,
            )  # fmt: skip
        assert white.info().roots == plain.info().roots
        best = white.query(world / "photos" / "0007.png", 3).matches
        assert [Path(m.path).name for m in best[:2]] == ["0007.png", "twin.png"]
        assert best[0].score == best[1].score == pytest.approx(1, abs=1e-5)


def test_the_derived_gallery_goes_on_as_any_other(world: Path, tmp_path: Path) -> None:
    for name in ("photos", "white"):
        shutil.copytree(world / name, tmp_path / name)
    write_pictures(tmp_path / "more", 1, seed=9)
    shutil.move(tmp_path / "more" / "0000.png", tmp_path / "photos" / "new.png")
    (tmp_path / "photos" / "0001.png").unlink()
    report = json.loads(retrieve("index", "--index", tmp_path / "white", "--format", "json", "-q"))
    assert (report["images"], report["embedded"], report["added"], report["removed"]) == (41, 1, 1, 1)
    out = json.loads(
        retrieve("query", tmp_path / "photos" / "new.png", "--index", tmp_path / "white", "--format", "json", "-q")
    )
    assert out["results"][0]["path"].endswith("new.png")


def test_the_model_works_wherever_one_is_named(world: Path, tmp_path: Path) -> None:
    retrieve("index", world / "photos", "--model", world / "model", "--index", tmp_path / "index", "-q")
    with Gallery.open(tmp_path / "index") as made, Gallery.open(world / "white") as white:
        made.require(white.model)
        for path, vector in stored(made).items():
            np.testing.assert_allclose(vector, stored(white)[path], atol=2e-5)
    spec = read_spec(world / "model")
    assert spec.whitening is not None
    assert (spec.whitening["kind"], spec.whitening["dim"], spec.whitening["scales"]) == ("pca", 16, [1.0])
    assert spec.image.size == SIZE
    shown = json.loads(retrieve("models", "show", world / "model"))
    assert shown["spec"]["whitening"]["learned_on"]["name"] == "photos"


def test_what_cannot_be_derived(world: Path, tmp_path: Path) -> None:
    model = load_model(world / "model")
    with Gallery.open(world / "index") as plain, Gallery.open(world / "white") as white:
        whitening, _ = fit_gallery(plain, 16)
        with pytest.raises(GalleryError, match="not empty"):
            derive_gallery(plain, whitening, model, world / "photos")
        with pytest.raises(GalleryMismatch):
            derive_gallery(white, whitening, model, tmp_path / "x")
    shutil.copytree(world / "index", tmp_path / "damaged")
    file = next((tmp_path / "damaged" / "vectors").glob("*.f32"))
    data = bytearray(file.read_bytes())
    data[32 * 4 * 3] ^= 1
    file.write_bytes(data)
    with Gallery.open(tmp_path / "damaged") as plain, pytest.raises(GalleryDamaged, match="1 damaged"):
        derive_gallery(plain, whitening, model, tmp_path / "x")
    assert [p.name for p in tmp_path.iterdir()] == ["damaged"]


def test_requests_that_make_no_sense(world: Path, tmp_path: Path) -> None:
    ask = ("whiten", "--index", world / "index", "--out", tmp_path / "m", "--dim", 8)
    for options, named in (
        (("--kind", "lw"), "--from"),
        (("--model", MODEL), "--from"),
        (("--scales", "1,0.5"), "--from"),
        (("--from", "x.json", "--shrinkage", 0.5), "--kind pca"),
        (("--from", "x.json"), "there is no file, folder or set 'x.json'"),
        (("--derive", world / "photos"), "not empty"),
    ):
        with pytest.raises((UsageError, GalleryError), match=named):
            retrieve(*ask, *options)
    with pytest.raises(UsageError, match="is there already"):
        retrieve("whiten", "--index", world / "index", "--out", world / "model", "--dim", 8)
    with pytest.raises(UsageError, match="whitened already"):
        retrieve("whiten", "--index", world / "white", "--out", tmp_path / "m", "--dim", 8)
    assert not (tmp_path / "m").exists()


def test_shrinkage_reaches_the_model(world: Path, tmp_path: Path) -> None:
    retrieve("whiten", "--index", world / "index", "--out", tmp_path / "m", "--dim", 8, "--shrinkage", 1, "-q")
    spec = read_spec(tmp_path / "m")
    assert spec.whitening is not None
    assert spec.whitening["shrinkage"] == 1
    with Gallery.open(world / "index") as plain:
        vectors = np.stack(list(stored(plain).values()))
        whitening, _ = fit_gallery(plain, 8, 1.0)
    # Only centred and rotated: all directions on one scale.
    lengths = np.linalg.norm(whitening.projection, axis=1)
    np.testing.assert_allclose(lengths, lengths[0], rtol=1e-6)
    assert load_model(tmp_path / "m").describe(world / "photos" / "0003.png") == pytest.approx(
        whitening.apply(vectors[[3]])[0], abs=2e-5
    )


def test_a_layer_learned_with_the_network_stays_below(tmp_path: Path) -> None:
    import torch

    from retrieval.describe.whitened_model import whitened_model
    from retrieval.models.checkpoint import save_checkpoint
    from retrieval.models.loading import build_network, empty_network
    from retrieval.models.network import RetrievalNetwork

    plain = load_model(MODEL, size=SIZE).spec
    form = plain.to_dict() | {"whitening": {"kind": "fc", "dim": 24}, "dim": 24}
    torch.manual_seed(0)
    network = empty_network(ModelSpec.from_dict(form))
    assert isinstance(network, RetrievalNetwork)
    spec = save_checkpoint(network, ModelSpec.from_dict(form), tmp_path / "fc" / "model.safetensors")
    base = Model(spec, tmp_path / "fc" / "model.safetensors")
    write_pictures(tmp_path / "photos", 12)
    paths = [str(p) for p in sorted((tmp_path / "photos").iterdir())]
    vectors = base.describe(paths)
    whitening = fit_pca(vectors, 5)
    model = whitened_model(base, whitening, learned_on("x", []), tmp_path / "out")
    np.testing.assert_allclose(load_model(tmp_path / "out").describe(paths), whitening.apply(vectors), atol=2e-5)
    assert build_network(model.spec, model.checkpoint).fc is not None


# -- leaks -----------------------------------------------------------------------------------------------------------


def digest(i: int) -> str:
    rng = np.random.default_rng(i)
    return rng.bytes(28).hex()


def test_overlap_is_told_from_samples() -> None:
    hashes = [digest(i) for i in range(2000)]
    small = {"learned_on": learned_on("small", hashes[:100])}
    large = {"learned_on": learned_on("large", hashes[:1500])}
    assert pictures_seen(small, hashes[50:]) == 50
    assert pictures_seen(small, hashes[100:]) == 0
    assert pictures_seen(large, hashes[1500:]) == 0
    assert pictures_seen(large, hashes[:1500]) == len(large["learned_on"]["sample"]) == 256
    assert 40 < pictures_seen(large, hashes[:400]) < 100  # 256 of 1500 are in the sample: 68 expected
    assert (
        leak(small, "other", hashes[99:])
        == "the whitening was learned on small, with 1 of the pictures that are evaluated"
    )
    assert "at least" in (leak(large, "other", hashes[:400]) or "")
    assert leak(small, "small", hashes[100:]) is None
    assert leak(None, "x", hashes) is None
    assert leak({"kind": "fc"}, "x", hashes) is None
    # Of models from elsewhere only a name is known; old and revisited sets have the same pictures.
    foreign = {"kind": "lw", "learned_on": "oxford5k", "scales": "ss"}
    assert leak(foreign, "roxford5k", hashes)
    assert leak(foreign, "rparis6k", hashes) is None
    assert learned_on("x", hashes[::-1] + hashes) == learned_on("x", hashes)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[GroundTruth, GroundTruth]:
    folder = tmp_path_factory.mktemp("sets")
    return make_set(folder / "one", objects=6, seed=1), make_set(folder / "two", objects=6, seed=2)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_a_whitening_is_not_judged_on_what_it_was_learned_on(
    sets: tuple[GroundTruth, GroundTruth], cache: Path
) -> None:
    one, two = (truth.root / "groundtruth.json" for truth in sets)
    learn = ("whiten", "--from", one, "--kind", "pca", "--dim", 8, "--model", MODEL, "--size", SIZE, "-q")
    retrieve(*learn, "--out", cache / "model")
    evaluate = ("evaluate", "--model", cache / "model", "--format", "json", "-q")
    fair = json.loads(retrieve(*evaluate, two))
    assert fair["settings"]["leak"] is None
    assert fair["settings"]["whitening"]["learned_on"]["name"] == "tiny"
    with pytest.raises(UsageError, match=r"learned on tiny, with .* pictures that are evaluated.*--allow-leak"):
        retrieve(*evaluate, one)
    marked = json.loads(retrieve(*evaluate, one, "--allow-leak", "--save", cache / "marked.json"))
    assert "learned on tiny" in marked["settings"]["leak"]
    assert json.loads((cache / "marked.json").read_text())["settings"]["leak"] == marked["settings"]["leak"]
    table = retrieve("evaluate", "--model", cache / "model", "-q", one, "--allow-leak")
    assert table.splitlines()[1].startswith("MARKED: the whitening was learned on tiny")
    compared = retrieve("evaluate", "--compare", cache / "marked.json", cache / "marked.json")
    assert compared.count("MARKED") == 2
    # A set that shares one picture with it is no other set.
    shutil.copytree(sets[1].root, cache / "mixed")
    shutil.copyfile(sets[0].root / sets[0].gallery[0], cache / "mixed" / sets[1].gallery[0])
    with pytest.raises(UsageError, match=r"with 1 of the pictures"):
        retrieve(*evaluate, cache / "mixed" / "groundtruth.json")
    assert len(list((cache / "cache" / "retrieval" / "evaluate").glob("tiny-*"))) == 4  # made, but empty:
    for made in (cache / "cache" / "retrieval" / "evaluate").glob("tiny-*"):
        with Gallery.open(made) as gallery:
            assert gallery.catalog.searchable_count() in (0, len(sets[0].gallery), len(sets[1].gallery))


def test_whitening_on_another_gallery_or_set_while_evaluating(
    sets: tuple[GroundTruth, GroundTruth], cache: Path
) -> None:
    one, two = sets
    model = ("--model", MODEL, "--size", SIZE)
    retrieve("index", one.root / "gallery", *model, "--index", cache / "other", "-q")
    ask = ("evaluate", two.root / "groundtruth.json", *model, "--format", "json", "-q")
    raw = json.loads(retrieve(*ask))
    white = json.loads(retrieve(*ask, "--whiten-on", cache / "other", "--whiten-dim", 8, "--rerank", "dba"))
    # The same as a model that was whitened on that gallery.
    retrieve("whiten", "--index", cache / "other", "--out", cache / "model", "--dim", 8, "-q")
    same = json.loads(
        retrieve("evaluate", two.root / "groundtruth.json", "--model", cache / "model", "--format", "json", "-q")
    )
    for protocol, figures in white["systems"][0]["protocols"].items():
        assert figures["mAP"] == pytest.approx(same["protocols"][protocol]["mAP"], abs=1e-6)
        assert figures["mAP"] != raw["protocols"][protocol]["mAP"]
    assert white["settings"]["whitening"]["dim"] == 8
    assert white["systems"][1]["protocols"] != white["systems"][0]["protocols"]
    # On its own pictures: refused, though it is another file.
    with pytest.raises(UsageError, match="learned on gallery, with"):
        retrieve("evaluate", one.root / "groundtruth.json", *model, "--whiten-on", cache / "other", "--whiten-dim", 8)
    wide = ("--model", "tiny-spp@random:0", "--size", SIZE)
    with pytest.raises(UsageError, match="too few to learn a whitening of 672"):
        retrieve("evaluate", two.root / "groundtruth.json", *wide, "--whiten-on", one.root / "groundtruth.json", "-q")
    with pytest.raises(GalleryMismatch):
        retrieve(
            "evaluate",
            two.root / "groundtruth.json",
            "--model",
            MODEL,
            "--size",
            48,
            "--whiten-on",
            cache / "other",
            "--whiten-dim",
            8,
        )


def test_pairs_teach_a_whitening_for_evaluation(
    sets: tuple[GroundTruth, GroundTruth], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lw with the fake model: 48 dimensions need 48 independent pairs."""
    from evaluation_set import figures, full_rankings, means, use_fake_engine

    from retrieval.models.whitening import learn_lw

    use_fake_engine(monkeypatch)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    teacher = make_set(tmp_path / "teacher", objects=14, seed=3)
    with fake_gallery(tmp_path / "index"):
        pass
    ask = ("evaluate", sets[1].root / "groundtruth.json", "--gallery", tmp_path / "index", "--format", "json", "-q")
    report = json.loads(retrieve(*ask, "--whiten-on", teacher.root / "groundtruth.json", "--whiten-dim", 30))
    queries, pictures = descriptors(teacher)
    x = np.concatenate([queries, pictures])
    pairs = np.array(
        [
            (i, len(queries) + teacher.gallery.index(path))
            for i, query in enumerate(teacher.queries)
            for path in (*query.easy, *query.hard)
        ]
    )
    learned = learn_lw(x.astype(float), pairs[:, 0], pairs[:, 1], 30)
    q, g = (learned.apply(v.astype(float)) for v in descriptors(sets[1]))
    rankings = [[sets[1].gallery[i] for i in row] for row in full_rankings(q, g)]
    expected = means(figures(sets[1], rankings))
    for protocol, values in expected.items():
        assert report["protocols"][protocol]["mAP"] == pytest.approx(values["mAP"], abs=1e-6)
    assert report["settings"]["whitening"]["kind"] == "lw"


def test_copies_keep_equal_vectors_when_whitened(tmp_path: Path) -> None:
    truth = make_set(tmp_path / "set", objects=30)
    for path in truth.gallery[1::7]:
        shutil.copyfile(truth.root / truth.gallery[0], truth.root / path)
    rng = np.random.default_rng(0)
    whitening = Whitening(rng.standard_normal(DIM), rng.standard_normal((20, DIM)), "pca")
    with fake_gallery(tmp_path / "index") as gallery:
        described = describe_set(truth, gallery)
        queries, pictures = whitened_vectors(described, whitening)
    np.testing.assert_array_equal(pictures[1::7], np.tile(pictures[0], (len(pictures[1::7]), 1)))
    plain = descriptors(truth)
    np.testing.assert_allclose(queries, whitening.apply(plain[0]), atol=1e-5)
    np.testing.assert_allclose(pictures, whitening.apply(plain[1]), atol=1e-5)


# -- scales ----------------------------------------------------------------------------------------------------------


def test_other_scales_than_learned_at_are_refused(sets: tuple[GroundTruth, GroundTruth], cache: Path) -> None:
    one, two = (truth.root / "groundtruth.json" for truth in sets)
    learn = ("whiten", "--from", one, "--kind", "pca", "--dim", 8, "--model", MODEL, "--size", SIZE, "-q")
    retrieve(*learn, "--scales", "1,0.7071", "--out", cache / "multi")
    spec = read_spec(cache / "multi")
    assert spec.image.scales == (1.0, 0.7071)
    assert spec.whitening is not None
    assert spec.whitening["scales"] == [1.0, 0.7071]
    for scales in ("1", "1,0.5"):
        with pytest.raises(UsageError, match=r"learned at scales 1,0\.7071"):
            retrieve("evaluate", two, "--model", cache / "multi", "--scales", scales)
    retrieve("evaluate", two, "--model", cache / "multi", "--scales", "1,0.7071", "-q")
    retrieve("evaluate", two, "--model", cache / "multi", "-q")  # its own scales
    assert load_groundtruth(two).name == "tiny"

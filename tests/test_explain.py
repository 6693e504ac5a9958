"""Why two pictures match: terms of cells against the product's own descriptors and against cells that are taken away."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from browser import chromium
from PIL import Image
from textures import texture, turned, write_textures

from retrieval import Gallery, ImageError, UsageError, load_model, messages
from retrieval.cli.main import cli
from retrieval.describe.explain import Explainer, spread
from retrieval.describe.model import Model
from retrieval.describe.whitened_model import whitened_model
from retrieval.gallery.explaining import Explaining
from retrieval.models.whitening import Whitening
from retrieval.pooling.contributions import contribution_map
from retrieval.pooling.registry import create_pooling
from retrieval.views.explanation import ExplainedMatch, explanation_page
from retrieval.views.heatmap import overlay, strengths

POOLINGS = [
    "avg",
    "max",
    "gem",
    "gem:p=inf",
    "gem-channel",
    "rmac",
    "rgem",
    "grid-avg",
    "grid-max",
    "spp",
    "strided-conv",
]


def tiny_model(pooling: str, **options: object) -> Model:
    return load_model(f"tiny-{pooling}@random:3", size=120, engine="torch", **options)  # type: ignore[arg-type]


def check(model: Model, tolerance: float = 1e-5) -> None:
    """Both pictures' terms sum to the product of the descriptors that the model itself gives."""
    first, second = texture(0, (120, 90)), texture(1, (88, 120))
    ours, theirs = model.describe(first).astype(np.float64), model.describe(second).astype(np.float64)
    explainer = Explainer(model)
    found = explainer.explain(explainer.see(first), explainer.see(second))
    cosine = float(ours @ theirs)
    assert found.cosine == pytest.approx(cosine, abs=tolerance)
    assert found.first.sum() == pytest.approx(cosine, abs=tolerance)
    assert found.second.sum() == pytest.approx(cosine, abs=tolerance)
    assert found.first.shape[1] > found.first.shape[0]
    assert found.second.shape[0] > found.second.shape[1]
    assert found.first.std() > 0


@pytest.mark.parametrize("pooling", POOLINGS)
def test_terms_sum_to_the_cosine(pooling: str) -> None:
    check(tiny_model(pooling))


@pytest.mark.parametrize("pooling", ["gem", "avg", "rmac"])
def test_over_several_scales(pooling: str) -> None:
    check(tiny_model(pooling, scales=(1, 0.7071, 0.5)))


@pytest.mark.parametrize("pooling", ["gem", "max", "rgem"])
@pytest.mark.parametrize("scales", [None, (1, 0.5)])
def test_through_a_whitening(pooling: str, scales: tuple[float, ...] | None, tmp_path: Path) -> None:
    model = tiny_model(pooling, scales=scales)
    rng = np.random.default_rng(0)
    mean, projection = (rng.normal(size=shape).astype(np.float32) for shape in ((32,), (8, 32)))
    whitening = Whitening(0.02 * mean, projection, "pca")
    check(whitened_model(model, whitening, {}, tmp_path / "white"))


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("pooling", [{"name": "gem"}, {"name": "max", "whitened_cells": True, "whitened_regions": 2}])
def test_through_layers_inside_of_the_network(pooling: dict, normalised: bool) -> None:
    base = tiny_model("gem")
    layer = {"kind": "fc", "dim": 16, "normalised": normalised}
    check(Model(dataclasses.replace(base.spec, pooling=pooling, whitening=layer, dim=16), engine="torch"))


def test_a_cell_of_an_average_adds_what_is_lost_without_it() -> None:
    """By the average alone: the unnormalised product loses exactly a cell's term when the cell is emptied."""
    x, weights = torch.rand(1, 6, 4, 5, dtype=torch.float64), torch.rand(6, dtype=torch.float64)
    terms = contribution_map(create_pooling("avg"), x, weights)
    without = x.clone()
    without[:, :, 2, 3] = 0
    lost = (create_pooling("avg")(x) - create_pooling("avg")(without)) @ weights
    assert float(terms[0, 2, 3]) == pytest.approx(float(lost[0]))


def test_regions_by_a_loop() -> None:
    """R-MAC's terms from its definition: region by region, channel by channel, the winner gets all."""
    from retrieval.pooling.regions import rmac_regions

    x, weights = torch.rand(1, 5, 6, 9, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    expected = np.zeros((6, 9))
    for top, left, h, w in [(0, 0, 6, 9), *rmac_regions(6, 9, 3)]:
        view = x[0, :, top : top + h, left : left + w].numpy()
        peaks = view.reshape(5, -1).max(axis=1)
        for c in range(5):
            i, j = np.unravel_index(view[c].argmax(), view[c].shape)
            expected[top + i, left + j] += float(weights[c]) * peaks[c] / (np.linalg.norm(peaks) + 1e-6)
    found = contribution_map(create_pooling("rmac"), x, weights)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_warm_cells_lie_on_what_is_common() -> None:
    """A patch of one picture in a flat other one: nearly all of the other's terms lie on the patch."""
    model = tiny_model("gem")
    first = texture(5, (120, 120))
    second = np.full((120, 120, 3), 90, np.uint8)
    second[16:56, 64:112] = first[40:80, 40:88]
    explainer = Explainer(model)
    terms = explainer.explain(explainer.see(first), explainer.see(second)).second
    rows, columns = (slice(16 // 8 - 1, 56 // 8 + 1), slice(64 // 8 - 1, 112 // 8 + 1))
    inside = terms[rows, columns]
    assert inside.mean() > 2 * (terms.sum() - inside.sum()) / (terms.size - inside.size)


@pytest.mark.parametrize("pooling", ["mean", "cls-mean", "token-gem"])
def test_tokens_of_a_transformer(pooling: str) -> None:
    check(load_model(f"deit_tiny-{pooling}@random:1", size=120, engine="torch"))


def test_what_is_no_sum_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Squared(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) ** 2

    explainer = Explainer(tiny_model("avg"))
    explainer.pooling = Squared()
    seen = explainer.see(texture(0, (64, 64)))
    with pytest.raises(UsageError, match="no sum over cells"):
        explainer.explain(seen, seen)


def test_spreading_keeps_the_sum() -> None:
    rng = np.random.default_rng(1)
    coarse = rng.normal(size=(3, 5))
    fine = spread(coarse, (7, 8))
    assert fine.shape == (7, 8)
    assert fine.sum() == pytest.approx(coarse.sum())
    np.testing.assert_allclose(spread(np.ones((2, 2)), (4, 4)), np.full((4, 4), 0.25))


@pytest.mark.slow
def test_with_the_model_that_comes_with_the_package() -> None:
    """Both engines' own descriptors. Slow: OpenVINO prepares the network."""
    check(load_model("lite0_instance-gem", size=256), 2e-4)  # OpenVINO rounds otherwise than torch
    check(load_model("lite0_instance-gem", size=256, engine="torch"))


# -- in a gallery ----------------------------------------------------------------------------------------------------


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_textures(tmp_path / "album", 4)
    with Gallery.create(tmp_path / ".retrieval", tiny_model("gem")) as gallery:
        gallery.index(["album"])
    Image.fromarray(turned(texture(2, (240, 180), 60))).save("query.png")
    return tmp_path


def test_points_lie_where_the_picture_was_turned_to(album: Path) -> None:
    import cv2

    with Gallery.open(album / ".retrieval", engine="torch") as gallery:
        [match] = gallery.query("query.png", k=1).matches
        why = Explaining(gallery).explain("query.png", match.id)
        assert why.cosine == pytest.approx(match.score, abs=1e-5)
        assert why.terms.sum() == pytest.approx(match.score, abs=1e-5)
        assert why.points is not None
        assert len(why.points) >= match.inliers >= 8
        warp = cv2.getRotationMatrix2D((120, 90), 15, 0.8)
        there = why.points[:, 2:] * (240, 180)
        expected = there @ warp[:, :2].T + warp[:, 2]
        error = np.linalg.norm(why.points[:, :2] * (240, 180) - expected, axis=1)
        assert np.median(error) < 3
        with pytest.raises(UsageError, match="picture 99 is not in the gallery"):
            Explaining(gallery).explain("query.png", 99)
        (album / "album" / "0002.png").unlink()
        with pytest.raises(ImageError, match="of the gallery"):
            Explaining(gallery).explain("query.png", match.id)
        number = gallery.add("a key", image="query.png")
        with pytest.raises(ImageError, match="only its descriptor"):
            Explaining(gallery).explain("query.png", number)


def test_query_writes_a_page_that_needs_nothing_else(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = album / "album" / "<script>alert(1)<,script>.png"
    (album / "album" / "0002.png").rename(hostile)
    with Gallery.open(album / ".retrieval", engine="torch") as gallery:
        gallery.index(["album"])
    words = ["query", "query.png", "-k", "2", "--engine", "torch", "--explain", "why.html"]
    cli.main(words, prog_name="retrieve", standalone_mode=False)
    page = (album / "why.html").read_text("utf-8")
    assert page.count("<article>") == 2
    assert page.count("data:image/jpeg;base64,") >= 8
    assert "points that agree" in page
    assert "<script" not in page
    assert "http:" not in page
    assert "https:" not in page
    assert "why they matched: why.html" in capsys.readouterr().err
    with Gallery.open(album / ".retrieval", engine="torch") as gallery:
        gallery.add("a key", image="query.png")
    cli.main([*words[:-1], "more.html"], prog_name="retrieve", standalone_mode=False)
    assert (album / "more.html").read_text("utf-8").count("<article>") == 1  # the other answers are explained
    assert "a key: no file of it is at hand" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"\.html"):
        cli.main([*words[:-1], "why.png"], prog_name="retrieve", standalone_mode=False)


def test_heat_maps_are_warm_cold_and_plain() -> None:
    grey = np.full((40, 60, 3), 128, np.uint8)
    drawn = np.asarray(overlay(grey, np.array([[1.0, 0.0, -1.0]])))
    assert drawn.shape == grey.shape
    warm, cold = drawn[20, 2].astype(int), drawn[20, -3].astype(int)
    assert warm[0] > warm[2] + 40
    assert cold[2] > cold[0] + 40
    np.testing.assert_array_equal(strengths(np.zeros((2, 2))), np.zeros((2, 2)))
    with pytest.raises(UsageError):
        overlay(grey[..., 0], np.ones((2, 2)))


@pytest.mark.parametrize(
    "wanted",
    [
        ("--explain", "why.html"),
        ("--sheet", "why.png", "--heat"),
        ("--sheet", "why.png", "--heat", "--explain", "why.html"),
        ("--sheet", "why.png"),
    ],
)
def test_long_explaining_says_how_far_it_is(
    wanted: tuple[str, ...], album: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which every look takes 0.6 seconds: after more than one second, then after two more, then four."""
    photos = sorted(map(str, album.rglob("*.png")))
    words = ["query", *photos, "--index", str(album / ".retrieval"), "-k", "2", "--format", "paths"]
    ticks = itertools.count()
    monkeypatch.setattr(messages, "time", SimpleNamespace(monotonic=lambda: 0.6 * next(ticks)))
    shown = [str(album / word) if word.startswith("why") else word for word in wanted]
    assert cli.main([*words, *shown], standalone_mode=False) in (0, None)
    total = 2 * len(photos)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("explaining")]
    expected = [] if "--sheet" in wanted and "--heat" not in wanted else [n for n in (2, 6, 13) if n < total]
    assert told == [f"explaining match {n} of {total}" for n in expected]
    if expected:
        next_one = iter(range(10**6))
        monkeypatch.setattr(messages, "time", SimpleNamespace(monotonic=lambda: 0.6 * next(next_one)))
        assert cli.main([*words, *shown, "-q"], standalone_mode=False) in (0, None)
        assert "explaining" not in capsys.readouterr().err


def test_a_sheet_shows_what_each_place_adds(album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the sheet with heat differs from the plain one, and by how much, follows the terms: warm places are redder."""
    photo = str(next((album / "album").glob("*.png"), None) or next(album.rglob("*.png")))
    arguments = ["query", photo, "--index", str(album / ".retrieval"), "-k", "2", "-q"]
    sheets = []
    for more in ([], ["--heat"]):
        out = album / f"sheet{len(more)}.png"
        assert cli.main([*arguments, "--sheet", str(out), *more], standalone_mode=False) in (0, None)
        sheets.append(np.asarray(Image.open(out).convert("RGB"), float))
    changed = np.abs(sheets[0] - sheets[1]).sum(axis=2) > 0
    columns = changed.any(axis=0)
    assert (np.diff(columns.astype(int)) == 1).sum() == 3  # the query and two answers, nothing else
    with pytest.raises(UsageError, match="--sheet"):
        cli.main([*arguments, "--heat"], standalone_mode=False)


def test_both_pictures_are_of_one_width_on_a_phone(tmp_path: Path) -> None:
    """A long name without a place to break must not take its picture's neighbour the room."""
    shade, cells = np.full((64, 48, 3), 128, np.uint8), np.full((4, 3), 1 / 12)
    name = "photos/WhatsApp_Images_of_last_summer/IMG_20230714_WA0003_edited.jpg"
    match = ExplainedMatch("photo.jpg", name, "answer 1", 1.0, shade, shade, cells, cells, None)
    (tmp_path / "why.html").write_text(explanation_page([match]), "utf-8")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto((tmp_path / "why.html").as_uri())
        one, other = page.eval_on_selector_all("figure", "all => all.map(each => each.getBoundingClientRect().width)")
        assert one == pytest.approx(other, abs=1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390

"""Re-ranking with its defaults: it helps where there is something to follow, and leaves alone what stands alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import fake_model, write_pictures

from retrieval.gallery.gallery import Gallery
from retrieval.ranking.chance import chance_level, neighbourhood_size
from retrieval.ranking.method import Moved
from retrieval.ranking.neighbours import top_k
from retrieval.ranking.rerank import Reranker, parse_reranker

DIM = 64
METHODS = ["qe", "alpha-qe", "diffusion", "spectral"]


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def groups(things: int, views: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A gallery of ``things`` with ``views`` pictures each, a query for each thing, and the things of the gallery."""
    rng = np.random.default_rng(seed)
    points = unit(rng.standard_normal((things, DIM)) + 0.3)  # all somewhat alike, as descriptors are
    of = np.repeat(np.arange(things), views)
    gallery = unit(points[of] + noise * unit(rng.standard_normal((len(of), DIM))))
    return gallery, unit(points + noise * unit(rng.standard_normal((things, DIM)))), of


def arcs(things: int, views: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same where a thing is seen from one side to the other, and asked for from one side: far views look unlike."""
    rng = np.random.default_rng(seed)
    one, other = unit(rng.standard_normal((things, DIM))), rng.standard_normal((things, DIM))
    other = unit(other - (other * one).sum(axis=1, keepdims=True) * one)
    angles = np.radians(np.linspace(5, 100, views))
    gallery = np.cos(angles)[None, :, None] * one[:, None] + np.sin(angles)[None, :, None] * other[:, None]
    noise = 0.3 * unit(rng.standard_normal((things * views, DIM)))
    return unit(gallery.reshape(-1, DIM) + noise), one, np.repeat(np.arange(things), views)


def mean_average_precision(
    reranker: Reranker | None, gallery: np.ndarray, queries: np.ndarray, of: np.ndarray
) -> float:
    order = top_k(queries, gallery, len(gallery))[0]
    if reranker is not None:
        outcome = reranker.prepare(gallery)(queries)
        order = top_k(outcome.queries, outcome.gallery, len(gallery))[0] if isinstance(outcome, Moved) else outcome.ids
    right = of[order] == np.arange(len(queries))[:, None]
    precision = np.cumsum(right, axis=1) / np.arange(1, len(gallery) + 1)
    return float(((precision * right).sum(axis=1) / right.sum(axis=1)).mean())


@pytest.mark.parametrize("name", METHODS)
def test_a_default_does_not_harm_where_a_thing_has_one_picture(name: str) -> None:
    world = groups(280, 1, 0.9)
    raw = mean_average_precision(None, *world)
    assert 0.9 < raw < 1
    assert mean_average_precision(parse_reranker(name), *world) >= raw - 0.005


@pytest.mark.parametrize("name", METHODS)
def test_a_default_helps_where_a_thing_has_many(name: str) -> None:
    world = arcs(60, 20)
    raw = mean_average_precision(None, *world)
    assert 0.5 < raw < 0.9
    assert mean_average_precision(parse_reranker(name), *world) > raw + 0.02


@pytest.mark.parametrize(("name", "same"), [("qe:n=10", 10), ("alpha-qe:n=50", 50), ("diffusion:k=50", 50)])
def test_a_named_number_is_obeyed_and_warned_of(name: str, same: int) -> None:
    world = groups(280, 1, 0.9)
    reranker = parse_reranker(name)
    assert reranker.name == name, "another result than the default's has another name"
    assert mean_average_precision(reranker, *world) < mean_average_precision(None, *world)
    caution = reranker.caution(world[0])
    assert caution is not None
    assert str(same) in caution
    assert parse_reranker(name.split(":")[0]).caution(world[0]) is None
    assert parse_reranker("qe:n=10").caution(groups(60, 20, 0.5)[0]) is None


def test_average_expansion_by_hand() -> None:
    gallery, queries, _ = groups(40, 1, 0.5)
    outcome = parse_reranker("qe:n=3").prepare(gallery)(queries)
    assert isinstance(outcome, Moved)
    nearest = np.argsort(-(queries @ gallery.T), axis=1)[:, :3]
    np.testing.assert_allclose(outcome.queries, unit(queries + gallery[nearest].sum(axis=1)), atol=1e-5)


def test_the_size_of_neighbourhoods_is_found() -> None:
    for views in (1, 2, 5, 15):
        gallery, _, of = groups(300 // views + 20, views, 0.6)
        size = neighbourhood_size(gallery, chance_level(gallery))
        assert size == pytest.approx(views - 1, abs=0.15 * views)
        assert len(of) > 100


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_the_smallest_galleries(count: int) -> None:
    gallery = groups(count, 1, 0.5)[0]
    for name in METHODS:
        reranker = parse_reranker(name)
        reranker.prepare(gallery)(gallery)
        assert reranker.caution(gallery) is None


def test_commands_warn_of_a_named_number(tmp_path: Path) -> None:
    paths = write_pictures(tmp_path / "p", 30)
    gallery = Gallery.create(tmp_path / "g", fake_model())
    gallery.index([tmp_path / "p"])
    said: list[str] = []
    gallery.warn = said.append
    gallery.query(paths[0], rerank="qe")
    assert said == []
    gallery.query(paths[0], rerank="qe:n=25")
    assert len(said) == 1
    assert "close neighbours" in said[0]

"""The map's layout: neighbours on the plane are neighbours by descriptor, against loops and against scikit-learn's measure."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.web.layout import laid_out, main_directions, nearest, ties
from retrieval.web.maps import MapKeeper, kept_neighbours


def clustered(count: int, clusters: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors about so many centres, and which."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim))
    which = rng.integers(0, clusters, count)
    vectors = centres[which] / np.sqrt(dim) + 0.6 * rng.normal(size=(count, dim)) / np.sqrt(dim)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), which


def test_neighbours_stay_together_better_than_by_main_directions() -> None:
    manifold = pytest.importorskip("sklearn.manifold")
    for seed in (0, 1):
        vectors, which = clustered(600, 30, 64, seed)
        places, flat = laid_out(vectors), main_directions(vectors)
        ours, theirs = (manifold.trustworthiness(vectors, p, n_neighbors=10) for p in (places, flat))
        assert ours > 0.97
        assert ours > theirs + 0.1
        # By a loop: the ten nearest on the map are of the same cluster.
        alike = []
        for i, place in enumerate(places):
            order = np.argsort(np.linalg.norm(places - place, axis=1))[1:11]
            alike.append((which[order] == which[i]).mean())
        assert np.mean(alike) > 0.9
        assert kept_neighbours(vectors, places) > 2 * kept_neighbours(vectors, flat)


def test_it_is_the_same_each_time_and_within_the_plane() -> None:
    vectors, _ = clustered(200, 5, 32)
    places = laid_out(vectors)
    assert np.array_equal(places, laid_out(vectors))
    assert places.dtype == np.float64
    assert np.abs(places).max() == pytest.approx(1)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 16, 40])
def test_few_vectors_and_copies(count: int) -> None:
    rng = np.random.default_rng(0)
    for vectors in (rng.normal(size=(count, 8)), np.ones((count, 8)), np.repeat(np.eye(8)[:1], count, 0)):
        places = laid_out(vectors.astype(np.float32))
        assert places.shape == (count, 2)
        assert np.isfinite(places).all()
        assert np.abs(places).max(initial=0) <= 1
        assert 0 <= kept_neighbours(vectors.astype(np.float32), places) <= 1


def test_the_nearest_by_loops() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 5)).astype(np.float32)
    found, far = nearest(vectors, 7)
    for i, vector in enumerate(vectors.astype(np.float64)):
        distances = np.sqrt(((vectors - vector) ** 2).sum(axis=1))
        distances[i] = np.inf
        order = np.argsort(distances)[:7]
        assert found[i].tolist() == order.tolist()
        assert np.allclose(far[i], distances[order], atol=1e-3)


def test_ties_are_the_formula() -> None:
    rng = np.random.default_rng(1)
    near, far = nearest(rng.normal(size=(50, 6)).astype(np.float32), 8)
    graph = ties(near, far).toarray()
    directed = np.zeros((50, 50))
    for i in range(50):
        low, high = 1e-6, 1e6
        for _ in range(200):
            sigma = (low * high) ** 0.5
            low, high = (low, sigma) if np.exp(-(far[i] - far[i, 0]) / sigma).sum() > np.log2(8) else (sigma, high)
        directed[i, near[i]] = np.exp(-(far[i] - far[i, 0]) / sigma)
    assert np.allclose(graph, directed + directed.T - directed * directed.T, atol=1e-6)


def test_main_directions_keep_a_plane() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(50, 2)) @ rng.normal(size=(2, 20))
    places = main_directions(flat.astype(np.float32))
    before = np.linalg.norm(flat[:, None] - flat[None], axis=-1)
    after = np.linalg.norm(places[:, None] - places[None], axis=-1)
    ratio = before[np.triu_indices(50, 1)] / after[np.triu_indices(50, 1)]
    assert ratio.std() < 1e-4 * ratio.mean()


def test_of_many_a_sample_is_laid_out_once_for_each_state() -> None:
    """A gallery of 100,000 costs what its sample costs."""
    vectors, _ = clustered(1000, 20, 16)

    class Many:
        name, changes, asked = "many", 0, 0

        def state(self) -> object:
            return self.changes

        def sampled(self, count: int) -> tuple[list[dict], np.ndarray, int]:
            self.asked += 1
            return [{"id": i} for i in range(count)], vectors[:count], 100_000

    many = Many()
    keeper = MapKeeper(many)  # type: ignore[arg-type]
    first = keeper.ask(300)
    assert (len(first["pictures"]), first["total"]) == (300, 100_000)
    assert keeper.ask(300) is first
    many.changes = 1
    assert keeper.ask(300) == first
    assert many.asked == 2
    assert len(keeper.ask(100)["pictures"]) == 100

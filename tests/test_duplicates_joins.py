"""Pairs of similar vectors against a loop over all of them; stars against chains; mirrored points against a mirrored picture."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval.datasets.synthetic.make import make_synthetic
from retrieval.errors import DatasetError, UsageError
from retrieval.pictures.imaging import load_picture
from retrieval.ranking import joins
from retrieval.ranking.geometry import local_features, verify
from retrieval.ranking.grouping import star_groups
from retrieval.ranking.joins import similar_pairs
from retrieval.ranking.mirrored import mirrored


def unit(rng: np.random.Generator, count: int, dim: int = 32) -> np.ndarray:
    """Things with a few pictures each, and some vectors that are equal."""
    things = rng.standard_normal((count // 4 + 1, dim))
    vectors = things[rng.integers(0, len(things), count)] + 0.35 * rng.standard_normal((count, dim))
    vectors[5:9] = vectors[4]
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def brute_force(a: np.ndarray, b: np.ndarray | None, least: float, k: int | None) -> dict[tuple[int, int], float]:
    """One row after the other, in float64."""
    other = (a if b is None else b).astype(np.float64)
    found = {}
    for i, row in enumerate(a.astype(np.float64)):
        cosines = np.einsum("nd,d->n", other, row)
        near = [j for j in np.flatnonzero(cosines >= least) if b is not None or j != i]
        near.sort(key=lambda j: (-cosines[j], j))
        for j in near if k is None else near[:k]:
            pair = (i, int(j)) if b is not None else (min(i, int(j)), max(i, int(j)))
            found[pair] = cosines[j]
    return found


def as_dict(pairs: joins.Pairs) -> dict[tuple[int, int], float]:
    keys = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert keys == sorted(set(keys))
    return dict(zip(keys, pairs.cosine.tolist(), strict=True))


@pytest.mark.parametrize("k", [None, 1, 6])
@pytest.mark.parametrize("two", [False, True])
def test_equals_brute_force_on_5000(k: int | None, two: bool) -> None:
    rng = np.random.default_rng(3)
    vectors = unit(rng, 5000)
    other = vectors[::-1][:1700].copy() if two else None
    expected = brute_force(vectors, other, 0.8, k)
    found = as_dict(similar_pairs(vectors, other, least=0.8, k=k))
    assert len(expected) > 2000
    assert found.keys() == expected.keys()
    assert max(abs(found[pair] - min(expected[pair], 1)) for pair in expected) < 1e-12


def test_many_pairs_are_thinned_while_they_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joins, "_HELD", 500)
    monkeypatch.setattr(joins, "_ROWS", 64)
    monkeypatch.setattr(joins, "_QUERIES", 100)
    vectors = unit(np.random.default_rng(0), 700, 8)
    assert as_dict(similar_pairs(vectors, least=-1, k=3)).keys() == brute_force(vectors, None, -1, 3).keys()


def test_cells_find_next_to_all_near_pairs_and_nothing_else() -> None:
    vectors = unit(np.random.default_rng(1), 6000)
    expected = brute_force(vectors, None, 0.85, 8)
    found = as_dict(similar_pairs(vectors, least=0.85, k=8, cells=24, probes=6))
    assert found.keys() <= brute_force(vectors, None, 0.85, None).keys()
    assert len(found.keys() & expected.keys()) >= 0.98 * len(expected)
    assert similar_pairs(vectors, least=0.85, k=8, cells=24, probes=24).first.tolist() == [
        a for a, _ in sorted(expected)
    ]


def test_half_precision_and_equal_vectors() -> None:
    half = unit(np.random.default_rng(2), 300).astype(np.float16)
    expected = brute_force(half, None, 0.8, 2)
    assert as_dict(similar_pairs(half, least=0.8, k=2)).keys() == expected.keys()
    same = np.repeat(unit(np.random.default_rng(2), 9)[:1], 900, axis=0)
    pairs = similar_pairs(same, least=0.99, k=2)
    # Everyone's nearest are rows 0 and 1, theirs the first that they are not.
    assert len(pairs.first) <= 2 * 900
    assert set(pairs.first.tolist()) == {0, 1}


def test_bad_input_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be paired"):
        similar_pairs(np.zeros((3, 4), np.float32), np.zeros((3, 5), np.float32), least=0.5)
    with pytest.raises(UsageError, match="k must"):
        similar_pairs(np.eye(3, dtype=np.float32), least=0.5, k=0)
    with pytest.raises(DatasetError, match="NaN"):
        similar_pairs(np.full((3, 4), np.nan, np.float32), least=0.5)
    assert len(similar_pairs(np.zeros((0, 4), np.float32), least=0.5).first) == 0


def test_a_chain_falls_into_stars() -> None:
    chain = [(i, i + 1) for i in range(9)]
    groups = star_groups(list(range(10)), chain)
    assert groups == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    links = {frozenset(pair) for pair in chain}
    assert all(frozenset((group[0], other)) in links for group in groups for other in group[1:])


def test_the_best_is_the_centre_and_missing_links_are_asked_for() -> None:
    asked: list[tuple[int, list[int]]] = []

    def linked(centre: int, others: list[int]) -> list[bool]:
        asked.append((centre, list(others)))
        return [other != 4 for other in others]

    # 2 is best; 3 and 4 are two links away, 5 is three.
    assert star_groups([2, 1, 3, 4, 5], [(2, 1), (1, 3), (1, 4), (4, 5)], linked) == [[2, 1, 3], [4, 5]]
    assert asked == [(2, [3, 4])]


def test_mirrored_points_are_those_of_the_mirror_image(tmp_path) -> None:
    make_synthetic(tmp_path / "set", objects=1, distractors=0, train_objects=0)
    picture = load_picture(next((tmp_path / "set" / "gallery").rglob("*.jpg"))).array
    own = local_features(picture)
    mirror = local_features(np.ascontiguousarray(picture[:, ::-1]))
    upright, flipped = verify(own, [mirror])[0], verify(mirrored(own), [mirror])[0]
    assert flipped.inliers > 0.8 * len(own.points) > 10 * upright.inliers
    np.testing.assert_allclose(
        flipped.homography / flipped.homography[2, 2], np.eye(3), atol=1
    )  # in pixels; SIFT itself is off by half of one

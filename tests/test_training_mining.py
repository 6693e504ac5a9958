"""Draws of an epoch, and mined tuples against a plain search through everything."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import DatasetError, UsageError
from retrieval.ranking.neighbours import rounding_bound
from retrieval.training.data import mining
from retrieval.training.data.enough import require_clusters
from retrieval.training.data.mining import EpochDraw, draw_epoch, mine
from retrieval.training.data.training_set import TrainingSet


def made(clusters, pairs=(), two_views: bool = False) -> TrainingSet:
    paths = tuple(Path(f"{i}.jpg") for i in range(len(clusters)))
    table = np.array(list(pairs), np.int64).reshape(-1, 2)
    return TrainingSet("made", paths, np.array(clusters, np.int64), table, two_views)


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal(shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


# -- the draw ----------------------------------------------------------------------------------------------------------


def test_a_draw_depends_on_seed_and_epoch_alone() -> None:
    data = made(np.arange(400) // 4)

    def draw(seed: int, epoch: int) -> EpochDraw:
        np.random.seed(epoch + 17)  # of no account
        return draw_epoch(data, queries=50, pool=100, seed=seed, epoch=epoch)

    first, again = draw(3, 5), draw(3, 5)
    np.testing.assert_array_equal(first.pairs, again.pairs)
    np.testing.assert_array_equal(first.pool, again.pool)
    for other in (draw(3, 6), draw(4, 5), draw(5, 3)):
        assert not np.array_equal(first.pairs, other.pairs)
        assert not np.array_equal(first.pool, other.pool)


@given(st.lists(st.integers(-1, 6), min_size=2, max_size=40), st.integers(1, 50), st.integers(1, 50), st.integers(0, 9))
def test_drawn_pairs_match_and_repeat_nothing(clusters: list[int], queries: int, pool: int, seed: int) -> None:
    data = made(clusters)
    sizes = Counter(c for c in clusters if c >= 0)
    askable = [i for i, c in enumerate(clusters) if sizes[c] > 1]
    if not askable:
        with pytest.raises(DatasetError, match="no two pictures match"):
            draw_epoch(data, queries=queries, pool=pool, seed=seed, epoch=0)
        return
    draw = draw_epoch(data, queries=queries, pool=pool, seed=seed, epoch=0)
    assert draw.pairs.dtype == draw.pool.dtype == np.int64
    assert len(draw.pairs) == min(queries, len(askable))
    assert len(set(draw.pairs[:, 0])) == len(draw.pairs)
    for query, positive in draw.pairs:
        assert query != positive
        assert clusters[query] == clusters[positive] >= 0
    assert len(set(draw.pool)) == min(pool, len(clusters))
    assert (np.diff(draw.pool) > 0).all()
    assert bool(draw.notes) == (queries > len(askable))


def test_each_match_is_drawn_as_often_as_any_other() -> None:
    data = made([5, 2, 5, -1, 2, 5, 5])
    seen = Counter()
    for epoch in range(3000):
        seen.update(tuple(pair) for pair in draw_epoch(data, queries=2, pool=1, seed=1, epoch=epoch).pairs.tolist())
    five, two = (0, 2, 5, 6), (1, 4)
    expected = {(a, b): 1000 / (len(g) - 1) for g in (five, two) for a in g for b in g if a != b}
    assert set(seen) == set(expected)  # 6000 draws of 6 pictures that can be asked for
    for pair, count in expected.items():
        assert abs(seen[pair] - count) < 5 * count**0.5, pair


def test_fixed_pairs_are_drawn_as_they_are() -> None:
    pairs = [(0, 1), (2, 3), (4, 5), (0, 2)]
    data = made([0, 0, 0, 0, 1, 1, 1], pairs)
    draw = draw_epoch(data, queries=3, pool=4, seed=0, epoch=0)
    assert len(draw.pairs) == 3
    assert {tuple(pair) for pair in draw.pairs.tolist()} < set(pairs)
    everything = draw_epoch(data, queries=9, pool=99, seed=0, epoch=0)
    assert sorted(map(tuple, everything.pairs.tolist())) == sorted(pairs)
    assert everything.pool.tolist() == list(range(7))
    assert "4 queries an epoch, not 9" in everything.notes[0]


def test_a_picture_is_its_own_positive_where_views_are_made() -> None:
    draw = draw_epoch(made(range(20), two_views=True), queries=8, pool=5, seed=0, epoch=0)
    assert (draw.pairs[:, 0] == draw.pairs[:, 1]).all()
    assert len(set(draw.pairs[:, 0])) == 8


def test_draws_of_nothing_are_refused() -> None:
    for wrong in ({"queries": 0}, {"pool": 0}, {"epoch": -1}, {"seed": -1}):
        with pytest.raises(UsageError, match="cannot draw"):
            draw_epoch(made([0, 0, 1]), **{"queries": 1, "pool": 1, "seed": 0, "epoch": 0, **wrong})


# -- the hardest negatives ---------------------------------------------------------------------------------------------


def exact_dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.add.reduce(a.astype(np.float64) * b.astype(np.float64)))


def by_search(data, pair, pool, query, vectors, negatives: int) -> tuple[int, ...] | None:
    """One query at a time, everything sorted, first come first taken."""
    fine = [row for row in range(len(pool)) if np.isfinite(vectors[row]).all()]
    ranked = sorted(fine, key=lambda row: (-exact_dot(query, vectors[row]), pool[row]))
    forbidden = {data.clusters[p] for p in pair if data.clusters[p] >= 0}
    used, found = set(), []
    for row in ranked:
        cluster = data.clusters[pool[row]]
        if pool[row] in pair or cluster in forbidden or cluster in used:
            continue
        if cluster >= 0:
            used.add(cluster)
        found.append(int(pool[row]))
        if len(found) == negatives:
            return tuple(found)
    return None


@st.composite
def problems(draw):
    count = draw(st.integers(4, 40))
    clusters = draw(st.lists(st.integers(-1, 8), min_size=count, max_size=count))
    seed, dim = draw(st.integers(0, 10**6)), draw(st.integers(1, 6))
    rng = np.random.default_rng(seed)
    if draw(st.booleans()):  # many ties
        vectors = rng.integers(-1, 2, (count, dim)).astype(np.float32)
    else:
        vectors = unit(rng, count, dim)
        vectors[rng.integers(count, size=count // 3)] = vectors[0]  # copies
    if draw(st.booleans()):
        vectors[rng.integers(count)] = np.nan
    fixed = draw(st.booleans())
    pairs = [(int(a), int(b)) for a, b in rng.integers(count, size=(5, 2)) if a != b] if fixed else []
    return made(clusters, pairs), vectors, seed, draw(st.integers(1, 5)), draw(st.sampled_from([3, 17, 1 << 24]))


@settings(max_examples=200, deadline=None)
@given(problems())
def test_mined_tuples_are_those_of_a_plain_search(problem) -> None:
    data, vectors, seed, negatives, block = problem
    try:
        draw = draw_epoch(data, queries=12, pool=max(2, len(data) - 3), seed=seed, epoch=1)
    except DatasetError:
        return
    queries, pool = vectors[draw.pairs[:, 0]], vectors[draw.pool]
    asked = [(pair, q) for pair, q in zip(draw.pairs.tolist(), queries, strict=True) if np.isfinite(q).all()]
    expected = [by_search(data, pair, draw.pool.tolist(), query, pool, negatives) for pair, query in asked]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mining, "_SCORES_AT_ONCE", block)
        if not asked:
            with pytest.raises(DatasetError, match=r"none of .* queries can be described"):
                mine(data, draw, queries, pool, negatives=negatives)
            return
        if None in expected:
            with pytest.raises(UsageError, match="beside the query's, too few"):
                mine(data, draw, queries, pool, negatives=negatives)
            return
        mined = mine(data, draw, queries, pool, negatives=negatives)
    assert [(t.query, t.positive) for t in mined.tuples] == [tuple(pair) for pair, _ in asked]
    assert [t.negatives for t in mined.tuples] == expected
    row = {int(picture): i for i, picture in enumerate(draw.pool)}
    apart = [
        np.linalg.norm(query.astype(float) - pool[row[n]].astype(float))
        for (_, query), found in zip(asked, expected, strict=True)
        for n in found
    ]
    assert mined.negative_distance == pytest.approx(np.mean(apart), abs=1e-9)
    assert any("left out" in note for note in mined.notes) == (len(asked) < len(draw.pairs))


def test_larger_descriptors_in_many_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    data = made(rng.integers(-1, 40, 500))
    vectors = unit(rng, 500, 256)
    vectors[100:150] = vectors[200:250]
    draw = draw_epoch(data, queries=80, pool=400, seed=0, epoch=0)
    whole = mine(data, draw, vectors[draw.pairs[:, 0]], vectors[draw.pool], negatives=5)
    monkeypatch.setattr(mining, "_SCORES_AT_ONCE", 400 * 7)
    blocks = mine(data, draw, vectors[draw.pairs[:, 0]], vectors[draw.pool], negatives=5)
    assert whole.tuples == blocks.tuples
    for found in whole.tuples:
        pair = (found.query, found.positive)
        pool = draw.pool.tolist()
        assert found.negatives == by_search(data, pair, pool, vectors[found.query], vectors[draw.pool], 5)
    assert np.isnan(whole.positive_distance)


def test_rounding_of_the_products_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    data = made(np.arange(300) // 3)
    vectors = unit(rng, 20, 64)[rng.integers(20, size=300)]  # many copies
    vectors += rng.standard_normal(vectors.shape).astype(np.float32) * 1e-8  # and next to copies
    draw = draw_epoch(data, queries=60, pool=300, seed=0, epoch=0)
    plain = mine(data, draw, vectors[draw.pairs[:, 0]], vectors[draw.pool], negatives=5)
    scores_of = mining._Miner.scores

    def rounded(self, queries):
        scores = scores_of(self, queries).astype(np.float64)
        scores += rng.uniform(-1, 1, scores.shape) * rounding_bound(64) * 0.9
        return scores.astype(np.float32)

    monkeypatch.setattr(mining._Miner, "scores", rounded)
    assert mine(data, draw, vectors[draw.pairs[:, 0]], vectors[draw.pool], negatives=5).tuples == plain.tuples


def test_a_collapsed_network_still_gives_tuples_by_position() -> None:
    data = made(np.arange(90) // 3)
    same = np.ones((90, 16), np.float32) / 4
    draw = draw_epoch(data, queries=10, pool=90, seed=0, epoch=0)
    mined = mine(data, draw, same[:10], same, negatives=3)
    for found in mined.tuples:
        assert list(found.negatives) == [3 * c for c in range(30) if c != found.query // 3][:3]
    assert mined.negative_distance == 0


def test_positives_distance_and_pictures_that_cannot_be_described() -> None:
    rng = np.random.default_rng(1)
    data = made([0, 0, 1, 1, 2, 2, 3, 3])
    vectors = unit(rng, 8, 5)
    draw = EpochDraw(np.array([[0, 1], [2, 3], [4, 5]]), np.arange(8))
    positives = vectors[[1, 3, 5]].copy()
    mined = mine(data, draw, vectors[[0, 2, 4]], vectors, negatives=2, positive_descriptors=positives)
    expected = np.mean([np.linalg.norm(vectors[a] - vectors[b]) for a, b in draw.pairs])
    assert mined.positive_distance == pytest.approx(expected, abs=1e-6)
    assert mined.notes == []
    positives[1] = np.nan
    pool = vectors.copy()
    pool[[6, 7]] = np.nan
    mined = mine(data, draw, vectors[[0, 2, 4]], pool, negatives=2, positive_descriptors=positives)
    assert [found.query for found in mined.tuples] == [0, 4]
    assert not {6, 7} & {n for found in mined.tuples for n in found.negatives}
    assert len(mined.notes) == 2
    assert mined.notes[0].startswith("1 of 3 tuples are left out")
    assert mined.notes[1].startswith("2 of 8 pictures of the pool")


@settings(max_examples=80, deadline=None)
@given(problems(), st.booleans())
def test_positives_picked_again_are_the_nearest_matches(problem, known: bool) -> None:
    data, vectors, seed, _, _ = problem
    try:
        draw = draw_epoch(data, queries=12, pool=max(2, len(data) - 3), seed=seed, epoch=1)
        mined = mine(
            data,
            draw,
            vectors[draw.pairs[:, 0]],
            vectors[draw.pool],
            negatives=1,
            positive_descriptors=vectors[draw.pairs[:, 1]] if known else None,
            repick_positives=True,
        )
    except (DatasetError, UsageError):
        return
    drawn = {(int(q), int(p)) for q, p in draw.pairs}
    replaced = 0
    for found in mined.tuples:
        own = [p for q, p in drawn if q == found.query]
        if len(data.pairs):
            matches = [int(p) for q, p in data.pairs if q == found.query]
        else:
            matches = [i for i, c in enumerate(data.clusters) if c == data.clusters[found.query] and i != found.query]
        matches = [i for i in matches if i in draw.pool and np.isfinite(vectors[i]).all()]
        scores = {i: exact_dot(vectors[found.query], vectors[i]) for i in matches}
        if known:
            scores |= {p: exact_dot(vectors[found.query], vectors[p]) for p in own}
        if found.positive in own:  # kept: nothing is nearer, or nothing is in the pool
            assert not known or len(own) > 1 or max(scores.values()) <= scores[found.positive]
            assert known or not matches or found.positive in matches
        else:
            replaced += 1
            assert scores[found.positive] == max(scores.values())
            assert found.positive == min(i for i in matches if scores[i] == max(scores.values()))
        assert found.positive not in found.negatives
    assert len({t.query for t in mined.tuples}) < len(mined.tuples) or mined.notes[-1].startswith(f"{replaced} of")


def test_the_other_view_is_never_replaced() -> None:
    data = made(range(10), two_views=True)
    vectors = unit(np.random.default_rng(2), 10, 4)
    draw = draw_epoch(data, queries=10, pool=10, seed=0, epoch=0)
    mined = mine(data, draw, vectors[draw.pairs[:, 0]], vectors[draw.pool], negatives=3, repick_positives=True)
    for found in mined.tuples:
        assert found.query == found.positive
        others = sorted((i for i in range(10) if i != found.query), key=lambda i: -(vectors[i] @ vectors[found.query]))
        assert list(found.negatives) == others[:3]


# -- what cannot be mined ----------------------------------------------------------------------------------------------


def test_too_few_clusters_are_told_before_and_during_mining() -> None:
    data = made([0, 0, 0, 1, 1, 2])
    require_clusters(data, 2)
    with pytest.raises(
        UsageError,
        match=r"made has 2 other clusters .*for 3 negatives, one of each\. Name --negatives 2, or take",
    ):
        require_clusters(data, 3)
    with pytest.raises(UsageError, match="at least 1 negative"):
        require_clusters(data, 0)
    require_clusters(made([0, 0, -1, -1, -1]), 3)
    with pytest.raises(UsageError, match=r"0 other clusters.*Take more data"):
        require_clusters(made([0, 0]), 1)
    draw = EpochDraw(np.array([[0, 1]]), np.array([1, 2, 3, 4]))
    vectors = unit(np.random.default_rng(0), 6, 3)
    with pytest.raises(UsageError, match=r"pool of 4 pictures holds 1 cluster beside the query's.*larger --pool"):
        mine(data, draw, vectors[:1], vectors[1:5], negatives=2)


def test_too_few_classes_are_told_with_what_was_held_out() -> None:
    whole = replace(made([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]), cluster_names=tuple("abcdef"))
    held = np.repeat([False, False, False, False, True, True], 2)
    left, out = whole.subset(~held), whole.subset(held)
    require_clusters(left, 3, out)
    with pytest.raises(UsageError) as four:
        require_clusters(left, 5, out)
    assert str(four.value) == (
        "made has 3 other classes for a query: too few for 5 negatives, one of each (4 of 6 classes are left, 2 are held out "
        "for validation). Name --negatives 3, or --validate none, or take more data."
    )
    with pytest.raises(
        UsageError, match=r"Name --negatives 3, or --validate none with --negatives 5, or take more data"
    ):
        require_clusters(left, 9, out)
    require_clusters(whole, 5)  # as it says


def test_descriptors_that_do_not_fit_are_refused() -> None:
    data = made([0, 0, 1, 1])
    draw = EpochDraw(np.array([[0, 1], [2, 3]]), np.arange(4))
    fine = unit(np.random.default_rng(0), 4, 3)
    for queries, pool, positives, what in (
        (fine[:1], fine, None, "queries"),
        (fine[:2], fine[:3], None, "the pool"),
        (fine[:2, :2], fine, None, "queries"),
        (fine[:2], fine, fine, "positives"),
    ):
        with pytest.raises(UsageError, match=f"descriptors of {what}"):
            mine(data, draw, queries, pool, negatives=1, positive_descriptors=positives)
    with pytest.raises(UsageError, match="at least 1 negative"):
        mine(data, draw, fine[:2], fine, negatives=0)
    with pytest.raises(UsageError, match="another set than made"):
        mine(data, EpochDraw(draw.pairs, np.arange(1, 5)), fine[:2], fine, negatives=1)

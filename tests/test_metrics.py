"""Metrics, protocols and statistics against hand-computed values, the benchmark's own evaluator and brute force."""

from __future__ import annotations

import itertools
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.errors import DatasetError, UsageError
from retrieval.evaluation.counting import positive_ranks_from_scores
from retrieval.evaluation.metrics import (
    average_precision,
    mean_over_queries,
    precision_at,
    ranks_without_junk,
    recall_at,
)
from retrieval.evaluation.protocol import (
    ORIGINAL,
    Labels,
    evaluate_positions,
    evaluate_rankings,
    evaluate_vectors,
)
from retrieval.evaluation.statistics import bootstrap_interval, compare

# ---------------------------------------------------------------- one query


@pytest.mark.parametrize(
    ("ranks", "n", "expected"),
    [
        ([0], 1, 1.0),
        ([1], 1, 0.25),
        ([9], 1, 0.05),
        ([0, 2, 5], 3, 0.677777777778),
        ([1, 3], 2, 0.333333333333),
        ([0, 2], 3, 0.527777777778),
        ([0, 2, 5], 5, 0.406666666667),
        ([], 4, 0.0),
    ],
)
def test_average_precision_is_trapezoidal_over_the_ground_truths_positives(ranks, n, expected):
    assert average_precision(ranks, n) == pytest.approx(expected, abs=1e-12)
    assert average_precision(ranks[::-1], n) == average_precision(ranks, n)


def test_junk_is_removed_and_precision_is_cut_at_the_last_positive():
    ranking = [7, 3, 9, 1, 5, 0, 2, 4, 6, 8]
    positives = [ranking.index(i) for i in (2, 3, 5)]
    junk = [ranking.index(i) for i in (1, 7)]
    assert sorted(positives) == [1, 4, 6]
    ranks = ranks_without_junk(positives, junk)
    assert ranks.tolist() == [0, 2, 4]
    assert average_precision(ranks, 3) == pytest.approx(0.711111111111, abs=1e-12)
    assert average_precision(sorted(positives), 3) == pytest.approx(0.318650793651, abs=1e-12)
    assert [precision_at(ranks, k) for k in (1, 5, 10)] == pytest.approx([1.0, 0.6, 0.6])
    assert [recall_at(ranks, k, 3) for k in (1, 3, 5)] == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_precision_with_all_positives_first_and_with_missing_ones():
    assert precision_at([0, 1, 2], 10) == 1.0
    assert precision_at([0, 1, 2], 10, n_positive=3) == 1.0
    assert precision_at([0, 1, 2], 10, n_positive=4) == pytest.approx(0.3)  # the fourth lies beyond the tenth
    assert precision_at([], 5, n_positive=2) == 0.0
    assert precision_at([7], 5) == 0.0


def test_queries_without_positives_have_no_score_and_are_left_out():
    assert all(
        math.isnan(v)
        for v in (average_precision([], 0), precision_at([], 5), precision_at([], 5, 0), recall_at([], 5, 0))
    )
    assert mean_over_queries([0.5, float("nan"), 1.0]) == 0.75
    assert math.isnan(mean_over_queries([float("nan")]))
    assert math.isnan(mean_over_queries([]))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: average_precision([0, 0], 2),
        lambda: average_precision([-1], 1),
        lambda: average_precision([0, 1], 1),
        lambda: average_precision([0.5], 1),
        lambda: average_precision(np.zeros((2, 2), int), 4),
        lambda: precision_at([0], 0),
        lambda: recall_at([0], 0, 1),
        lambda: ranks_without_junk([1, 2], [2]),
    ],
)
def test_impossible_ranks_are_refused(wrong):
    with pytest.raises(UsageError):
        wrong()


# ---------------------------------------------------------------- the benchmark's own figures


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["roxford5k", "rparis6k"])
def test_equal_to_the_benchmarks_evaluator(name, shared_data: Path):
    folder = shared_data / "revisited" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    ranks = np.load(folder / "oracle_ranks.npz")["ranks"].astype(np.int64)
    oracle = json.loads((folder / "oracle_scores.json").read_text())["protocols"]
    truth = pickle.loads((folder / f"gnd_{name}.pkl").read_bytes())["gnd"]
    labels = [Labels(q["easy"], q["hard"], q["junk"]) for q in truth]
    size, queries = ranks.shape

    # Descriptors that give these rankings: one dimension a query, whose value falls with the rank.
    places = np.empty_like(ranks)
    np.put_along_axis(places, ranks, np.arange(size)[:, None], axis=0)
    by_vectors = evaluate_vectors(np.eye(queries), (size - places).astype(np.float32), labels, block=1000)
    by_rankings = evaluate_rankings(list(ranks.T), labels, size)
    assert set(by_rankings) == set(oracle) == {"easy", "medium", "hard"}
    for results in (by_rankings, by_vectors):
        for protocol, expected in oracle.items():
            figures = results[protocol].to_dict()
            for metric in ("mAP", "mP@1", "mP@5", "mP@10"):
                assert figures[metric] == pytest.approx(expected[metric], abs=1e-9)
            assert [ap is None for ap in figures["AP"]] == [ap is None for ap in expected["AP"]]
            np.testing.assert_allclose(
                np.array(figures["AP"], float), np.array(expected["AP"], float), rtol=0, atol=1e-9
            )
    assert by_rankings["easy"].queries == (68 if name == "roxford5k" else 70)


# ---------------------------------------------------------------- rankings


LABELS = [Labels([3], [0], [7]), Labels([], [5, 1], [])]
FULL = [[7, 3, 2, 1, 0, 4, 5, 6], [1, 0, 5, 2, 3, 4, 6, 7]]


def test_protocols_by_hand():
    results = evaluate_rankings(FULL, LABELS, 8)
    # Query 0 without 7: [3, 2, 1, 0, ...]; easy also without 0, hard also without 3.
    easy, medium, hard = (results[p].average_precisions for p in ("easy", "medium", "hard"))
    assert easy[0] == 1.0
    assert math.isnan(easy[1])
    assert medium == pytest.approx([(1 + (1 / 3 + 2 / 4) / 2) / 2, (1 + (1 / 2 + 2 / 3) / 2) / 2])
    assert hard == pytest.approx([(0 + 1 / 3) / 2, medium[1]])
    assert results["easy"].mean_average_precision == 1.0
    assert results["easy"].queries == 1
    assert results["medium"].mean_recall_at(1) == 0.5
    assert results["hard"].mean_precision_at(5) == pytest.approx((1 / 3 + 2 / 3) / 2)
    form = results["easy"].to_dict()
    assert form["AP"] == [1.0, None]
    assert json.loads(json.dumps(form, allow_nan=False))["queries"] == 1
    original = evaluate_rankings(FULL, LABELS, 8, protocols=ORIGINAL)
    assert original["original"].average_precisions.tolist() == medium.tolist()


def test_truncated_rankings_count_the_missing_as_missed():
    short = [r[:3] for r in FULL]
    with pytest.raises(DatasetError, match="declare them truncated"):
        evaluate_rankings(short, LABELS, 8)
    results = evaluate_rankings(short, LABELS, 8, truncated=True)
    # Query 0: 3 at rank 0 of two right answers; query 1: both within three.
    assert results["medium"].average_precisions == pytest.approx([0.5, (1 + (1 / 2 + 2 / 3) / 2) / 2])
    assert results["medium"].precisions[10] == pytest.approx([0.1, 2 / 3])
    assert results["medium"].recalls[10] == pytest.approx([0.5, 1.0])
    assert results["hard"].average_precisions[0] == 0.0
    same = evaluate_rankings([[1], [2]], [Labels([1], [], [])] * 2, 8, truncated=True)
    assert same["easy"].average_precisions.tolist() == [1.0, 0.0]  # what one query found, another has not
    empty = evaluate_rankings([[], []], LABELS, 8, truncated=True)["medium"]
    assert empty.average_precisions.tolist() == [0.0, 0.0]
    whole = evaluate_rankings(FULL, LABELS, 8, truncated=True)
    assert whole["medium"].to_dict() == evaluate_rankings(FULL, LABELS, 8)["medium"].to_dict()


@pytest.mark.parametrize("truncated", [False, True])
@pytest.mark.parametrize("wrong", [8, -1, 7])
def test_rankings_with_wrong_ids_are_refused(wrong, truncated):
    ranking = [*FULL[0][:-1], wrong]  # out of range, or 7 again
    with pytest.raises(DatasetError, match="query 0"):
        evaluate_rankings([ranking, FULL[1]], LABELS, 8, truncated=truncated)


def test_contradicting_labels_and_shapes_are_refused():
    with pytest.raises(DatasetError, match="labelled more than once"):
        evaluate_rankings(FULL, [LABELS[0], Labels([5], [5], [])], 8)
    with pytest.raises(DatasetError, match="labelled image 8"):
        evaluate_rankings(FULL, [LABELS[0], Labels([8], [], [])], 8)
    with pytest.raises(UsageError):
        evaluate_rankings(FULL[:1], LABELS, 8)
    with pytest.raises(UsageError):
        evaluate_rankings([np.array(FULL[0]) + 0.5, FULL[1]], LABELS, 8)
    with pytest.raises(DatasetError, match="labelled more than once"):
        evaluate_vectors(np.eye(2), np.zeros((8, 2)), [LABELS[0], Labels([5], [], [5])])


# ---------------------------------------------------------------- three routes


def naive(queries, gallery, labels, protocol, ks):
    """The definitions, step by step: sort, strike out junk, walk down the list."""
    right, passed = {
        "easy": (lambda q: q.easy, lambda q: (*q.junk, *q.hard)),
        "medium": (lambda q: (*q.easy, *q.hard), lambda q: q.junk),
        "hard": (lambda q: q.hard, lambda q: (*q.junk, *q.easy)),
    }[protocol]
    aps, precisions = [], []
    for vector, query in zip(queries, labels, strict=True):
        score = [math.fsum(float(a) * float(b) for a, b in zip(vector, row, strict=True)) for row in gallery]
        order = sorted(range(len(gallery)), key=lambda i, s=score: (-s[i], i))
        positives = set(right(query))
        order = [i for i in order if i not in set(passed(query))]
        if not positives:
            aps.append(math.nan)
            precisions.append([math.nan] * len(ks))
            continue
        found, area, previous, last = 0, 0.0, 1.0, 0
        for place, image in enumerate(order, 1):
            if image in positives:
                found, last = found + 1, place
                area += (previous + found / place) / 2 / len(positives)
            previous = found / place
        aps.append(area)
        cuts = [min(k, last) for k in ks]
        precisions.append([sum(i in positives for i in order[:c]) / c for c in cuts])
    return np.array(aps), np.array(precisions)


@st.composite
def problems(draw):
    size, dim, count = draw(st.integers(1, 24)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    values = st.integers(-2, 2)
    gallery = draw(st.lists(st.lists(values, min_size=dim, max_size=dim), min_size=size, max_size=size))
    queries = draw(st.lists(st.lists(values, min_size=dim, max_size=dim), min_size=count, max_size=count))
    kinds = st.lists(st.integers(0, 4), min_size=size, max_size=size)
    labels = []
    for _ in range(count):
        kind = np.array(draw(kinds))
        labels.append(Labels(*(np.flatnonzero(kind == k) for k in range(3))))
    return np.array(queries), np.array(gallery), labels, draw(st.integers(1, size + 1))


@settings(max_examples=150, deadline=None)
@given(problems())
def test_rankings_scores_and_the_naive_sort_agree_with_ties_and_junk(problem):
    queries, gallery, labels, block = problem
    queries, gallery = queries / 4, gallery / 8
    ks = (1, 3, 10)
    rankings = [np.lexsort((np.arange(len(gallery)), -(gallery @ q))) for q in queries]
    by_rankings = evaluate_rankings(rankings, labels, len(gallery), ks=ks)
    by_vectors = evaluate_vectors(queries, gallery.astype(np.float16), labels, ks=ks, block=block)
    for protocol in ("easy", "medium", "hard"):
        assert by_rankings[protocol].to_dict() == by_vectors[protocol].to_dict()
        aps, precisions = naive(queries, gallery, labels, protocol, ks)
        np.testing.assert_allclose(by_vectors[protocol].average_precisions, aps, atol=1e-12)
        for j, k in enumerate(ks):
            np.testing.assert_allclose(by_vectors[protocol].precisions[k], precisions[:, j], atol=1e-12)


def exact_ranks(query, gallery, ids):
    scores = np.array(
        [math.fsum(p) for p in gallery.astype(np.float32).astype(float) * query.astype(np.float32).astype(float)]
    )
    place = np.empty(len(gallery), int)
    place[np.lexsort((np.arange(len(gallery)), -scores))] = np.arange(len(gallery))
    return place[ids]


def unit(rng, *shape):
    x = rng.standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("block", [None, 1, 7, 100, 333])
def test_copies_tie_exactly_wherever_they_are_stored(block, tmp_path):
    rng = np.random.default_rng(1)
    gallery = np.abs(unit(rng, 1000, 67)).astype(np.float16)
    copies = rng.permutation(1000)[:300].reshape(6, 50)
    for group in copies:
        gallery[group] = gallery[group[0]]
    stored = np.memmap(tmp_path / "vectors.f16", np.float16, "w+", shape=gallery.shape)
    stored[:] = gallery
    queries = np.concatenate([np.abs(unit(rng, 3, 67)), gallery[copies[:2, 0]]]).astype(np.float32)
    chosen = [rng.permutation(1000)[:60] for _ in queries]
    chosen[0] = copies[0]
    positives, junk = [c[:40] for c in chosen], [c[40:] for c in chosen]
    right_at, junk_at = positive_ranks_from_scores(queries, stored, positives, junk, block)
    for i, query in enumerate(queries):
        assert right_at[i].tolist() == exact_ranks(query, gallery, positives[i]).tolist()
        assert junk_at[i].tolist() == exact_ranks(query, gallery, junk[i]).tolist()


def test_scores_closer_than_float32_can_tell_are_ordered_exactly():
    rng = np.random.default_rng(2)
    query = unit(rng, 1, 512).astype(np.float32)
    # Steps of about 1e-9 around one vector: float32 products of 512 terms err by a hundred times as much.
    gallery = (query + 1e-6 * unit(rng, 2000, 512)).astype(np.float32)
    gallery[:1000] *= np.float32(1e-3)  # in the first blocks, rounding errors are a thousand times smaller
    ids = rng.permutation(2000)[:300]
    right_at, _ = positive_ranks_from_scores(query, gallery, [ids], [[]], 50)
    assert right_at[0].tolist() == exact_ranks(query[0], gallery, ids).tolist()
    by_float32 = np.empty(2000, int)
    by_float32[np.argsort(-(gallery @ query[0]), kind="stable")] = np.arange(2000)
    assert right_at[0].tolist() != by_float32[ids].tolist()


@pytest.mark.parametrize("dim", [64, 512, 2048])
def test_constant_vectors_whose_rounding_errors_add_up_still_tie(dim):
    rng = np.random.default_rng(3)
    values = rng.uniform(0.01, 1.0, 40).astype(np.float32)
    gallery = np.repeat(values, 25)[:, None] * np.ones((1, dim), np.float32)
    gallery = gallery[rng.permutation(1000)] / np.float32(math.sqrt(dim))
    query = np.full((1, dim), 0.77 / math.sqrt(dim), np.float32)
    ids = np.arange(0, 1000, 3)
    right_at, _ = positive_ranks_from_scores(query, gallery, [ids], [[]], 77)
    assert right_at[0].tolist() == exact_ranks(query[0], gallery, ids).tolist()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("seed", range(40))
def test_ranks_are_right_where_whole_blocks_are_zero_or_very_short(seed):
    """Bars of long vectors are far beyond what such a block reaches."""
    rng = np.random.default_rng(seed)
    dim, size = rng.integers(1, 6), rng.integers(2, 30)
    gallery = rng.normal(size=(size, dim)) * 10.0 ** rng.integers(-15, 2, (size, 1))
    gallery[rng.random(size) < 0.4] = 0
    gallery, query = gallery.astype(np.float32), rng.normal(size=(1, dim)).astype(np.float32)
    ids = rng.choice(size, 1)  # a single bar makes the narrowest cells
    scores = np.array([math.fsum(map(float, q)) for q in gallery.astype(np.float64) * query.astype(np.float64)])
    order = np.lexsort((np.arange(size), -scores))
    for block in (1, 2, 5):
        right_at, _ = positive_ranks_from_scores(query, gallery, [ids], [[]], block)
        np.testing.assert_array_equal(right_at[0], np.argsort(order)[ids])


def test_lengths_from_tiny_to_huge_and_zero_vectors():
    rng = np.random.default_rng(4)
    gallery = (unit(rng, 600, 16) * 10.0 ** rng.uniform(-12, 8, (600, 1))).astype(np.float32)
    gallery[::50] = 0
    queries = np.concatenate([np.zeros((1, 16)), unit(rng, 2, 16) * 1e5, unit(rng, 1, 16) * 1e-9]).astype(np.float32)
    ids = [rng.permutation(600)[:200] for _ in queries]
    right_at, _ = positive_ranks_from_scores(queries, gallery, ids, [[]] * 4, 50)
    for i, query in enumerate(queries):
        assert right_at[i].tolist() == exact_ranks(query, gallery, ids[i]).tolist()
    assert right_at[0].tolist() == ids[0].tolist()  # all scores 0: by id


def test_many_queries_and_queries_without_labels():
    rng = np.random.default_rng(5)
    gallery, queries = unit(rng, 90, 8), unit(rng, 300, 8)  # more than are taken at once
    ids = [rng.permutation(90)[: i % 4] for i in range(300)]
    right_at, junk_at = positive_ranks_from_scores(queries, gallery, ids, [[]] * 300)
    assert all(len(j) == 0 for j in junk_at)
    for i in range(0, 300, 7):
        assert right_at[i].tolist() == exact_ranks(queries[i], gallery, ids[i]).tolist()


def test_wrong_descriptors_name_the_row():
    rng = np.random.default_rng(6)
    gallery, queries = unit(rng, 100, 8), unit(rng, 2, 8)
    for value in (np.nan, np.inf, -np.inf):
        broken = gallery.copy()
        broken[57, 3] = value
        with pytest.raises(DatasetError, match="gallery descriptor 57 "):
            positive_ranks_from_scores(queries, broken, [[1], [2]], [[], []], 10)
        with pytest.raises(DatasetError, match="query descriptor 1 "):
            positive_ranks_from_scores(np.stack([queries[0], broken[57]]), gallery, [[1], [2]], [[], []])
    for wrong in (queries[:, :7], queries[0]):
        with pytest.raises(UsageError, match="do not fit"):
            positive_ranks_from_scores(wrong, gallery, [[1], [2]], [[], []])
    with pytest.raises(UsageError):
        positive_ranks_from_scores(queries, gallery, [[1]], [[]])
    with pytest.raises(UsageError):
        positive_ranks_from_scores(queries, gallery[:0], [[], []], [[], []])
    with pytest.raises(UsageError):
        positive_ranks_from_scores(queries, gallery, [[1], [2]], [[], []], block=0)
    for wrong_ids in ([100], [-1], [3, 3]):
        with pytest.raises(DatasetError, match="query 1"):
            positive_ranks_from_scores(queries, gallery, [[1], wrong_ids], [[], []])
    with pytest.raises(DatasetError):
        positive_ranks_from_scores(queries, gallery, [[1], [4]], [[], [4]])


def test_positions_with_none_found():
    results = evaluate_positions([Labels(np.array([-1]), np.array([0]), np.array([-1]))])
    assert results["medium"].average_precisions.tolist() == [0.5]
    assert results["easy"].average_precisions.tolist() == [0.0]


# ---------------------------------------------------------------- statistics


def test_bootstrap_of_two_values_by_hand():
    # Means of two draws from {0, 1}: 0 with probability 1/4, 1/2 with 1/2, 1 with 1/4.
    interval = bootstrap_interval([0.0, float("nan"), 1.0])
    assert (interval.mean, interval.low, interval.high, interval.queries) == (0.5, 0.0, 1.0, 2)
    narrow = bootstrap_interval([0.0, 1.0], level=0.4)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_bootstrap_of_many_values_nears_the_normal_interval():
    values = np.random.default_rng(0).exponential(size=2000)
    interval = bootstrap_interval(values, resamples=4000, seed=3)
    half = 1.96 * values.std() / math.sqrt(2000)
    assert interval.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert interval == bootstrap_interval(values, resamples=4000, seed=3)
    assert interval != bootstrap_interval(values, resamples=4000, seed=4)
    wider = bootstrap_interval(values, level=0.99, resamples=4000)
    assert wider.low < interval.low
    assert wider.high > interval.high


def test_intervals_without_values_and_wrong_arguments():
    nothing = bootstrap_interval([float("nan")])
    assert nothing.queries == 0
    assert math.isnan(nothing.mean)
    assert math.isnan(nothing.low)
    for wrong in ({"level": 1.0}, {"level": 0.0}, {"resamples": 0}):
        with pytest.raises(UsageError):
            bootstrap_interval([1.0], **wrong)
    with pytest.raises(UsageError):
        bootstrap_interval(np.zeros((2, 2)))


def test_comparison_counts_and_tests_exactly():
    a = np.array([0.1, 0.2, 0.3, 0.4, np.nan, 0.6, 0.7])
    b = a + np.array([0.3, 0.1, -0.05, 0.0, 0.0, 0.2, 1e-15])
    result = compare(a, b)
    assert (result.wins, result.losses, result.ties) == (3, 1, 2)
    assert result.difference.mean == pytest.approx(0.55 / 6)
    assert result.mean_b - result.mean_a == pytest.approx(0.55 / 6)
    assert result.difference.low < result.difference.mean < result.difference.high
    d = [0.3, 0.1, -0.05, 0.2]
    patterns = [
        abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product([1, -1], repeat=4)
    ]
    assert result.p_value == pytest.approx(np.mean([p >= 0.55 - 1e-12 for p in patterns]))
    swapped = compare(b, a)
    assert swapped.p_value == result.p_value
    assert (swapped.wins, swapped.losses) == (1, 3)
    assert compare(a, a).p_value == 1.0


def test_random_signs_near_the_exact_test():
    differences = np.random.default_rng(1).normal(0.15, 1.0, 18)
    signs = 1.0 - 2.0 * ((np.arange(1 << 18)[:, None] >> np.arange(18)) & 1)
    exact = np.mean(np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12)
    assert 0.02 < exact < 0.9
    result = compare(np.zeros(18), differences, resamples=20_000)
    assert result.p_value == pytest.approx(exact, abs=0.015)
    assert compare(np.zeros(60), np.ones(60), resamples=999).p_value == pytest.approx(1e-3)


def test_systems_on_different_queries_are_not_compared():
    with pytest.raises(UsageError, match="same queries"):
        compare([0.1, 0.2], [0.1, float("nan")])
    with pytest.raises(UsageError, match="same queries"):
        compare([0.1, 0.2], [0.1])

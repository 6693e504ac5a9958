"""Neighbours and re-rankers against brute force on dense arrays."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retrieval.errors import DatasetError, UsageError
from retrieval.ranking.diffusion import SpectralDiffusion, diffuse, neighbour_graph, query_seeds
from retrieval.ranking.expansion import alpha_query_expansion, augment_database, average_query_expansion
from retrieval.ranking.neighbours import exact_pairs, exact_similarities, gallery_block, top_k
from retrieval.ranking.reciprocal import reciprocal_distances, reciprocal_encoding, rerank_shortlists


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def clusters(seed, count, size, dim=16, spread=0.6):
    """Queries near the first groups, unit vectors in groups, and the group of each."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count, dim))
    gallery = np.repeat(centres, size, axis=0) + spread * rng.standard_normal((count * size, dim))
    queries = centres[:4] + spread * rng.standard_normal((4, dim))
    order = rng.permutation(len(gallery))
    return unit(queries), unit(gallery[order]), order // size


def naive_top(queries, gallery, k):
    scores = [[math.fsum(p) for p in gallery.astype(float) * q.astype(float)] for q in queries]
    return [sorted(range(len(gallery)), key=lambda i, s=s: (-s[i], i))[:k] for s in scores]


# ---------------------------------------------------------------- neighbours


@settings(max_examples=100, deadline=None)
@given(
    arrays(np.int8, st.tuples(st.integers(1, 30), st.just(3)), elements=st.integers(-2, 2)),
    arrays(np.int8, st.tuples(st.integers(1, 4), st.just(3)), elements=st.integers(-2, 2)),
    st.integers(1, 40),
    st.integers(1, 31),
)
def test_top_k_with_many_ties(gallery, queries, k, block):
    gallery, queries = gallery.astype(np.float16) / 4, queries.astype(np.float32) / 8
    ids, similarities = top_k(queries, gallery, k, block)
    assert ids.tolist() == naive_top(queries, gallery, k)
    assert (ids.dtype, similarities.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(similarities, np.take_along_axis(queries @ gallery.T.astype(np.float32), ids, axis=1))


@pytest.mark.parametrize("block", [None, 64, 333])
def test_top_k_of_copies_and_of_scores_that_float32_confuses(block):
    rng = np.random.default_rng(0)
    queries = unit(rng.standard_normal((3, 256)))
    near = np.concatenate([q + 1e-6 * rng.standard_normal((200, 256)) for q in queries])
    gallery = np.concatenate([unit(near), unit(rng.standard_normal((200, 256)))])
    gallery[rng.permutation(800)[:100]] = gallery[5]
    ids, _ = top_k(queries, gallery, 150, block)
    assert ids.tolist() == naive_top(queries, gallery, 150)


def test_every_float16_number_is_read_as_it_is():
    numbers = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = numbers[np.isfinite(numbers)].reshape(-1, 31)  # both zeros and all subnormal numbers among them
    room = np.full((len(finite) + 3, 31), np.nan, np.float32)
    block, largest = gallery_block(finite, 0, len(room), room)
    assert block.tobytes() == finite.astype(np.float32).tobytes()
    assert largest == pytest.approx(np.linalg.norm(finite.astype(np.float64), axis=1).max())
    swapped, _ = gallery_block(finite.astype(">f2"), 0, len(room), room)
    assert swapped.tobytes() == finite.astype(np.float32).tobytes()
    columns, _ = gallery_block(np.asfortranarray(finite), 0, len(room), room)
    assert columns.tobytes() == finite.astype(np.float32).tobytes()


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, -np.nan])
def test_float16_that_is_not_finite_is_refused_and_long_vectors_are_not(bad):
    gallery = np.full((5, 40), 6e4, np.float16)  # each row is longer than float16 can say
    room = np.empty((5, 40), np.float32)
    assert gallery_block(gallery, 0, 5, room)[1] == pytest.approx(60_000 * 40**0.5)
    gallery[3, 7] = bad
    with pytest.raises(DatasetError, match=r"gallery descriptor 13 \(counting from 0\)"):
        gallery_block(np.concatenate([np.zeros((10, 40), np.float16), gallery]), 10, 15, room)


def test_exact_pairs_equal_one_query_at_a_time_to_the_bit():
    rng = np.random.default_rng(3)
    for dim in (1, 7, 512, 100_000):
        queries, vectors = unit(rng.standard_normal((5, dim))), unit(rng.standard_normal((60, dim)))
        rows = [rng.permutation(60)[:n] for n in (60, 0, 1, 17, 33)]
        whose = np.repeat(np.arange(5), [len(r) for r in rows])
        found = np.split(exact_pairs(queries, vectors, whose, np.concatenate(rows)), np.cumsum([60, 0, 1, 17]))
        for query, chosen, values in zip(queries, rows, found, strict=True):
            assert values.tolist() == exact_similarities(query, vectors, chosen).tolist()
            exact = (vectors[chosen].astype(np.float64) * query.astype(np.float64)).sum(axis=1)
            np.testing.assert_allclose(values, exact, atol=1e-12)
    assert exact_pairs(queries, vectors, np.zeros(0, int), np.zeros(0, int)).shape == (0,)


def test_top_k_of_more_queries_than_are_taken_at_once():
    rng = np.random.default_rng(1)
    gallery = unit(rng.standard_normal((300, 5)))
    ids, similarities = top_k(gallery, gallery, 2)
    assert ids[:, 0].tolist() == list(range(300))
    assert np.allclose(similarities[:, 0], 1)
    assert ids[-5:].tolist() == naive_top(gallery[-5:], gallery, 2)


def test_top_k_refuses():
    gallery = np.eye(4, dtype=np.float32)
    for queries, k in ((gallery[:, :3], 1), (gallery[0], 1), (gallery, 0)):
        with pytest.raises(UsageError):
            top_k(queries, gallery, k)
    with pytest.raises(UsageError):
        top_k(gallery, gallery[:0], 1)
    broken = gallery.copy()
    broken[2, 1] = np.nan
    with pytest.raises(DatasetError, match="gallery descriptor 2 "):
        top_k(gallery, broken, 1, block=1)


# ---------------------------------------------------------------- expansion


def test_query_expansions_by_hand():
    queries, gallery, _ = clusters(0, 6, 5)
    ids, similarities = top_k(queries, gallery, 25)
    average = average_query_expansion(queries, gallery, ids, 7)
    weighted = alpha_query_expansion(queries, gallery, ids, similarities, 25, 2.5)
    assert similarities.min() < 0  # such neighbours must have no weight
    for q in range(len(queries)):
        total = queries[q].astype(float)
        for j in range(7):
            total = total + gallery[ids[q, j]]
        np.testing.assert_allclose(average[q], total / np.linalg.norm(total), atol=3e-6)
        total = queries[q].astype(float)
        for j in range(25):
            total = total + max(float(similarities[q, j]), 0.0) ** 2.5 * gallery[ids[q, j]]
        np.testing.assert_allclose(weighted[q], total / np.linalg.norm(total), atol=3e-6)
    assert weighted.dtype == average.dtype == np.float32
    plain = alpha_query_expansion(queries, gallery, ids, np.abs(similarities), 7, 0)
    np.testing.assert_allclose(plain, average, atol=1e-6)


def test_missing_neighbours_have_no_weight():
    queries, gallery, _ = clusters(1, 5, 4)
    ids, similarities = top_k(queries, gallery, 6)
    holes = ids.copy()
    holes[:, 3:] = -1
    np.testing.assert_array_equal(
        alpha_query_expansion(queries, gallery, holes, similarities, 6),
        alpha_query_expansion(queries, gallery, ids, similarities, 3),
    )
    np.testing.assert_array_equal(
        average_query_expansion(queries, gallery, holes, 6), average_query_expansion(queries, gallery, ids, 3)
    )


def test_database_augmentation_uses_others_only_and_the_unchanged_gallery():
    _, gallery, _ = clusters(2, 6, 6)
    gallery[[3, 17]] = gallery[30]  # copies: 3 comes first in the lists of 17 and 30
    ids, similarities = top_k(gallery, gallery, 5)
    assert ids[30, 0] == 3
    augmented = augment_database(gallery, ids, similarities, 4, 2.0)
    scores = gallery.astype(float) @ gallery.T
    for i in range(len(gallery)):
        order = sorted((j for j in range(len(gallery)) if j != i), key=lambda j, i=i: (-round(scores[i, j], 12), j))
        total = gallery[i].astype(float)
        for j in order[:4]:
            total = total + max(scores[i, j], 0) ** 2 * gallery[j]
        np.testing.assert_allclose(augmented[i], total / np.linalg.norm(total), atol=3e-6)


def test_database_augmentation_of_a_gallery_smaller_than_k():
    gallery = unit(np.array([[3.0, 1, 0], [1, 2, 0], [1, 1, 1]]))
    ids, similarities = top_k(gallery, gallery, 3)
    augmented = augment_database(gallery, ids, similarities, 5, 0)
    np.testing.assert_allclose(augmented, np.tile(unit(gallery.sum(axis=0)), (3, 1)), atol=3e-6)


def test_expansion_refuses_what_does_not_fit():
    queries, gallery, _ = clusters(3, 4, 4)
    ids, similarities = top_k(queries, gallery, 3)
    for wrong in (
        lambda: average_query_expansion(queries, gallery, ids, 5),
        lambda: average_query_expansion(queries, gallery, ids, 0),
        lambda: average_query_expansion(queries[:2], gallery, ids, 3),
        lambda: alpha_query_expansion(queries, gallery, ids, similarities, 3, -1),
        lambda: alpha_query_expansion(queries, gallery, ids, similarities[:, :2], 3),
        lambda: augment_database(gallery, ids, similarities, 2),
        lambda: augment_database(queries, ids, similarities, 3),
    ):
        with pytest.raises(UsageError):
            wrong()
    with pytest.raises(DatasetError):
        average_query_expansion(queries, gallery, ids + 16, 3)


# ---------------------------------------------------------------- k-reciprocal


def naive_reciprocal(queries, gallery, k1, k2, lambda_):
    x = np.concatenate([queries, gallery]).astype(float)
    n = len(x)
    scores = x @ x.T
    nearest = [sorted(range(n), key=lambda j, i=i: (j != i, -scores[i, j], j)) for i in range(n)]

    def mutual(i, k):
        return {j for j in nearest[i][: k + 1] if i in nearest[j][: k + 1]}

    v = np.zeros((n, n))
    for i in range(n):
        members = set(mutual(i, k1))
        for j in mutual(i, k1):
            more = mutual(j, round(k1 / 2))
            if len(more & mutual(i, k1)) >= 2 / 3 * len(more) - 1e-9:
                members |= more
        for j in members:
            v[i, j] = math.exp(-(1 - scores[i, j]))
        v[i] /= v[i].sum()
    v = np.array([np.mean([v[j] for j in nearest[i][:k2]], axis=0) for i in range(n)])
    distances = np.zeros((len(queries), len(gallery)))
    for i in range(len(queries)):
        for j in range(len(gallery)):
            a, b = v[i], v[len(queries) + j]
            jaccard = 1 - np.minimum(a, b).sum() / np.maximum(a, b).sum()
            distances[i, j] = (1 - lambda_) * jaccard + lambda_ * (1 - scores[i, len(queries) + j])
    return distances, v


@pytest.mark.parametrize(
    ("k1", "k2", "lambda_"), [(8, 3, 0.3), (5, 1, 0.0), (20, 6, 0.3), (7, 4, 1.0), (100, 200, 0.5)]
)
def test_reciprocal_distances_by_the_definition(k1, k2, lambda_):
    queries, gallery, _ = clusters(4, 7, 8)
    expected, encoding = naive_reciprocal(queries, gallery, k1, k2, lambda_)
    np.testing.assert_allclose(reciprocal_distances(queries, gallery, k1, k2, lambda_), expected, atol=2e-6)
    found = reciprocal_encoding(np.concatenate([queries, gallery]), k1, k2)
    np.testing.assert_allclose(found.toarray(), encoding, atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-12)


def test_reciprocal_with_more_copies_than_neighbours():
    gallery = np.repeat(np.eye(3, dtype=np.float32), 9, axis=0)
    expected, _ = naive_reciprocal(gallery[8:9], gallery, 4, 2, 0.3)
    np.testing.assert_allclose(reciprocal_distances(gallery[8:9], gallery, 4, 2), expected, atol=2e-6)


def test_shortlists_are_reordered_within_themselves():
    queries, gallery, _ = clusters(5, 10, 12, spread=0.9)
    ids, _ = top_k(queries, gallery, 40)
    ids[1, 30:] = -1
    ids[2] = -1
    new = rerank_shortlists(queries, gallery, ids, 10, 4)
    for i in (0, 1, 3):
        listed = ids[i][ids[i] >= 0]
        distances, _ = naive_reciprocal(queries[i : i + 1], gallery[listed], 10, 4, 0.3)
        assert new[i, : len(listed)].tolist() == listed[np.argsort(distances[0], kind="stable")].tolist()
    assert (new[1, 30:] == -1).all()
    assert (new[2] == -1).all()
    for wrong in (
        lambda: rerank_shortlists(queries[:2], gallery, ids),
        lambda: reciprocal_distances(queries, gallery, 0),
    ):
        with pytest.raises(UsageError):
            wrong()
    with pytest.raises(UsageError):
        reciprocal_distances(queries, gallery, lambda_=1.5)


# ---------------------------------------------------------------- diffusion


def naive_graph(gallery, k, gamma):
    x = gallery.astype(float)
    scores = x @ x.T
    n = len(x)
    near = [set(sorted((j for j in range(n) if j != i), key=lambda j, i=i: (-scores[i, j], j))[:k]) for i in range(n)]
    a = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if j in near[i] and i in near[j]:
                a[i, j] = max(scores[i, j], 0) ** gamma
    degree = a.sum(axis=1)
    root = np.array([d**-0.5 if d else 0.0 for d in degree])
    return root[:, None] * a * root


def test_graph_and_seeds_by_the_definition():
    queries, gallery, _ = clusters(6, 6, 9, dim=6)
    gallery[:9] = gallery[9]  # more copies than neighbours: some do not find themselves
    expected = naive_graph(gallery, 5, 3.0)
    assert (expected.sum(axis=1) == 0).any()  # a vector without mutual neighbours
    graph = neighbour_graph(gallery, 5)
    np.testing.assert_allclose(graph.toarray(), expected, atol=1e-6)
    assert abs(graph - graph.T).max() == 0
    seeds = query_seeds(queries, gallery, 4, 2.0)
    for i, near in enumerate(naive_top(queries, gallery, 4)):
        row = np.zeros(len(gallery))
        row[near] = np.maximum(queries[i].astype(float) @ gallery[near].T, 0) ** 2
        np.testing.assert_allclose(seeds[i], row, atol=1e-6)


def test_diffusion_solves_the_linear_system():
    queries, gallery, _ = clusters(7, 8, 12)
    graph, seeds = neighbour_graph(gallery, 6), query_seeds(queries, gallery, 3)
    seeds[3] = 0  # nothing to spread
    for alpha in (0.0, 0.5, 0.99):
        dense = (1 - alpha) * np.linalg.solve(np.eye(len(gallery)) - alpha * graph.toarray(), seeds.T).T
        np.testing.assert_allclose(diffuse(graph, seeds, alpha, tolerance=1e-10), dense, atol=1e-9)
        rough = diffuse(graph, seeds, alpha, tolerance=1e-3)
        assert np.abs(rough - dense).max() < 1e-2 * dense.max()
    assert not diffuse(graph, seeds)[3].any()
    with pytest.raises(UsageError):
        diffuse(graph, seeds, 1.0)


def test_spectral_diffusion_is_the_same_function_on_the_leading_eigenvectors():
    queries, gallery, _ = clusters(8, 5, 14, spread=1.5)
    graph, seeds = neighbour_graph(gallery, 10), query_seeds(queries, gallery)
    whole = SpectralDiffusion.of(graph, len(gallery)).diffuse(seeds, 0.9)
    np.testing.assert_allclose(whole, diffuse(graph, seeds, 0.9, tolerance=1e-12), atol=1e-10)
    values, vectors = np.linalg.eigh(graph.toarray())
    values, vectors = values[-20:], vectors[:, -20:]
    dense = seeds @ vectors @ np.diag(0.1 / (1 - 0.9 * values)) @ vectors.T
    np.testing.assert_allclose(SpectralDiffusion.of(graph, 20).diffuse(seeds, 0.9), dense, atol=1e-8)
    again = SpectralDiffusion.of(graph, 20).diffuse(seeds, 0.9)
    np.testing.assert_array_equal(again, SpectralDiffusion.of(graph, 20).diffuse(seeds, 0.9))
    for rank in (0, len(gallery) + 1):
        with pytest.raises(UsageError):
            SpectralDiffusion.of(graph, rank)


def test_diffusion_follows_a_chain_that_similarity_does_not():
    angles = np.linspace(0, np.pi * 0.9, 60)
    chain = np.stack([np.cos(angles), np.sin(angles), np.zeros(60)], axis=1)
    apart = np.stack(
        [np.cos(angles[:20]) * 0.2, np.zeros(20), np.ones(20)], axis=1
    )  # nearer to the start than the end is
    gallery = unit(np.concatenate([chain, apart]))
    query = gallery[:1]
    assert (query @ gallery.T)[0, 59] < (query @ gallery.T)[0, 60:].min()
    scores = diffuse(neighbour_graph(gallery, 6), query_seeds(query, gallery, 3))
    assert scores[0, 59] > scores[0, 60:].max()


def test_graph_refuses():
    gallery = np.eye(4, dtype=np.float32)
    for k, gamma in ((0, 3.0), (2, 0.0)):
        with pytest.raises(UsageError):
            neighbour_graph(gallery, k, gamma)

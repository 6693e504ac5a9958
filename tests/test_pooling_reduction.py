"""Token Pooling: clustering against plain loops and scikit-learn, the simple methods by hand, and the edges."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from retrieval.errors import UsageError
from retrieval.pooling.reduction import CLUSTERINGS, METHODS, clustering_cost, reduce_tokens


def data(batch: int = 3, n: int = 30, dim: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(batch, n, dim, generator=generator, dtype=torch.float64) + 5
    return tokens, torch.rand(batch, n, generator=generator, dtype=torch.float64)


def lloyd(x: np.ndarray, k: int, weights: np.ndarray, order: np.ndarray, rounds: int, medoids: bool):
    """K-means or K-medoids of one set, as the textbook has it. Returns centres (or medoids) and the assignment."""
    centres = x[np.sort(np.argsort(-order, kind="stable")[:k])].copy()
    for _ in range(rounds):
        assignment = np.array([int(np.argmin([((v - c) ** 2).sum() for c in centres])) for v in x])
        for j in range(k):
            members = np.flatnonzero(assignment == j)
            if len(members) == 0:
                continue
            if medoids:
                costs = [sum(weights[i] * ((x[i] - x[m]) ** 2).sum() for i in members) for m in members]
                centres[j] = x[members[int(np.argmin(costs))]]
            else:
                centres[j] = (weights[members, None] * x[members]).sum(0) / weights[members].sum()
    return centres, assignment


@pytest.mark.parametrize("method", CLUSTERINGS)
@pytest.mark.parametrize("rounds", [1, 2, 5, 40])
def test_clustering_is_that_of_the_textbook(method, rounds):
    tokens, significance = data()
    k = 7
    weighted = method.startswith("weighted")
    mean = reduce_tokens(tokens, k, method, significance, iterations=rounds)
    centre = reduce_tokens(tokens, k, method, significance, iterations=rounds, output="centre")
    assert torch.equal(mean.assignment, centre.assignment)
    for b in range(3):
        x, order = tokens[b].numpy(), significance[b].numpy()
        weights = order if weighted else np.ones(30)
        centres, assignment = lloyd(x, k, weights, order, rounds, method.endswith("medoids"))
        assert mean.assignment[b].tolist() == assignment.tolist()
        np.testing.assert_allclose(centre.tokens[b], centres, rtol=1e-9)
        means = np.stack([np.average(x[assignment == j], 0, weights[assignment == j]) for j in range(k)])
        np.testing.assert_allclose(mean.tokens[b], means, rtol=1e-9)
        error = sum(((x[i] - means[assignment[i]]) ** 2).sum() for i in range(30))
        assert mean.error[b].item() == pytest.approx(error)


@pytest.mark.parametrize("weighted", [False, True])
def test_kmeans_converges_where_scikit_learn_does(weighted):
    cluster = pytest.importorskip("sklearn.cluster")
    tokens, significance = data(seed=4)
    method = "weighted-kmeans" if weighted else "kmeans"
    reduced = reduce_tokens(tokens, 6, method, significance, iterations=200)
    for b in range(3):
        x = tokens[b].numpy()
        start = x[np.sort(np.argsort(-significance[b].numpy())[:6])]
        model = cluster.KMeans(6, init=start, n_init=1, max_iter=200, tol=0, algorithm="lloyd")
        model.fit(x, sample_weight=significance[b].numpy() if weighted else None)
        np.testing.assert_allclose(reduced.tokens[b], model.cluster_centers_, rtol=1e-6)


@pytest.mark.parametrize("method", CLUSTERINGS)
def test_more_rounds_never_raise_the_objective(method):
    tokens, significance = data(seed=5)
    weights = significance if method.startswith("weighted") else torch.ones_like(significance)
    objectives = []
    for rounds in range(1, 8):
        centres = reduce_tokens(tokens, 8, method, significance, iterations=rounds, output="centre").tokens
        objectives.append((weights * torch.cdist(tokens, centres).square().amin(2)).sum(1))
    for before, after in pairwise(objectives):
        assert (after <= before * (1 + 1e-12)).all()


def test_clustering_reconstructs_better_than_the_simple_methods():
    tokens, significance = data(batch=20, n=49, seed=6)
    generator = torch.Generator().manual_seed(0)
    error = {
        method: reduce_tokens(tokens, 16, method, significance, grid=(7, 7), generator=generator).error.mean()
        for method in METHODS
    }
    assert max(error[m] for m in CLUSTERINGS) < min(error["topk"], error["random"], error["grid"])
    assert error["kmeans"] <= error["weighted-kmeans"]


def test_separate_groups_are_found():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    label = torch.arange(40) % 4
    tokens = (centres[label] + 0.1 * torch.randn(40, 2))[None]
    for method in CLUSTERINGS:
        reduced = reduce_tokens(tokens, 4, method, torch.rand(1, 40).scatter(1, torch.arange(4)[None], 2.0))
        assert torch.equal(reduced.assignment[0], label)
        assert float(reduced.error) < 40 * 2 * 0.01 * 3


@pytest.mark.parametrize("method", METHODS)
def test_every_k_gives_consistent_results(method):
    tokens, significance = data(n=16)
    for k in (1, 5, 15) if method != "grid" else (4,):
        reduced = reduce_tokens(tokens, k, method, significance, generator=torch.Generator().manual_seed(1))
        assert reduced.tokens.shape == (3, k, 6)
        assert reduced.assignment.shape == (3, 16)
        assert reduced.assignment.dtype == torch.int64
        assert 0 <= int(reduced.assignment.min()) <= int(reduced.assignment.max()) < k
        for b in range(3):
            errors = (tokens[b] - reduced.tokens[b][reduced.assignment[b]]).square().sum()
            assert reduced.error[b].item() == pytest.approx(errors.item())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("prefix", [0, 2])
def test_k_equal_to_n_is_the_identity(method, prefix):
    tokens, significance = data(n=11)
    reduced = reduce_tokens(tokens, 11, method, significance, prefix=prefix)
    assert torch.equal(reduced.tokens, tokens)
    assert reduced.assignment[1].tolist() == list(range(11))
    assert reduced.error.tolist() == [0, 0, 0]


@pytest.mark.parametrize("method", METHODS)
def test_prefix_stays_and_takes_no_part(method):
    tokens, significance = data(n=18)
    significance[:, :2] = 100
    k = 6
    reduced = reduce_tokens(tokens, k, method, significance, prefix=2, generator=torch.Generator().manual_seed(2))
    rest = reduce_tokens(tokens[:, 2:], k - 2, method, significance[:, 2:], generator=torch.Generator().manual_seed(2))
    assert torch.equal(reduced.tokens[:, :2], tokens[:, :2])
    assert torch.equal(reduced.tokens[:, 2:], rest.tokens)
    assert reduced.assignment[0, :2].tolist() == [0, 1]
    assert torch.equal(reduced.assignment[:, 2:], rest.assignment + 2)
    assert torch.equal(reduced.error, rest.error)


def test_topk_keeps_the_most_significant_in_their_order():
    tokens, significance = data(batch=1, n=6)
    significance[0] = torch.tensor([0.1, 0.9, 0.3, 0.8, 0.3, 0.0])
    reduced = reduce_tokens(tokens, 3, "topk", significance)
    assert torch.equal(reduced.tokens[0], tokens[0, [1, 2, 3]])  # of the two with 0.3, the first
    distances = torch.cdist(tokens[0], tokens[0, [1, 2, 3]])
    assert torch.equal(reduced.assignment[0], distances.argmin(1))


def test_random_is_seeded_and_chooses_without_repetition():
    tokens, _ = data(batch=50, n=9)
    once, again, other = (
        reduce_tokens(tokens, 4, "random", generator=torch.Generator().manual_seed(seed)).tokens for seed in (1, 1, 2)
    )
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    chosen = (once[:, :, None] == tokens[:, None]).all(3)
    assert (chosen.sum(2) == 1).all()
    assert (chosen.sum(1) <= 1).all()
    assert chosen.any(1).double().mean(0).min() > 0.2  # about 4 of 9 each


@pytest.mark.parametrize(("rows", "columns"), [(4, 6), (5, 3), (1, 4)])
def test_grid_averages_neighbours(rows, columns):
    tokens, _ = data(batch=2, n=rows * columns)
    down, across = (rows + 1) // 2, (columns + 1) // 2
    reduced = reduce_tokens(tokens, down * across, "grid", grid=(rows, columns))
    maps = tokens.reshape(2, rows, columns, 6)
    for i in range(down):
        for j in range(across):
            block = maps[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            torch.testing.assert_close(reduced.tokens[:, i * across + j], block.mean((1, 2)))
    owner = reduced.assignment[0].reshape(rows, columns)
    assert all(owner[r, c] == r // 2 * across + c // 2 for r in range(rows) for c in range(columns))


@pytest.mark.parametrize("method", CLUSTERINGS)
def test_equal_tokens_and_empty_clusters(method):
    # Clusters start from tokens 1 to 4. The first takes all that are equal; the next two stay empty and keep theirs.
    tokens = torch.tensor([9.0, 1.0, 1.0, 1.0, 7.0])[None, :, None].repeat(1, 1, 2)
    significance = torch.tensor([[0.5, 4.0, 3.0, 2.0, 1.0]])
    reduced = reduce_tokens(tokens, 4, method, significance)
    last = 11.5 / 1.5 if method.startswith("weighted") else 8.0
    torch.testing.assert_close(reduced.tokens[0, :, 0], torch.tensor([1, 1, 1, last]))
    assert reduced.assignment[0].tolist() == [3, 0, 0, 0, 3]


@pytest.mark.parametrize("method", ["weighted-kmeans", "weighted-kmedoids"])
def test_insignificant_tokens_pull_no_mean_but_have_one(method):
    tokens, significance = data(batch=1, n=12)
    nothing = reduce_tokens(tokens, 4, method, torch.zeros_like(significance))
    unweighted = reduce_tokens(tokens, 4, method.removeprefix("weighted-"), torch.zeros_like(significance))
    torch.testing.assert_close(nothing.tokens, unweighted.tokens)
    line = torch.tensor([[[0.0], [1.0], [10.0], [11.0]]])
    reduced = reduce_tokens(line, 2, method, torch.tensor([[3.0, 1.0, 4.0, 0.0]]))
    torch.testing.assert_close(reduced.tokens[0, :, 0], torch.tensor([0.25, 10.0]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_gradient_reaches_the_tokens(method):
    tokens, significance = data(n=16)
    tokens.requires_grad_()
    significance.requires_grad_()
    reduced = reduce_tokens(tokens, 4, method, significance, iterations=3)
    reduced.tokens.sum().backward()
    assert tokens.grad is not None
    # Each returned token passes on a total of 1 in each dimension.
    torch.testing.assert_close(tokens.grad.sum(1), torch.full((3, 6), 4.0, dtype=torch.float64))
    assert significance.grad is None
    if method == "kmeans":
        share = torch.nn.functional.one_hot(reduced.assignment, 4).sum(1).double().reciprocal()
        torch.testing.assert_close(tokens.grad[..., 0], share.gather(1, reduced.assignment))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_and_handed_back(method, dtype):
    # Alike but for a small part: in half precision their squared distances would be noise.
    tokens = (100 + torch.randn(2, 16, 64)).to(dtype)
    significance = torch.rand(2, 16)
    seeds = [torch.Generator().manual_seed(3) for _ in range(2)]
    half = reduce_tokens(tokens, 4, method, significance, generator=seeds[0])
    full = reduce_tokens(tokens.float(), 4, method, significance, generator=seeds[1])
    assert half.tokens.dtype == dtype
    assert torch.equal(half.assignment, full.assignment)
    assert torch.equal(half.tokens, full.tokens.to(dtype))


def test_large_common_offset_does_not_hide_differences():
    tokens, significance = data()
    near = reduce_tokens(tokens.float(), 7, significance=significance.float())
    far = reduce_tokens(tokens.float() + 1000, 7, significance=significance.float())
    assert (near.assignment == far.assignment).double().mean() > 0.95


def test_without_significance_clusters_start_evenly_spaced():
    tokens, _ = data(batch=1, n=9)
    spaced = torch.zeros(1, 9)
    spaced[0, [0, 3, 6]] = 1
    for method in ("kmeans", "kmedoids"):
        assert torch.equal(reduce_tokens(tokens, 3, method).tokens, reduce_tokens(tokens, 3, method, spaced).tokens)


def test_cost():
    n, k, d = 196, 98, 384
    assert clustering_cost(n, k, d, "kmedoids", 5) == n * n * d + 5 * n * n + n * d
    assert clustering_cost(n, k, d, "weighted-kmeans", 3) == 3 * (n * k * d + n * d)
    assert clustering_cost(n, k, d, "kmedoids") < clustering_cost(n, k, d, "kmeans")
    assert clustering_cost(n, n, d, "kmeans") == 0
    assert clustering_cost(n, 49, d, "grid") == n * d


TOKENS, SIGNIFICANCE = data(n=12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: reduce_tokens(TOKENS, 13, "kmeans"), "cannot reduce 12 tokens to 13"),
        (lambda: reduce_tokens(TOKENS, 0, "kmeans"), "k must be"),
        (lambda: reduce_tokens(TOKENS, 2, "kmeans", prefix=2), "no token beside the 2"),
        (lambda: reduce_tokens(TOKENS, 4, "kmeans", prefix=-1), "prefix"),
        (lambda: reduce_tokens(TOKENS, 4, "median"), "method must be one of kmeans"),
        (lambda: reduce_tokens(TOKENS, 4, "kmeans", output="sum"), "output must be"),
        (lambda: reduce_tokens(TOKENS, 4, "kmeans", iterations=0), "iterations"),
        (lambda: reduce_tokens(TOKENS, 4, "topk"), "needs the significance"),
        (lambda: reduce_tokens(TOKENS, 4, "weighted-kmeans"), "needs the significance"),
        (lambda: reduce_tokens(TOKENS, 4, "topk", SIGNIFICANCE[:, 1:]), "significance has shape"),
        (lambda: reduce_tokens(TOKENS, 4, "topk", -SIGNIFICANCE), "not negative"),
        (lambda: reduce_tokens(TOKENS, 4, "topk", SIGNIFICANCE * torch.nan), "finite"),
        (lambda: reduce_tokens(TOKENS[0], 4, "kmeans"), "token sequence"),
        (lambda: reduce_tokens(TOKENS[:0], 4, "kmeans"), "empty"),
        (lambda: reduce_tokens(TOKENS, 4, "grid"), "no square grid"),
        (lambda: reduce_tokens(TOKENS, 4, "grid", grid=(2, 5)), "does not hold 12"),
        (lambda: reduce_tokens(TOKENS, 5, "grid", grid=(3, 4)), "k must be 4"),
    ],
)
def test_wrong_use(call, message):
    with pytest.raises(UsageError, match=message):
        call()

"""The worked examples of the pooling lesson, number by number."""

import pytest
import torch
from torch import Tensor

from retrieval.pooling import create_pooling
from retrieval.pooling.attention import AttentionPool
from retrieval.pooling.local import LocalAvgPool, LocalMaxPool
from retrieval.pooling.regions import adaptive_windows

FIRST = [[0.2, 0.8, 0.1, 0.9], [0.5, 0.3, 0.7, 0.4], [0.6, 0.1, 0.3, 0.5], [0.4, 0.9, 0.2, 0.8]]
SECOND = [[1.2, 0.5, 3.1, 0.8], [0.3, 2.7, 0.1, 1.5], [0.9, 0.4, 2.3, 3.8], [1.1, 0.6, 0.7, 1.2]]
TOKENS = torch.tensor([[[0.5, 0.3], [0.8, -0.2], [0.1, 0.9], [-0.3, 0.5]]])


def grid(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)[None, None]


def close(actual: Tensor, expected: list, digits: int = 6) -> None:
    torch.testing.assert_close(
        actual.double().squeeze(), torch.tensor(expected, dtype=torch.float64), atol=0.51 * 10**-digits, rtol=0
    )


@pytest.mark.parametrize(
    ("values", "maxima", "means"),
    [
        (FIRST, [[0.8, 0.9], [0.9, 0.8]], [[0.45, 0.525], [0.50, 0.45]]),
        # Means of the second grid by hand: 4.7, 5.5, 3.0 and 8.0, over 4.
        (SECOND, [[2.7, 3.1], [1.1, 3.8]], [[1.175, 1.375], [0.75, 2.0]]),
    ],
)
def test_two_by_two_windows(values, maxima, means):
    close(LocalMaxPool(2, 2)(grid(values)), maxima)
    close(LocalAvgPool(2, 2)(grid(values)), means)


def test_gradient_of_the_maximum_goes_to_the_winners():
    x = grid(SECOND).requires_grad_()
    LocalMaxPool(2)(x).backward(grid([[0.5, -0.3], [0.2, -0.1]]))
    close(x.grad, [[0, 0, -0.3, 0], [0, 0.5, 0, 0], [0, 0, 0, -0.1], [0.2, 0, 0, 0]])


def test_gradient_of_the_average_is_spread_equally():
    x = grid(SECOND).requires_grad_()
    LocalAvgPool(2)(x).backward(grid([[0.5, -0.3], [0.2, -0.1]]))
    close(
        x.grad,
        [[0.125] * 2 + [-0.075] * 2, [0.125] * 2 + [-0.075] * 2, [0.05] * 2 + [-0.025] * 2, [0.05] * 2 + [-0.025] * 2],
    )


def test_gradient_of_global_pooling():
    x = grid(SECOND).requires_grad_()
    create_pooling("max")(x).sum().backward()
    expected = torch.zeros(4, 4)
    expected[2, 3] = 1
    close(x.grad, expected.tolist())
    x.grad = None
    create_pooling("avg")(x).sum().backward()
    close(x.grad, [[1 / 16] * 4] * 4)


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([0.5, 0.2, 0.8, 0.1, 0.9, 0.3, 0.4, 0.6, 0.7], 0.5),
        ([3.0, *[0.1] * 8], 3.8 / 9),
        ([2.1, 1.8, 2.3, 1.9, 2.5, 2.0, 1.7, 2.2, 2.4], 2.1),
    ],
)
def test_global_average(values, mean):
    close(create_pooling("gap")(torch.tensor(values).reshape(1, 1, 3, 3)), mean)


def test_maximum_hides_what_the_average_shows():
    spike, strong = torch.tensor([[0.1, 0.1, 0.1, 5.0], [4.8, 4.9, 4.7, 5.0]]).reshape(2, 1, 1, 2, 2)
    assert create_pooling("max")(spike) == create_pooling("max")(strong) == 5.0
    close(create_pooling("avg")(spike), 1.325)
    close(create_pooling("avg")(strong), 4.85)


def test_four_readouts_of_four_tokens():
    close(create_pooling("mean")(TOKENS), [0.275, 0.375])
    close(create_pooling("token-max")(TOKENS), [0.8, 0.9])
    close(create_pooling("cls")(TOKENS), [0.5, 0.3])
    close(create_pooling("last")(TOKENS), [-0.3, 0.5])


def test_mean_of_the_sentence():
    tokens = torch.tensor([[[0.5, 0.3, -0.1], [0.8, -0.2, 0.4], [0.1, 0.9, 0.3], [-0.3, 0.5, 0.6]]])
    close(create_pooling("mean")(tokens), [0.275, 0.375, 0.300])
    close(create_pooling("cls")(tokens), [0.5, 0.3, -0.1])


def test_attention_with_a_given_query():
    pool = AttentionPool(2)
    with torch.no_grad():
        pool.query.copy_(torch.tensor([0.7, -0.5]))
    close(pool.weights(TOKENS), [0.272, 0.377, 0.1805, 0.171], 3)  # 0.764 / 4.233, which the lesson cuts to 0.180
    close(pool(TOKENS), [0.4043, 0.2541], 4)  # the lesson rounds on the way and prints [0.405, 0.254]


def test_masked_mean():
    tokens = torch.tensor([[[0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.1, 0.05]]])
    mask = torch.tensor([[True, True, True, False]])
    close(create_pooling("mean")(tokens, mask), [0.567, 0.433], 3)
    close(create_pooling("mean")(tokens), [0.45, 0.3375])


@pytest.mark.parametrize(("p", "value"), [(1, 0.950), (3, 1.318), (10, 1.741), ("inf", 2.0), (2000, 1.999)])
def test_gem_between_average_and_maximum(p, value):
    # The lesson prints 1.815 for p = 10; (1/4 (1 + 0.5^10 + 2^10 + 0.3^10))^(1/10) is 1.741.
    close(create_pooling("gem", p=p)(torch.tensor([1.0, 0.5, 2.0, 0.3]).reshape(1, 1, 2, 2)), value, 3)


def test_gem_shares_at_p_3():
    x = torch.tensor([1.0, 0.5, 2.0, 0.3]).reshape(1, 1, 2, 2)
    parts = create_pooling("gem", p=3).contribution(x)
    close(parts / 1.3177, [[0.1093, 0.0137], [0.8741, 0.0030]], 3)


def test_adaptive_windows():
    # 6 into 2 tiles; 7 into 2 overlaps in the middle row (torch's rule, not the 0-2 and 3-6 of the lesson).
    assert adaptive_windows(6, 2) == [(0, 3), (3, 6)]
    assert adaptive_windows(7, 2) == [(0, 4), (3, 7)]
    x = torch.arange(49.0).reshape(1, 1, 7, 7)
    close(create_pooling("grid-avg", size=2)(x), [12.0, 15.0, 33.0, 36.0])
    close(create_pooling("grid-max", size=2)(x), [24.0, 27.0, 45.0, 48.0])


def test_strided_convolution_has_k2_c2_parameters():
    pool = create_pooling("strided-conv", dim=16, window=2, then="avg")
    assert sum(p.numel() for p in pool.parameters()) == 2**2 * 16**2

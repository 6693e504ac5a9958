"""Pooling of token sequences: masks, padding and prefix, each method against a loop or a second implementation."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from retrieval.errors import UsageError
from retrieval.pooling import (
    PMA,
    AttentionPool,
    ClsGeM,
    ClsMean,
    ClsPool,
    GatedPool,
    LastPool,
    MaxPool,
    MeanPool,
    Pooling,
    TokenGeM,
    create_pooling,
    list_poolings,
)

NAMES = [info.name for info in list_poolings() if info.kind == "tokens"]
DIM = 8


def randomised(module: Pooling, seed: int = 0) -> Pooling:
    """The module with random weights, so that learned poolings are not just the mean."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.endswith("p"):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(DIM) * 2)
    return module


def variants() -> list:
    """Every token pooling, the one with rules for negative values under each rule and as a maximum."""
    cases = [(name, {}) for name in NAMES if name != "token-gem"]
    cases += [
        ("token-gem", {"negative": rule, "p": p}) for rule in ("clamp", "shift", "signed") for p in (0.7, 3, "inf")
    ]
    cases += [("pma", {"seeds": 3, "heads": 2, "merge": "mean"}), ("pma", {"feed_forward": False, "norm": False})]
    cases += [("cls-mean", {"merge": "mean", "prefix": 3})]
    cases += [(name, {"prefix": 2}) for name in NAMES if not name.startswith("cls")]
    return [pytest.param(name, params, id=f"{name}-{params}") for name, params in cases]


def prefix_of(module: Pooling) -> int:
    return int(getattr(module, "prefix", 0))


@pytest.mark.parametrize(("name", "params"), variants())
@pytest.mark.parametrize("filler", [0.0, 1e6, math.nan, math.inf, -math.inf])
def test_padding_changes_nothing(name, params, filler):
    torch.manual_seed(1)
    pool = randomised(create_pooling(name, dim=DIM, **params))
    x = torch.randn(3, 6, DIM)
    alone = pool(x)
    torch.testing.assert_close(pool(x, torch.ones(3, 6, dtype=torch.bool)), alone, rtol=1e-6, atol=1e-6)
    padded = torch.cat((x, torch.full((3, 4, DIM), filler)), 1).requires_grad_()
    mask = torch.arange(10).expand(3, -1) < 6
    out = pool(padded, mask)
    torch.testing.assert_close(out, alone, rtol=1e-6, atol=1e-6)
    out.sum().backward()
    assert padded.grad is not None
    assert padded.grad.isfinite().all()
    assert (padded.grad[:, 6:] == 0).all()


@pytest.mark.parametrize(("name", "params"), variants())
def test_rows_of_different_length_and_left_padding(name, params):
    torch.manual_seed(2)
    pool = randomised(create_pooling(name, dim=DIM, **params))
    lengths = [4, 7, 5]
    rows = [torch.randn(1, length, DIM) for length in lengths]
    expected = torch.cat([pool(row) for row in rows])
    right = torch.cat([F.pad(row, (0, 0, 0, 7 - row.shape[1]), value=math.nan) for row in rows])
    mask = torch.arange(7)[None] < torch.tensor(lengths)[:, None]
    torch.testing.assert_close(pool(right, mask), expected, rtol=1e-6, atol=1e-6)
    if prefix_of(pool) == 0 and name != "cls":
        left = torch.cat([F.pad(row, (0, 0, 7 - row.shape[1], 0), value=math.nan) for row in rows])
        torch.testing.assert_close(pool(left, mask.flip(1)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("cls", "last")])
def test_the_order_of_content_does_not_matter(name):
    torch.manual_seed(3)
    pool = randomised(create_pooling(name, dim=DIM))
    x = torch.randn(2, 9, DIM)
    shuffled = torch.cat((x[:, :1], x[:, 1:][:, torch.randperm(8)]), 1)
    torch.testing.assert_close(pool(shuffled), pool(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("cls")])
def test_prefix_leaves_the_first_tokens_out(name):
    torch.manual_seed(4)
    x = torch.randn(2, 9, DIM)
    with_prefix = randomised(create_pooling(name, dim=DIM, prefix=3))
    without = randomised(create_pooling(name, dim=DIM))
    assert torch.equal(with_prefix(x), without(x[:, 3:]))


def test_last_is_the_last_real_token():
    x = torch.arange(5.0)[None, :, None].expand(4, 5, 2)
    mask = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 1, 0, 1, 0], [1, 0, 0, 0, 0]], dtype=torch.bool)
    assert LastPool()(x, mask)[:, 0].tolist() == [1, 4, 3, 0]


def test_the_class_token_stands_at_the_front():
    x = torch.randn(2, 5, DIM)
    assert torch.equal(ClsPool(prefix=3)(x), x[:, 0])
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 0] = False
    with pytest.raises(UsageError, match=r"class token .* is masked"):
        ClsPool()(x, mask)


def power_loop(values: list[float], p: float, negative: str) -> float:
    """The power mean of one dimension, as its formula reads."""
    if negative == "shift":
        low = min(values)
        return low + power_loop([v - low for v in values], p, "clamp")
    if negative == "signed":
        mean = sum(math.copysign(abs(v) ** p, v) for v in values) / len(values)
        return math.copysign(abs(mean) ** (1 / p), mean)
    return (sum(max(v, 1e-6) ** p for v in values) / len(values)) ** (1 / p)


@pytest.mark.parametrize("negative", ["clamp", "shift", "signed"])
@pytest.mark.parametrize("p", [0.5, 1.0, 3.0, 4.6, 12.0])
def test_token_gem_is_its_formula(negative, p):
    torch.manual_seed(5)
    x = torch.randn(3, 7, 4, dtype=torch.float64)
    mask = torch.rand(3, 7) < 0.6
    mask[:, 0] = True
    out = TokenGeM(p, negative=negative).double()(x, mask)
    for row in range(3):
        for d in range(4):
            values = x[row, mask[row], d].tolist()
            assert float(out[row, d].detach()) == pytest.approx(power_loop(values, p, negative), rel=1e-6, abs=1e-6)


def test_rules_for_negative_values_at_the_ends():
    x = torch.randn(2, 9, DIM)
    strongest = x.gather(1, x.abs().argmax(1, keepdim=True)).squeeze(1)
    torch.testing.assert_close(TokenGeM(1, negative="signed")(x), x.mean(1))
    torch.testing.assert_close(TokenGeM(1, negative="shift")(x), x.mean(1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(TokenGeM("inf", negative="signed")(x), strongest)
    torch.testing.assert_close(TokenGeM(400, negative="signed")(x), strongest, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(TokenGeM("inf", negative="shift")(x), x.amax(1), rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(TokenGeM("inf")(x), x.amax(1).clamp(min=1e-6))


def test_exact_cancellation_gives_zero_and_no_nan():
    x = torch.tensor([[[2.0, 0.0], [-2.0, 0.0]]], requires_grad=True)
    for p in (0.5, 3, 50):
        pool = TokenGeM(p, negative="signed")
        out = pool(x)
        assert torch.equal(out, torch.zeros(1, 2))
        out.sum().backward()
        assert x.grad.isfinite().all()
        assert pool.p.grad.isfinite().all()
    assert TokenGeM("inf", negative="signed")(x)[0, 0] == 2


def test_attention_by_a_loop():
    torch.manual_seed(6)
    pool = AttentionPool(3)
    torch.nn.init.normal_(pool.query, std=2)
    x = torch.randn(2, 5, 3)
    for row in range(2):
        raw = [math.exp(float(x[row, t] @ pool.query.detach()) / math.sqrt(3)) for t in range(5)]
        expected = sum(w * x[row, t] for t, w in enumerate(raw)) / sum(raw)
        torch.testing.assert_close(pool(x)[row], expected)


def test_gates_by_a_loop():
    torch.manual_seed(7)
    pool = randomised(GatedPool(3))
    x = torch.randn(2, 5, 3)
    weight, bias = pool.weight.detach(), pool.bias.detach()
    for row in range(2):
        gates = [1 / (1 + math.exp(-float(x[row, t] @ weight + bias))) for t in range(5)]
        expected = sum(g * x[row, t] for t, g in enumerate(gates)) / sum(gates)
        torch.testing.assert_close(pool(x)[row], expected)


def test_gates_that_are_all_shut_still_average():
    pool = GatedPool(3)
    torch.nn.init.constant_(pool.bias, -500.0)
    x = torch.randn(2, 5, 3)
    torch.testing.assert_close(pool(x), x.mean(1))


def test_before_training_attention_and_gates_are_the_mean():
    x = torch.randn(2, 5, DIM)
    for pool in (AttentionPool(DIM), GatedPool(DIM)):
        torch.testing.assert_close(pool(x), x.mean(1))


@pytest.mark.parametrize("pool", [AttentionPool(DIM, prefix=2), GatedPool(DIM, prefix=2), PMA(DIM, 3, prefix=2)])
def test_weights_are_shares_of_the_content(pool):
    randomised(pool)
    x = torch.randn(2, 7, DIM)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, 5:] = False
    weights = pool.weights(x, mask)
    assert weights.shape == ((2, 3, 7) if isinstance(pool, PMA) else (2, 7))
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert (weights[..., :2] == 0).all()
    assert (weights[0, ..., 5:] == 0).all()
    assert (weights[1, ..., 2:] > 0).all()


def set_transformer(pool: PMA, x: Tensor, mask: Tensor | None) -> Tensor:
    """PMA written head by head and seed by seed from the equations of the paper."""
    dim, heads = pool.dim, pool.heads
    z = x if pool.feed_in is None else pool.feed_in(x).relu()
    rows = []
    for b in range(x.shape[0]):
        tokens = z[b] if mask is None else z[b, mask[b]]
        q, k, v = pool.to_query(pool.seeds), pool.to_key(tokens), pool.to_value(tokens)
        parts = []
        for h in range(heads):
            s = slice(h * dim // heads, (h + 1) * dim // heads)
            parts.append(((q[:, s] @ k[:, s].T) / dim**0.5).softmax(1) @ v[:, s])
        hidden = pool.norm_attention(pool.seeds + pool.join(torch.cat(parts, 1)))
        rows.append(pool.norm_out(hidden + pool.feed_out(hidden).relu()))
    out = torch.stack(rows)
    return out.flatten(1) if pool.merge == "concat" else out.mean(1)


@pytest.mark.parametrize("merge", ["concat", "mean"])
@pytest.mark.parametrize(
    ("seeds", "heads", "norm", "feed"), [(1, 1, True, True), (4, 2, True, False), (3, 4, False, True)]
)
def test_pma_is_that_of_the_paper(merge, seeds, heads, norm, feed):
    torch.manual_seed(8)
    pool = PMA(DIM, seeds, heads, merge=merge, norm=norm, feed_forward=feed)
    randomised(pool)
    x, mask = torch.randn(3, 6, DIM), torch.rand(3, 6) < 0.7
    mask[:, 2] = True
    torch.testing.assert_close(pool(x), set_transformer(pool, x, None))
    torch.testing.assert_close(pool(x, mask), set_transformer(pool, x, mask))
    assert pool(x).shape == (3, pool.out_dim(DIM)) == (3, DIM * (seeds if merge == "concat" else 1))


def test_hybrids():
    x = torch.randn(2, 9, DIM)
    both = ClsMean(prefix=2)(x)
    torch.testing.assert_close(both, torch.cat((x[:, 0], x[:, 2:].mean(1)), 1))
    torch.testing.assert_close(ClsMean("mean", prefix=2)(x), (x[:, 0] + x[:, 2:].mean(1)) / 2)
    gem = x[:, 1:].clamp(min=1e-6).pow(4).mean(1).pow(0.25)
    torch.testing.assert_close(ClsGeM()(x), torch.cat((x[:, 0], gem), 1))
    assert (ClsMean().out_dim(8), ClsMean("mean").out_dim(8)) == (16, 8)


def test_gradients_are_equal_sparse_or_weighted():
    x = torch.randn(1, 4, 3, requires_grad=True)
    mask = torch.tensor([[True, True, False, True]])
    (equal,) = torch.autograd.grad(MeanPool()(x, mask).sum(), x)
    assert equal[0, :, 0].tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    (winners,) = torch.autograd.grad(MaxPool()(x, mask).sum(), x)
    assert (winners.sum(1) == 1).all()
    assert int((winners != 0).sum()) == 3
    (front,) = torch.autograd.grad(ClsPool()(x).sum(), x)
    assert front[0, :, 0].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("negative", ["clamp", "shift", "signed"])
@pytest.mark.parametrize("p", [0.5, 3.0, 30.0])
def test_gradients_of_token_gem(negative, p):
    torch.manual_seed(9)
    pool = TokenGeM(p, negative=negative).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    x = x + 0.1 * x.sign()  # away from 0, where clamping has a corner
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False

    def function(features: Tensor, exponent: Tensor) -> Tensor:
        return torch.func.functional_call(pool, {"p": exponent}, (features, mask))

    assert torch.autograd.gradcheck(function, (x.requires_grad_(), pool.p))


X = torch.randn(2, 5, DIM)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2, 4, dtype=torch.bool), "mask has shape"),
        (torch.ones(2, 5, 1, dtype=torch.bool), "mask has shape"),
        (torch.ones(2, 5), "must be bool"),
        (torch.ones(2, 5, dtype=torch.int64), "must be bool"),
        (torch.tensor([[True] * 5, [False] * 5]), "masked"),
    ],
)
def test_wrong_masks(name, mask, message):
    with pytest.raises(UsageError, match=message):
        create_pooling(name, dim=DIM)(X, mask)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MeanPool(-1), "prefix"),
        (lambda: MeanPool(prefix=5)(X), "nothing is left"),
        (lambda: MeanPool(1)(X, torch.tensor([[True, False, False, False, False]] * 2)), "row 0 .* all is masked"),
        (lambda: ClsMean(prefix=0), "hybrid with the class token needs one"),
        (lambda: ClsMean("sum"), "concat, mean"),
        (lambda: TokenGeM(negative="drop"), "clamp, shift, signed"),
        (lambda: TokenGeM(p=0), "p must be"),
        (lambda: PMA(DIM, heads=3), "3 does not divide 8"),
        (lambda: PMA(DIM, seeds=0), "seeds"),
        (lambda: PMA(DIM, merge="max"), "concat, mean"),
        (lambda: PMA(6, heads=2)(X), "built for 6"),
        (lambda: AttentionPool(6)(X), "built for 6"),
        (lambda: AttentionPool(0), "dim"),
    ],
)
def test_wrong_use(call, message):
    with pytest.raises(UsageError, match=message):
        call()

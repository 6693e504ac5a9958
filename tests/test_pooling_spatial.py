"""Global pooling of feature maps: the oracle, the definition, half precision, extreme p, contributions."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retrieval.errors import UsageError
from retrieval.pooling import GeM, GeMChannel, GlobalAvg, GlobalMax


def definition(x: Tensor, p: float) -> Tensor:
    """GeM as it is written, in float64."""
    return x.double().clamp(min=1e-6).pow(p).mean((2, 3)).pow(1 / p)


def relative(actual: Tensor, expected: Tensor) -> float:
    actual, expected = actual.detach(), expected.detach()
    return float(((actual.double() - expected.double()).abs() / expected.double().abs()).max())


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("key", "module"),
    [
        ("gem_p1", GeM(1)),
        ("gem_p2.5", GeM(2.5)),
        ("gem_p3", GeM(3)),
        ("gem_p6.5", GeM(6.5, learn_p=False)),
        ("gem_p3", GeMChannel(16, 3)),
        ("mac", GlobalMax()),
        ("mac", GeM("inf")),
        ("spoc", GlobalAvg()),
    ],
)
def test_oracle(shared_data, key, module):
    with np.load(shared_data / "oracles/layers.npz") as oracle:
        features, expected = torch.from_numpy(oracle["features"]), torch.from_numpy(oracle[key])
    assert relative(module(features), expected) < 1e-6


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), p=st.floats(0.1, 30), height=st.integers(1, 9), width=st.integers(1, 9))
def test_gem_is_its_definition(seed, p, height, width):
    torch.manual_seed(seed)
    x = torch.randn(2, 3, height, width).mul(3).relu()
    got, want = GeM(p)(x), definition(x, float(torch.tensor(p)))
    if p <= 8:
        assert relative(got, want) < 1e-6 * max(1, 1 / p)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    assert (got >= x.mean((2, 3)) * (1 - 1e-6)).all() or p < 1
    assert (got <= x.amax((2, 3)).clamp(min=1e-6) * (1 + 1e-6)).all()


def test_gem_grows_with_p_and_ignores_the_order_of_cells():
    x = torch.rand(2, 4, 5, 6) * 4
    values = [GeM(p)(x) for p in (0.5, 1, 2, 3, 10, 50, 500, "inf")]
    assert all((low < high).all() for low, high in pairwise(values))
    shuffled = x.flatten(2)[..., torch.randperm(30)].reshape(2, 4, 6, 5)
    torch.testing.assert_close(GeM(3)(shuffled), GeM(3)(x))


def test_p_one_is_the_average_and_infinity_the_maximum():
    x = torch.rand(2, 4, 5, 6) + 0.1
    torch.testing.assert_close(GeM(1)(x), GlobalAvg()(x))
    for p in ("inf", math.inf, "Infinity"):
        module = GeM(p)
        assert torch.equal(module(x), GlobalMax()(x))
        assert not list(module.parameters())


def test_each_channel_has_its_own_p():
    x = torch.rand(2, 3, 4, 5)
    module = GeMChannel(3)
    with torch.no_grad():
        module.p.copy_(torch.tensor([1.0, 2.5, 7.0]))
    for channel, p in enumerate((1.0, 2.5, 7.0)):
        torch.testing.assert_close(module(x)[:, channel], definition(x, p)[:, channel].float())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("p", [0.01, 0.5, 1, 3, 8, 50, 1000, "inf"])
def test_extreme_values_stay_finite(dtype, p):
    x = torch.tensor([[0.0, 6e4, 1e-7, 40.3], [0.0] * 4, [6e4] * 4, [1e-3, 1, 2, 3]]).to(dtype)
    x = x.reshape(1, 4, 2, 2).requires_grad_()
    module = GeM(p)
    out = module(x)
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    if isinstance(p, (int, float)):
        assert module.p.grad is not None
        assert module.p.grad.isfinite().all()
        # An inactive channel is eps, a constant one its own value.
        torch.testing.assert_close(out[0, 1:3], torch.tensor([1e-6, float(x.detach()[0, 2, 0, 0])]), rtol=1e-5, atol=0)
    if p == 3:
        torch.testing.assert_close(out.double(), definition(x, 3), rtol=1e-6, atol=0)


@pytest.mark.parametrize("p", [0.5, 1.0, 3.0, 10.0, 30.0])
@pytest.mark.parametrize("per_channel", [False, True])
def test_gradients_of_features_and_p(p, per_channel):
    torch.manual_seed(0)
    x = (torch.rand(2, 3, 3, 4, dtype=torch.float64) + 0.05).requires_grad_()
    module = (GeMChannel(3, p) if per_channel else GeM(p)).double()

    def function(features: Tensor, exponent: Tensor) -> Tensor:
        return torch.func.functional_call(module, {"p": exponent}, (features,))

    assert torch.autograd.gradcheck(function, (x, module.p))


def test_float32_gradients_at_large_p_match_the_closed_form():
    # dy/dx = (x / y)^(p - 1) / n.
    x = (torch.rand(1, 2, 4, 4) * 100).requires_grad_()
    out = GeM(50)(x)
    out.sum().backward()
    expected = (x / out[..., None, None]).double().pow(49) / 16
    torch.testing.assert_close(x.grad.double(), expected.detach(), rtol=1e-4, atol=1e-12)


def test_a_p_that_training_made_negative_acts_as_the_smallest_and_can_recover():
    module = GeM(3)
    x = torch.rand(1, 2, 3, 3) + 0.5
    with torch.no_grad():
        module.p.fill_(-2)
    torch.testing.assert_close(module(x), GeM(0.01)(x))
    module(x).sum().backward()
    assert module.p.grad.item() > 0  # a step along the gradient raises p again


def test_fixed_p_is_saved_but_not_trained():
    module = GeM(4.5, learn_p=False)
    assert not list(module.parameters())
    assert module.state_dict()["p"].tolist() == [4.5]
    assert [name for name, _ in GeM().named_parameters()] == ["p"]


def test_loading_switches_between_power_and_maximum():
    x = torch.rand(1, 2, 3, 3)
    module = GeM(3)
    module.load_state_dict(GeM("inf").state_dict())
    assert torch.equal(module(x), x.amax((2, 3)))
    module.load_state_dict(GeM(2).state_dict())
    torch.testing.assert_close(module(x), definition(x, 2).float())
    mixed = GeMChannel(2)
    with pytest.raises(UsageError, match="infinite"):
        mixed.load_state_dict({"p": torch.tensor([3.0, math.inf])})


def test_autocast_and_half_modules_still_compute_in_float32():
    x = (torch.rand(2, 3, 4, 4) * 6e4).half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = GeM(4)(x)
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, GeM(4)(x.float()))
    torch.testing.assert_close(GeM(4).half()(x), inside)
    assert GeM(4)(x.double()).dtype == torch.float64


@pytest.mark.parametrize(
    "module", [GlobalAvg(), GlobalMax(), GeM(1), GeM(3), GeM(40), GeM("inf"), GeMChannel(4)], ids=repr
)
def test_contributions_sum_to_the_descriptor(module):
    x = torch.randn(2, 4, 5, 6).relu() + 0.01
    parts = module.contribution(x)
    assert parts.shape == x.shape
    torch.testing.assert_close(parts.sum((2, 3)), module(x))
    torch.testing.assert_close(module.contribution_map(x), parts.sum(1))
    weights = torch.randn(2, 4)
    torch.testing.assert_close(module.contribution_map(x, weights).sum((1, 2)), (module(x) * weights).sum(1))
    torch.testing.assert_close(module.contribution_map(x, weights[0])[0], module.contribution_map(x, weights)[0])


def test_contributions_are_x_times_the_gradient():
    # All three are homogeneous of degree one, so Euler's theorem gives each cell's part: x * dy/dx.
    x = (torch.rand(2, 3, 4, 4) + 0.1).requires_grad_()
    for module in (GlobalAvg(), GlobalMax(), GeM(3)):
        (gradient,) = torch.autograd.grad(module(x).sum(), x)
        torch.testing.assert_close(module.contribution(x), x * gradient)


def test_tied_winners_share():
    x = torch.tensor([[1.0, 3.0], [3.0, 0.0]])[None, None]
    expected = torch.tensor([[0.0, 1.5], [1.5, 0.0]])[None, None]
    for module in (GlobalMax(), GeM("inf")):
        assert torch.equal(module.contribution(x), expected)


@pytest.mark.parametrize("p", [0, -1, 0.001, "high", math.nan, None])
def test_wrong_p(p):
    with pytest.raises(UsageError, match="p must be"):
        GeM(p)


@pytest.mark.parametrize("eps", [0, -1, math.inf])
def test_wrong_eps(eps):
    with pytest.raises(UsageError, match="eps"):
        GeM(eps=eps)


def test_wrong_channel_count():
    with pytest.raises(UsageError, match="built for 3 channels"):
        GeMChannel(3)(torch.rand(1, 4, 2, 2))


def test_repr_shows_the_exponent():
    module = GeMChannel(2, 3)
    with torch.no_grad():
        module.p[1] = 4.25
    assert repr(GeM(2.5, learn_p=False)) == "GeM(p=2.5, learn_p=False, eps=1e-06)"
    assert repr(module) == "GeMChannel(dim=2, p=3..4.25, learn_p=True, eps=1e-06)"

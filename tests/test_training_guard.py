"""Extreme rates: exponents stay in their range, a broken network stops the run by name, the last good model stays."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from fakes import write_pictures
from tiny import MODEL

from retrieval.describe.model import load_model
from retrieval.errors import RetrievalError
from retrieval.pooling.power import MAX_P, MIN_P, parse_p
from retrieval.pooling.spatial import GeM
from retrieval.training.config import TrainingConfig
from retrieval.training.network.guard import require_apart, require_finite_weights, spread
from retrieval.training.session import train


@pytest.mark.parametrize("p", [-1e7, -7.0, 0.0, 0.001, 1e9])
def test_p_goes_back_to_its_border(p: float) -> None:
    pooling = GeM()
    with torch.no_grad():
        pooling.p.fill_(p)
    x = torch.rand(2, 3, 5, 5)
    exponent = pooling.exponent(x)
    assert float(exponent.detach().min()) >= MIN_P * 0.999
    assert bool(torch.isfinite(pooling(x)).all())
    assert pooling.hold()
    held = float(pooling.p.detach())
    assert parse_p(held) == held, "a name may say it"
    assert MIN_P <= held <= MAX_P
    assert not pooling.hold()
    pooling(x).sum().backward()
    assert pooling.p.grad is not None
    assert bool(torch.isfinite(pooling.p.grad).all())


def test_p_inside_its_range_is_left_alone() -> None:
    pooling = GeM(p=2.5)
    assert not pooling.hold()
    assert float(pooling.p.detach()) == 2.5
    maximum = GeM(p=math.inf)
    assert not maximum.hold()
    assert math.isinf(float(maximum.p))


def test_spread_by_hand_and_what_counts_as_collapse() -> None:
    turned = np.array([[1, 0], [0.6, 0.8], [0, 1]], np.float32)
    assert spread(turned) == pytest.approx(0.4)  # of 0.4, 1 and 0.2: the median
    alike = np.tile(turned[:1], (8, 1))
    with pytest.raises(RetrievalError, match="collapsed"):
        require_apart(0.1, np.concatenate([alike, turned[2:]]), [True] * 9, "epoch 1", "")
    require_apart(0.0, alike, [True] * 8, "epoch 1", "")  # copies were alike before
    unread = np.full((1, 2), np.nan, np.float32)
    require_apart(0.1, np.concatenate([turned, unread]), [True] * 3 + [False], "epoch 1", "")
    with pytest.raises(RetrievalError, match="not numbers"):
        require_apart(0.1, np.concatenate([turned, unread]), [True] * 4, "epoch 1", "")


def test_weights_that_are_no_numbers_are_named() -> None:
    layer = torch.nn.Linear(3, 2)
    require_finite_weights(layer, "epoch 1", "")
    with torch.no_grad():
        layer.bias[1] = math.nan
    with pytest.raises(RetrievalError, match="bias"):
        require_finite_weights(layer, "epoch 1", "")


@pytest.mark.parametrize(("rate", "p_rate"), [(1e-3, 3000.0), (1e6, 10.0)])
def test_extreme_rates_leave_a_model_that_works(rate: float, p_rate: float, tmp_path: Path) -> None:
    for c in range(5):
        write_pictures(tmp_path / "d" / f"c{c}", 4, seed=c, sizes=((60, 40),))
    config = TrainingConfig(
        data=str(tmp_path / "d"), model=MODEL, size=48, epochs=2, queries=5, pool=20, negatives=2, lr=rate, p_lr=p_rate
    )
    text = ""
    try:
        outcome = train(config, tmp_path / "run")
    except RetrievalError as error:
        text = str(error)
    else:
        assert all(MIN_P <= line["p"] <= MAX_P for line in outcome.metrics)
    assert not text or any(word in text for word in ("collapsed", "not numbers", "not a number"))
    pictures = sorted((tmp_path / "d").rglob("*.png"))
    descriptors = load_model(str(tmp_path / "run"), engine="torch").describe(pictures)
    assert np.isfinite(descriptors).all()
    assert spread(descriptors) > 1e-4

"""Extraction: every item once, batches of one shape, bounded waiting, errors beside results."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from fakes import FakeEngine

from retrieval.describe.extraction import describe_all
from retrieval.errors import ImageError

SHAPES = [(20, 30, 3), (30, 20, 3), (25, 25, 3)]


def picture(i: int) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 256, SHAPES[i % 3], dtype=np.uint8)


def test_every_item_is_described_once_as_if_alone() -> None:
    engine = FakeEngine()
    results = list(describe_all(range(100), picture, lambda: engine))
    assert sorted(r.item for r in results) == list(range(100))
    for r in results:
        assert r.descriptor is not None
        np.testing.assert_array_equal(r.descriptor, FakeEngine().describe(picture(r.item)[None])[0])
    assert engine.described == 100
    assert max(shape[0] for shape in engine.shapes) > 5
    assert all(s[0] * s[1] * s[2] <= engine.batch_pixels for s in engine.shapes)


def test_errors_and_skips_stand_beside_results() -> None:
    def load(i: int) -> np.ndarray | None:
        if i % 3 == 1:
            raise ImageError(f"bad {i}")
        return None if i % 3 == 2 else picture(0)

    results = {r.item: r for r in describe_all(range(30), load, FakeEngine)}
    assert len(results) == 30
    for i, r in results.items():
        assert (r.descriptor is not None) == (i % 3 == 0)
        assert (str(r.error) == f"bad {i}") == (i % 3 == 1)


def test_other_exceptions_are_not_swallowed() -> None:
    def load(i: int) -> np.ndarray:
        raise RuntimeError("a mistake of ours")

    with pytest.raises(RuntimeError, match="ours"):
        list(describe_all(range(3), load, FakeEngine))


def test_no_engine_is_built_when_nothing_is_to_be_described() -> None:
    def never() -> FakeEngine:
        raise AssertionError("built")

    assert [r.item for r in describe_all(range(5), lambda i: None, never)] == list(range(5))


def test_decoding_runs_ahead_only_so_far() -> None:
    started, lock = [0], threading.Lock()

    def load(i: int) -> np.ndarray:
        with lock:
            started[0] += 1
        return picture(0)

    engine = FakeEngine()
    engine.batch_pixels = 1  # batches of one
    for taken, _ in enumerate(describe_all(range(200), load, lambda: engine, workers=2), 1):
        time.sleep(0.001)
        assert started[0] <= taken + 2 * 2 + 1


def test_the_budget_bounds_what_waits() -> None:
    def load(i: int) -> np.ndarray:
        return np.full((10 + i, 10, 3), 128, np.uint8)  # no two of one shape: nothing would ever fill a batch

    seen = []
    for r in describe_all(range(100), load, FakeEngine, workers=2, budget=10_000):
        seen.append(r.item)
        if len(seen) == 1:
            first_at = r.item
    assert len(seen) == 100
    assert first_at < 40


def test_a_descriptor_that_is_not_finite_is_an_error_of_that_picture() -> None:
    class Broken(FakeEngine):
        def describe(self, images: np.ndarray) -> np.ndarray:
            out = super().describe(images)
            out[images[:, 0, 0, 0] == 7] = np.nan
            return out

    def load(i: int) -> np.ndarray:
        array = np.zeros((8, 8, 3), np.uint8)
        array[0, 0, 0] = i
        return array

    failed = [r.item for r in describe_all(range(12), load, Broken) if r.error is not None]
    assert failed == [7]

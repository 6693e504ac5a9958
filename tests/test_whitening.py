"""Whitening against the field's reference, closed forms and its use as a linear layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval.errors import DatasetError, UsageError
from retrieval.models.whitening import Whitening, learn_lw, learn_pca


def pairs(seed=0, count=400, dim=12):
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((dim, dim))
    things = rng.standard_normal((count, dim)) @ mixing + 1.0
    noise = rng.standard_normal((count, dim)) * np.linspace(0.1, 1.0, dim)
    x = np.concatenate([things, things + noise])
    return x, np.arange(count), np.arange(count) + count


@pytest.mark.realdata
@pytest.mark.parametrize("dim", [24, 8])
def test_learned_whitening_equals_the_reference(dim, shared_data: Path):
    path = shared_data / "oracles" / "layers.npz"
    if not path.is_file():
        pytest.skip(f"no {path}")
    oracle = np.load(path)
    x = oracle["Lw_vectors_DxN"].T
    whitening = learn_lw(x, oracle["Lw_qidxs"], oracle["Lw_pidxs"])
    y = whitening.apply(x, dim)
    assert (y.shape, y.dtype) == ((400, dim), np.float32)
    np.testing.assert_allclose(y @ y.T, oracle[f"Lw_similarities_dim{dim}"], atol=1e-5)
    direct = learn_lw(x, oracle["Lw_qidxs"], oracle["Lw_pidxs"], dim).apply(x)
    np.testing.assert_array_equal(direct, y)


def test_learned_whitening_has_its_defining_properties():
    x, q, p = pairs()
    whitening = learn_lw(x, q, p)
    np.testing.assert_allclose(whitening.mean, x[q].mean(axis=0), atol=1e-12)  # of the queries alone
    differences = (x[q] - x[p]) @ whitening.projection.T
    np.testing.assert_allclose(differences.T @ differences / len(q), np.eye(12), atol=1e-9)
    projected = (x - whitening.mean) @ whitening.projection.T
    scatter = projected.T @ projected
    spread = np.diag(scatter)
    np.testing.assert_allclose(scatter, np.diag(spread), atol=1e-7 * spread.max())
    assert (np.diff(spread) <= 0).all()
    assert spread[0] > 2 * spread[-1]
    assert (whitening.kind, dict(whitening.info)) == ("lw", {"images": 800, "pairs": 400})


def test_whitening_is_a_linear_layer_and_l2():
    x, q, p = pairs(1)
    whitening = learn_lw(x, q, p, 5)
    linear = x @ whitening.projection.T + whitening.bias
    y = whitening.apply(x)
    np.testing.assert_allclose(y, linear / (np.linalg.norm(linear, axis=1, keepdims=True) + 1e-6), atol=1e-12)
    assert y.dtype == np.float64
    at_mean = whitening.apply(whitening.mean[None].astype(np.float32))
    assert np.isfinite(at_mean).all()  # no length: the constant keeps it from being divided by zero
    near = whitening.mean + 1e-6 * np.linalg.pinv(whitening.projection)[:, 0]
    assert np.linalg.norm(whitening.apply(near[None])) == pytest.approx(0.5, abs=1e-6)  # length 1e-6: half, not one
    small = whitening.reduced(3)
    np.testing.assert_array_equal(small.apply(x), whitening.apply(x, 3))
    assert small.projection.shape == (3, 12)


def test_fewer_pairs_than_dimensions():
    x, q, p = pairs(2, dim=30)
    whitening = learn_lw(x, q[:10], p[:10])
    assert np.isfinite(whitening.projection).all()
    y = whitening.apply(x)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), 1, atol=1e-4)
    same = learn_lw(np.ones((4, 3)), np.array([0]), np.array([1]))  # no differences at all
    assert np.isfinite(same.projection).all()


@pytest.mark.parametrize("dim", [None, 7])
def test_pca_whitening_gives_identity_covariance(dim):
    x, _, _ = pairs(3)
    whitening = learn_pca(x, dim)
    projected = (x - whitening.mean) @ whitening.projection.T
    np.testing.assert_allclose(projected.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(np.cov(projected.T, bias=True), np.eye(dim or 12), atol=1e-9)
    values = np.sort(np.linalg.eigvalsh(np.cov(x.T, bias=True)))[::-1]
    kept = np.linalg.norm(whitening.projection, axis=1) ** -2  # greatest spread first
    np.testing.assert_allclose(kept, values[:dim], rtol=1e-8)
    assert whitening.info["explained"] == pytest.approx(values[:dim].sum() / values.sum())


@pytest.mark.parametrize("shrinkage", [0.0, 0.3])
def test_pca_of_fewer_images_than_dimensions(shrinkage):
    """The eigenvalues of the whole covariance, zeros included, decide, though only N - 1 directions are spanned."""
    x = np.random.default_rng(5).normal(size=(9, 40)) * np.linspace(1, 3, 40) + 2
    whitening = learn_pca(x, 6, shrinkage)
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    weights = ((1 - shrinkage) * values + shrinkage * values.mean())[:6] ** -0.5
    expected = (x - x.mean(0)) @ vectors[:, :6] * weights
    found = (x - whitening.mean) @ whitening.projection.T
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-9)
    assert whitening.info["explained"] == pytest.approx(values[:6].sum() / values.sum())


def test_shrinkage_moves_eigenvalues_towards_their_mean():
    x, _, _ = pairs(4)
    values = np.sort(np.linalg.eigvalsh(np.cov(x.T, bias=True)))[::-1]
    for s in (0.25, 1.0):
        whitening = learn_pca(x, shrinkage=s)
        projected = (x - whitening.mean) @ whitening.projection.T
        expected = values / ((1 - s) * values + s * values.mean())
        np.testing.assert_allclose(np.cov(projected.T, bias=True), np.diag(expected), atol=1e-9)
    rotated = learn_pca(x, shrinkage=1.0).projection * np.sqrt(values.mean())
    np.testing.assert_allclose(rotated @ rotated.T, np.eye(12), atol=1e-12)


def test_pca_refuses_too_few_images_and_says_how_many():
    x, _, _ = pairs(5, count=20, dim=64)
    with pytest.raises(UsageError, match=r"64 dimensions needs at least 65 images, and there are 40"):
        learn_pca(x)
    with pytest.raises(UsageError, match="at least 41 images"):
        learn_pca(x, 40, shrinkage=0.5)
    assert learn_pca(x, 39).projection.shape == (39, 64)


def test_pca_refuses_descriptors_without_spread():
    x, _, _ = pairs(6)
    flat = np.concatenate([x, np.zeros((800, 3))], axis=1).astype(np.float32)
    with pytest.raises(DatasetError, match="12 directions only, not in 15"):
        learn_pca(flat)
    assert learn_pca(flat, 12).projection.shape == (12, 15)
    assert np.isfinite(learn_pca(flat, shrinkage=0.1).projection).all()
    copies = np.repeat(x[:1], 30, axis=0)
    for shrinkage in (0.0, 0.5):
        with pytest.raises(DatasetError, match="0 directions"):
            learn_pca(copies, 2, shrinkage)


def test_wrong_arguments_are_refused():
    x, q, p = pairs(7)
    broken = x.copy()
    broken[31, 2] = np.nan
    with pytest.raises(DatasetError, match="descriptor 31 "):
        learn_pca(broken)
    with pytest.raises(DatasetError, match="descriptor 31 "):
        learn_lw(broken, q, p)
    whitening = learn_pca(x, 6)
    for wrong in (
        lambda: learn_lw(x, q[:-1], p),
        lambda: learn_lw(x, q[:0], p[:0]),
        lambda: learn_lw(x, q, p + 1),
        lambda: learn_lw(x, q - 1, p),
        lambda: learn_lw(x[0], q, p),
        lambda: learn_lw(x, q, p, 13),
        lambda: learn_pca(x, 13),
        lambda: learn_pca(x, 0),
        lambda: learn_pca(x, shrinkage=1.1),
        lambda: whitening.apply(x, 7),
        lambda: whitening.apply(x[:, :5]),
        lambda: whitening.apply(x[0]),
        lambda: whitening.reduced(0),
        lambda: Whitening(np.zeros(3), np.zeros((2, 4)), "pca"),
    ):
        with pytest.raises(UsageError):
            wrong()

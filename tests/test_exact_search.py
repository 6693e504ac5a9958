"""Exact search is exact in crowds: stored vectors whose lengths are one only as far as their dtype goes, or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from vector_gallery import VectorGallery

from retrieval.gallery.search import index as ann

COUNT, QUERIES, DIM = 1500, 20, 48


@pytest.fixture(autouse=True)
def _no_gallery_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann, "_SMALL", 0)


def crowd(rng: np.random.Generator) -> np.ndarray:
    """Vectors about as near to each other as half precision tells their lengths, float32 (COUNT + QUERIES, D)."""
    centre = rng.standard_normal(DIM)
    near = centre / np.linalg.norm(centre) + 0.002 * rng.standard_normal((COUNT + QUERIES, DIM))
    return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("indexed", [0, COUNT // 2, COUNT])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_best_are_those_of_the_greatest_cosine(tmp_path: Path, indexed: int, dtype: str) -> None:
    """Without an index, with one of half of the vectors and the others beside it, and with one of all."""
    rng = np.random.default_rng(3)
    vectors, queries = np.split(crowd(rng), [COUNT])
    if dtype == "float32":  # as a short pooled vector leaves them
        vectors *= rng.uniform(0.998, 1.0, (COUNT, 1)).astype(np.float32)
    subject = VectorGallery(tmp_path / "g", DIM, dtype=dtype)
    subject.gallery.configure_search("flat")
    if indexed:
        subject.add(vectors[:indexed])
    if indexed < COUNT:
        subject.add(vectors[indexed:], refresh=False)
    stored = vectors.astype(dtype).astype(np.float64)
    lengths = np.linalg.norm(stored, axis=1)
    for query in queries:
        cosines = stored @ query.astype(np.float64) / lengths / np.linalg.norm(query.astype(np.float64))
        order = np.lexsort((np.arange(COUNT), -cosines))[:10]
        found = subject.gallery.search(query[None], 10)[0]
        assert [m.id - 1 for m in found] == order.tolist()

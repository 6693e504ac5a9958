"""A model that needs no network: descriptors are functions of the pixels, computed in a millisecond."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from PIL import Image

from retrieval.describe.model import Model
from retrieval.gallery.gallery import Gallery
from retrieval.models.spec import ImageRule, ModelSpec, WeightsRef

DIM = 48


class FakeEngine:
    """Averages over a 4 x 4 grid, three colours, unit length. ``described`` counts the pictures seen."""

    name = "fake"
    dim = DIM
    batch_pixels = 20_000

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.described = 0
        self.shapes: list[tuple[int, ...]] = []

    def describe(self, images: np.ndarray) -> np.ndarray:
        assert images.dtype == np.uint8
        assert images.ndim == 4
        self.described += len(images)
        self.shapes.append(images.shape)
        time.sleep(self.seconds * len(images))
        n, h, w, _ = images.shape
        rows = np.minimum(np.arange(h) * 4 // h, 3)
        columns = np.minimum(np.arange(w) * 4 // w, 3)
        out = np.zeros((n, 4, 4, 3))
        for i in range(4):
            for j in range(4):
                cell = images[:, rows == i][:, :, columns == j].astype(np.float64)
                out[:, i, j] = cell.mean(axis=(1, 2)) if cell.size else 0
        flat = out.reshape(n, -1) - 100
        return (flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def fake_model(engine: FakeEngine | None = None, weights: str = "a") -> Model:
    spec = ModelSpec("fake", WeightsRef("fake", weights * 64), {"name": "grid"}, DIM, None, ImageRule(size=64))
    model = Model(spec)
    model._engine = engine or FakeEngine()
    return model


def fake_gallery(folder: Path, engine: FakeEngine | None = None, dtype: str = "float32") -> Gallery:
    """A new gallery with the fake model, or the one that is there."""
    model = fake_model(engine)
    gallery = Gallery.open(folder) if (folder / "gallery.json").exists() else Gallery.create(folder, model, dtype=dtype)
    gallery.model._engine = model._engine
    return gallery


def write_pictures(
    folder: Path, count: int, seed: int = 0, sizes: tuple[tuple[int, int], ...] = ((40, 30),)
) -> list[Path]:
    """``count`` different pictures of coarse random patterns; sizes (width, height) take turns."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        path = folder / f"{i:04d}.png"
        coarse.resize(sizes[i % len(sizes)], Image.Resampling.BICUBIC).save(path)
        paths.append(path)
    return paths

"""Pictures with many local features, drawn from a seed."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def texture(seed: int, size: tuple[int, int] = (480, 360), shapes: int = 160) -> Pixels:
    """Overlapping ellipses of random colours, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    image = np.full((size[1], size[0], 3), 128, np.uint8)
    for _ in range(shapes):
        centre = int(rng.integers(size[0])), int(rng.integers(size[1]))
        axes = int(rng.integers(4, 40)), int(rng.integers(3, 25))
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        cv2.ellipse(image, centre, axes, float(rng.integers(180)), 0, 360, colour, -1)
    return image


def turned(image: Pixels, degrees: float = 15, scale: float = 0.8) -> Pixels:
    """The same from elsewhere."""
    height, width = image.shape[:2]
    warp = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, scale)
    return np.asarray(cv2.warpAffine(image, warp, (width, height), borderValue=(90, 90, 90)), np.uint8)


def write_textures(folder: Path, count: int, first: int = 0, size: tuple[int, int] = (240, 180)) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:04d}.png" for i in range(first, first + count)]
    for i, path in enumerate(paths, first):
        Image.fromarray(texture(i, size, 60)).save(path)
    return paths

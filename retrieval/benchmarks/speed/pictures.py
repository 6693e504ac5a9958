"""Pictures for measuring speed: people's own at exact sizes, or drawn ones with the spectrum of photographs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from retrieval.errors import ImageError, UsageError
from retrieval.pictures import imaging

_SHAPES = ((1200, 900), (900, 1200), (1200, 800), (1200, 675))  # width, height: as cameras and phones have them


def draw_pictures(folder: str | os.PathLike[str], count: int, seed: int = 0) -> list[str]:
    """``count`` JPEG files of noise whose amplitude falls as 1 / frequency, as in natural pictures (Field, 1987)."""
    rng = np.random.default_rng(seed)
    paths = []
    for i in range(count):
        width, height = _SHAPES[i % len(_SHAPES)]
        frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
        frequency[0, 0] = 1
        channels = []
        for _ in range(3):
            spectrum = np.fft.rfft2(rng.standard_normal((height, width))) / frequency
            spectrum[0, 0] = 0
            noise = np.fft.irfft2(spectrum, s=(height, width))
            channels.append(128 + 50 * noise / noise.std())
        pixels = np.clip(np.stack(channels, axis=2), 0, 255).astype(np.uint8)
        path = Path(folder) / f"{i:04d}.jpg"
        Image.fromarray(pixels).save(path, quality=90)
        paths.append(str(path))
    return paths


def load_at(paths: Sequence[str], size: int, count: int) -> list[np.ndarray]:
    """``count`` pictures, evenly chosen, uint8 (H, W, 3), their longest side brought to ``size``, up as well as down (what a
    network costs depends on the size alone). Those that cannot be read are passed over. Raises UsageError for none."""
    step = max(1.0, len(paths) / count)
    pictures = []
    for i in range(min(count, len(paths))):
        try:
            array = imaging.load_picture(paths[int(i * step)], size=size).array
        except ImageError:
            continue
        height, width = array.shape[:2]
        if max(height, width) != size:
            factor = size / max(height, width)
            target = (max(1, round(width * factor)), max(1, round(height * factor)))
            array = np.array(Image.fromarray(array).resize(target, Image.Resampling.BICUBIC))
        pictures.append(array)
    if not pictures:
        raise UsageError("none of the pictures can be read")
    return pictures

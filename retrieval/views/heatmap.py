"""Terms of a cosine drawn over their picture: warm where a cell adds to it, blue where it takes away."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrieval.errors import UsageError

# Strength 0..1 -> red, green, blue, opacity. Between the stops the colours are mixed.
_STOPS = (0.0, 0.35, 0.7, 1.0)
_WARM = np.array([(40, 20, 90, 0.5), (190, 40, 90, 0.42), (250, 130, 30, 0.5), (255, 235, 120, 0.62)])
_COLD = np.array([(40, 20, 90, 0.5), (40, 80, 170, 0.5), (40, 140, 220, 0.55), (150, 220, 255, 0.62)])
_STEEP = 0.8  # below 1, weak cells can be told apart


def strengths(terms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Terms (rows, columns) in parts of the largest, -1 to 1; 0 where all are."""
    largest = float(np.abs(terms).max()) if terms.size else 0.0
    if not np.isfinite(largest) or largest == 0:
        return np.zeros(terms.shape)
    share = terms / largest
    result: npt.NDArray[np.float64] = np.sign(share) * np.abs(share) ** _STEEP
    return result


def looks(attention: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Attention (heads, rows, columns) as :func:`overlay` takes it, (rows, columns): the mean of heads, 0 where it is least."""
    mean: npt.NDArray[np.float64] = attention.mean(axis=0)
    return mean - mean.min()


def overlay(picture: npt.NDArray[np.uint8], terms: npt.NDArray[np.float64]) -> Image.Image:
    """The picture, uint8 (H, W, 3), under the colours of its cells' terms (rows, columns), as RGB of the same size.

    Raises UsageError for other shapes.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or terms.ndim != 2 or not terms.size:
        raise UsageError(
            f"a picture (H, W, 3) and terms (rows, columns) are needed, not {picture.shape}, {terms.shape}"
        )
    height, width = picture.shape[:2]
    cells = Image.fromarray(strengths(terms).astype(np.float32))
    smooth = np.clip(np.asarray(cells.resize((width, height), Image.Resampling.BICUBIC), np.float64), -1, 1)
    colours = np.where((smooth >= 0)[..., None], _coloured(smooth, _WARM), _coloured(-smooth, _COLD))
    opacity = colours[..., 3:]
    mixed = picture * (1 - opacity) + colours[..., :3] * opacity
    return Image.fromarray(np.clip(np.rint(mixed), 0, 255).astype(np.uint8))


def _coloured(strength: npt.NDArray[np.float64], table: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    flat = np.clip(strength, 0, 1)
    return np.stack([np.interp(flat, _STOPS, table[:, channel]) for channel in range(4)], axis=-1)

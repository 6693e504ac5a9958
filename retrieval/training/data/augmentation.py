"""Random changes to a training picture, decided by a seed alone: no global random state is read or moved.

So the same seed gives the same picture in any thread, process or resumed run. The operations are torchvision's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from retrieval.errors import UsageError


@dataclass(frozen=True)
class Preset:
    """Ranges to draw from; every change is left out where its range is trivial.

    ``area``: least share of the picture's area that a crop keeps; ``aspect``: by what factor its width may change against
    its height; ``mirror``: probability of a horizontal flip; ``degrees`` of rotation to either side; ``light``: brightness,
    contrast and saturation are multiplied by factors in [1 - light, 1 + light]; ``hue``: turned by up to this share of the
    circle; ``grey`` and ``blur``: probabilities.
    """

    area: float = 1.0
    aspect: float = 1.0
    mirror: float = 0.0
    degrees: float = 0.0
    light: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0


# "light" keeps what photos of one thing have in common, lettering included; "views" imitates another photo of it, for
# pictures of which there is only one.
PRESETS: dict[str, Preset] = {
    "none": Preset(),
    "light": Preset(area=0.6, aspect=1.1, light=0.2),
    "views": Preset(area=0.35, aspect=1.25, degrees=10, light=0.4, hue=0.03, grey=0.1, blur=0.3),
}


def augment(array: np.ndarray, preset: str, rng_seed: int) -> np.ndarray:
    """A changed copy of a picture, uint8 (H, W, 3) RGB -> uint8 (H', W', 3), C-contiguous.

    A crop is brought back to the longest side that the picture had, so H' and W' follow the crop's aspect ratio. ``"none"``
    returns the picture as it is. Raises UsageError for an unknown preset or another kind of array.
    """
    chosen = require_preset(preset)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise UsageError(f"a picture must be uint8 (H, W, 3), not {array.dtype} {array.shape}")
    if chosen == Preset():
        return array
    rng = np.random.default_rng(rng_seed)
    # All numbers are drawn, whatever is then used of them, so that one range does not change what another one gives.
    draw = {name: float(rng.random()) for name in _DRAWS}
    image = torch.from_numpy(np.require(array, requirements=("C", "W"))).permute(2, 0, 1)
    if chosen.degrees:
        image = _rotate(image, (2 * draw["degrees"] - 1) * chosen.degrees)
    image = _crop(image, chosen, draw, max(array.shape[:2]))
    if draw["mirror"] < chosen.mirror:
        image = F.horizontal_flip(image)
    if chosen.light:
        image = F.adjust_brightness(image, 1 + chosen.light * (2 * draw["brightness"] - 1))
        image = F.adjust_contrast(image, 1 + chosen.light * (2 * draw["contrast"] - 1))
        image = F.adjust_saturation(image, 1 + chosen.light * (2 * draw["saturation"] - 1))
    if chosen.hue:
        image = F.adjust_hue(image, chosen.hue * (2 * draw["hue"] - 1))
    if draw["grey"] < chosen.grey:
        image = F.rgb_to_grayscale(image, num_output_channels=3)
    if draw["blur"] < chosen.blur:
        sigma = 0.3 + 1.2 * draw["sigma"]
        reach = min(math.ceil(2 * sigma), min(image.shape[1:]) - 1)
        image = F.gaussian_blur(image, kernel_size=[2 * reach + 1] * 2, sigma=[sigma] * 2)
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


_DRAWS = (
    *("degrees", "area", "aspect", "left", "top", "mirror", "brightness", "contrast", "saturation", "hue"),
    *("grey", "blur", "sigma"),
)


def require_preset(name: str) -> Preset:
    """The preset called ``name``. Raises UsageError that lists what exists."""
    if name not in PRESETS:
        raise UsageError(f"no augmentation is called {name!r}", f"There are: {', '.join(PRESETS)}.")
    return PRESETS[name]


def view_seed(seed: int, epoch: int, place: int, view: int) -> int:
    """A seed for :func:`augment`: of the picture at ``place`` in an epoch's order, in its ``view`` (0 the query, 1 the
    positive, 2 and on the negatives). Different arguments give independent seeds."""
    return int(np.random.SeedSequence([seed, epoch, place, view]).generate_state(1, np.uint64)[0])


def _crop(image: torch.Tensor, preset: Preset, draw: dict[str, float], longest: int) -> torch.Tensor:
    """A part of the picture, brought to ``longest`` pixels on its longest side."""
    if preset.area == 1 and preset.aspect == 1:
        return image
    height, width = image.shape[1:]
    share = preset.area + (1 - preset.area) * draw["area"]
    stretch = float(preset.aspect ** (2 * draw["aspect"] - 1))
    # Of the picture's own proportions times ``stretch``, cut to what fits.
    wide = min(width, max(1, round(width * (share * stretch) ** 0.5)))
    high = min(height, max(1, round(height * (share / stretch) ** 0.5)))
    left, top = int(draw["left"] * (width - wide + 1)), int(draw["top"] * (height - high + 1))
    scale = longest / max(wide, high)
    size = [max(1, round(high * scale)), max(1, round(wide * scale))]
    return F.resized_crop(image, top, left, high, wide, size, InterpolationMode.BILINEAR, antialias=True)


def _rotate(image: torch.Tensor, degrees: float) -> torch.Tensor:
    """Turned about its centre, and cut to the largest upright rectangle of the same proportions without empty corners."""
    height, width = image.shape[1:]
    turned = F.rotate(image, degrees, InterpolationMode.BILINEAR)
    sine, cosine = abs(float(np.sin(np.radians(degrees)))), float(np.cos(np.radians(degrees)))
    share = min(width / (width * cosine + height * sine), height / (width * sine + height * cosine))
    # Two pixels less: at the very edge the empty outside is mixed in.
    return F.center_crop(turned, [max(1, int(height * share) - 2), max(1, int(width * share) - 2)])

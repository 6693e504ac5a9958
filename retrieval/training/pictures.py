"""Training pictures on their way to the network: decoded and augmented ahead in threads, in a fixed order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from retrieval.describe.extraction import describe_all
from retrieval.errors import ImageError
from retrieval.messages import no_update
from retrieval.models.network import Describer, RetrievalNetwork
from retrieval.models.spec import ImageRule
from retrieval.pictures import imaging
from retrieval.training.augmentation import augment

_STEP = 32  # pixels between aspect-ratio buckets: what the backbones' maps are coarser by

View = tuple[int, int]  # position of a picture in the training set, and the seed of its augmentation


@dataclass(frozen=True)
class Pictures:
    """Pictures by their positions in a list of files; ``rule`` says how they are read, ``preset`` how they are augmented."""

    paths: Sequence[Path]
    rule: ImageRule
    preset: str = "none"

    def load(self, position: int) -> np.ndarray:
        """A picture as it is described: uint8 (H, W, 3). Raises ImageError."""
        rule = self.rule
        path = self.paths[position]
        return imaging.load_picture(path, size=rule.size, interpolation=rule.interpolation, exif=rule.exif).array

    def view(self, view: View) -> np.ndarray:
        """A picture as it is trained on: as it is, or augmented and in a bucket's shape. Raises ImageError."""
        array = self.load(view[0])
        if self.preset == "none":
            return array
        return to_bucket(augment(array, self.preset, view[1]), max(array.shape[:2]))


def to_bucket(array: np.ndarray, longest: int) -> np.ndarray:
    """A picture, uint8 (H, W, 3), resized so that its longest side is ``longest`` and the other one the nearest multiple of 32
    (or ``longest``). Random crops have all shapes; pictures of few shapes go through the network together, which takes less
    time. The stretch is at most half a step, less than the crops' own."""
    height, width = array.shape[:2]
    short = longest * min(height, width) / max(height, width)
    steps = [*range(_STEP, longest, _STEP), longest]
    fitted = min(steps, key=lambda side: abs(side - short))
    size = (longest, fitted) if width >= height else (fitted, longest)
    if size == (width, height):
        return array
    return np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BILINEAR))


@dataclass(frozen=True)
class Unreadable:
    """A picture that could not be read while training, and why."""

    position: int
    reason: str


def ahead(
    groups: Iterable[Sequence[View]], load: Callable[[View], np.ndarray], workers: int, pictures_ahead: int = 48
) -> Iterator[list[np.ndarray] | Unreadable]:
    """The pictures of each group, in order, decoded in ``workers`` threads while those before are trained on. A group with
    an unreadable picture gives :class:`Unreadable` in its place."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    waiting: deque[tuple[Sequence[View], list[Future[np.ndarray]]]] = deque()
    count = 0
    source = iter(groups)
    try:
        while True:
            while count < pictures_ahead and (group := next(source, None)) is not None:
                waiting.append((group, [pool.submit(load, view) for view in group]))
                count += len(group)
            if not waiting:
                return
            group, futures = waiting.popleft()
            count -= len(group)
            yield _collect(group, futures)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _collect(group: Sequence[View], futures: list[Future[np.ndarray]]) -> list[np.ndarray] | Unreadable:
    arrays = []
    for view, future in zip(group, futures, strict=True):
        try:
            arrays.append(future.result())
        except ImageError as error:
            return Unreadable(view[0], error.message)
    return arrays


def decode_workers(workers: int | None = None) -> int:
    """How many threads decode, by the processors at hand unless it is said."""
    return workers or max(2, min(8, os.cpu_count() or 2))


class LiveEngine:
    """A network in training as an engine (:class:`retrieval.engines.base.Engine`): in evaluation mode while it describes,
    without a trace in the network or in torch's random state."""

    name = "live"

    def __init__(self, network: RetrievalNetwork, rule: ImageRule, device: torch.device, dim: int) -> None:
        self.describer = Describer(network, replace(rule, scales=(1.0,))).to(device)
        self.device = device
        self.dim = dim
        self.batch_pixels = 16_000_000 if device.type == "cuda" else 1_200_000

    def describe(self, images: np.ndarray) -> np.ndarray:
        with evaluating(self.describer), torch.inference_mode():
            return self.describer(torch.from_numpy(images).to(self.device)).float().cpu().numpy()


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode; afterwards every part is in the mode it was in, and torch's random state is where it was."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode


def describe_pictures(
    positions: Sequence[int] | np.ndarray,
    load: Callable[[int], np.ndarray],
    engine: LiveEngine,
    *,
    workers: int,
    update: Callable[[int, int], object] = no_update,
) -> tuple[np.ndarray, dict[int, str]]:
    """Descriptors of pictures, float32 (N, D) in the order of ``positions``, and the reasons by position of those that cannot
    be described, whose rows are NaN. Each different picture is described once."""
    different, rows = np.unique(np.asarray(positions, np.int64), return_inverse=True)
    out = np.full((len(different), engine.dim), np.nan, np.float32)
    place = {int(position): row for row, position in enumerate(different)}
    reasons: dict[int, str] = {}
    for done, result in enumerate(describe_all(place, load, lambda: engine, workers=workers), 1):
        if result.error is not None:
            reasons[result.item] = result.error.message
        else:
            out[place[result.item]] = result.descriptor
        update(done, len(place))
    return out[rows], reasons


def by_shape(arrays: Sequence[np.ndarray]) -> list[tuple[list[int], Tensor]]:
    """Pictures of equal shape together: their places in ``arrays``, and uint8 (n, H, W, 3)."""
    places: dict[tuple[int, ...], list[int]] = {}
    for i, array in enumerate(arrays):
        places.setdefault(array.shape, []).append(i)
    return [(chosen, torch.from_numpy(np.stack([arrays[i] for i in chosen]))) for chosen in places.values()]

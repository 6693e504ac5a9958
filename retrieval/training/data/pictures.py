"""Training pictures on their way to the network: decoded and augmented ahead in threads, in a fixed order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from retrieval.errors import ImageError
from retrieval.models.spec import ImageRule
from retrieval.pictures import imaging
from retrieval.training.data.augmentation import augment

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


def by_shape(arrays: Sequence[np.ndarray]) -> list[tuple[list[int], Tensor]]:
    """Pictures of equal shape together: their places in ``arrays``, and uint8 (n, H, W, 3)."""
    places: dict[tuple[int, ...], list[int]] = {}
    for i, array in enumerate(arrays):
        places.setdefault(array.shape, []).append(i)
    return [(chosen, torch.from_numpy(np.stack([arrays[i] for i in chosen]))) for chosen in places.values()]

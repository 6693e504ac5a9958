"""The altered copies of each step, made ahead in threads; all that is random follows from the seed and the step."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from retrieval.errors import ImageError
from retrieval.models.spec import ImageRule
from retrieval.pictures import imaging
from retrieval.training.copies.alter import CopyPreset, altered
from retrieval.training.copies.config import CopiesConfig
from retrieval.training.copies.things import Things, draw_pairs
from retrieval.views.sheet import save_sheet

Job = tuple[int, int, int, int]  # of a copy: its picture and another one by position, seed, longest side
Pairs = list[tuple[int, int]]


class CopyFeed:
    """Pairs of a step, and their copies."""

    def __init__(self, things: Things, config: CopiesConfig, rule: ImageRule, workers: int) -> None:
        self.things, self.config, self.rule, self.workers = things, config, rule, workers
        self.preset = CopyPreset(dark=config.dark)

    def step(self, step: int, steps: int | None) -> tuple[Pairs, list[Job]]:
        """The N pairs of a step of ``steps``, and its 2N copies: the first of each pair, then the second of each."""
        config = self.config
        pairs = draw_pairs(self.things, pairs=config.pairs, view_share=config.view_share, seed=config.seed, step=step)
        rng = np.random.default_rng([config.seed, step, 2])
        size = self.size_at(step, steps)
        asked = [pair[side] for side in (0, 1) for pair in pairs]
        others = rng.integers(0, len(self.things.paths), len(asked))
        seeds = rng.integers(0, 2**62, len(asked))
        return pairs, [(p, int(o), int(s), size) for p, o, s in zip(asked, others, seeds, strict=True)]

    def size_at(self, step: int, steps: int | None) -> int:
        """The longest side in pixels at a step: ``last_size`` in the last third."""
        config = self.config
        if config.last_size is None or steps is None or 3 * step < 2 * steps:
            return config.size
        return config.last_size

    def copy(self, job: Job) -> np.ndarray:
        """An altered copy, uint8 (H, W, 3). Raises ImageError where its picture cannot be read."""
        position, other, seed, size = job
        picture = self._load(position, 2 * size)
        over = None
        if np.random.default_rng([seed, 1]).random() < self.preset.overlay:
            try:
                over = self._load(other, size)
            except ImageError:
                over = None
        return altered(picture, size, seed, other=over, preset=self.preset)

    def batches(
        self, first: int, steps: Callable[[], int | None]
    ) -> Generator[list[np.ndarray | ImageError], None, None]:
        """The copies of each step from ``first`` on; the next step's are made while one is trained on."""

        def attempt(job: Job) -> np.ndarray | ImageError:
            try:
                return self.copy(job)
            except ImageError as error:
                return error

        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="alter")
        try:
            waiting = [pool.submit(attempt, job) for job in self.step(first, steps())[1]]
            step = first
            while True:
                step += 1
                ahead = [pool.submit(attempt, job) for job in self.step(step, steps())[1]]
                yield [future.result() for future in waiting]
                waiting = ahead
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _load(self, position: int, size: int) -> np.ndarray:
        array: np.ndarray = imaging.load_picture(
            self.things.paths[position], size=size, interpolation=self.rule.interpolation, exif=self.rule.exif
        ).array
        return array


def preview_pairs(feed: CopyFeed, steps: int | None, path: str | os.PathLike[str], rows: int = 24) -> None:
    """A contact sheet of pairs of the first step, ``rows`` of them, the two copies of each side by side: .jpg or .png.
    Pictures that cannot be read stay white. Raises UsageError where it cannot be written."""
    from PIL import Image

    pairs, jobs = feed.step(0, steps)
    side, shown = feed.size_at(0, steps), min(rows, len(pairs))
    sheet = np.full((side * math.ceil(shown / 4), side * 8, 3), 255, np.uint8)
    for i in range(shown):
        for half in (0, 1):
            try:
                copy = feed.copy(jobs[i + half * len(pairs)])
            except ImageError:
                continue
            top, left = side * (i // 4), side * (2 * (i % 4) + half)
            sheet[top : top + copy.shape[0], left : left + copy.shape[1]] = copy
    save_sheet(Image.fromarray(sheet), path)

"""What a run of the recipe "copies" is asked to do, as plain data: everything that decides its result."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from retrieval.errors import UsageError
from retrieval.training.config import anchored_path, read_form

RECIPE = "copies"


@dataclass(frozen=True)
class CopiesConfig:
    """A run that can be repeated. Raises UsageError for values out of range.

    ``data`` and ``also``: folders of pictures and lists of them, see :func:`retrieval.training.copies.things.read_things`.
    ``model``: where to start. ``steps``: how often the weights move; with ``hours`` instead, they are counted out from the
    speed of the first ones and written into the run's state. ``pairs``: in a step; ``view_share``: of them, of groups of views.
    ``size``: longest side in pixels, in the last third ``last_size``. ``temperature`` of InfoNCE; ``koleo``: weight of that
    loss; ``head``: outputs of the linear layer that only training has (0: none). ``dark``: probability of a copy at night.
    ``lr``, ``weight_decay``: of AdamW; the rate rises over ``warmup`` steps and falls with a cosine to zero.
    ``chunk``: pictures whose intermediate results are held at once (0: all); more than these are computed twice.
    ``momentum``: decay of a second encoder that follows the first and fills a ``queue`` of its descriptors of earlier
    batches, which are further negatives (He et al., CVPR 2020). ``teacher``: a model whose cosines between the copies of a
    step are learned too, with ``teacher_weight``. ``amp``: bfloat16 in the backbone. ``save_every``: steps between
    checkpoints.
    """

    data: str
    model: str
    recipe: str = RECIPE
    also: tuple[str, ...] = ()
    steps: int | None = None
    hours: float | None = None
    pairs: int = 56
    view_share: float = 0.1
    size: int = 160
    last_size: int | None = None
    temperature: float = 0.05
    koleo: float = 0.3
    head: int = 512
    dark: float = 0.25
    lr: float = 1e-4
    weight_decay: float = 1e-4
    warmup: float = 20.0
    chunk: int = 0
    momentum: float = 0.0
    queue: int = 0
    teacher: str | None = None
    teacher_weight: float = 10.0
    amp: bool = False
    seed: int = 0
    save_every: int = 50

    def __post_init__(self) -> None:
        if self.recipe != RECIPE:
            raise UsageError(f"no recipe is called {self.recipe!r}", f"There is: {RECIPE}.")
        least = {"pairs": 2, "size": 32, "head": 0, "chunk": 0, "queue": 0, "seed": 0, "save_every": 1}
        for name, low in least.items():
            _whole(name, getattr(self, name), low)
        for name, low in {"steps": 1, "last_size": 32}.items():
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), low)
        if (self.steps is None) == (self.hours is None):
            raise UsageError("a run ends after --steps or after --hours: one of them must be named")
        if self.hours is not None:
            _number("hours", self.hours)
        for name in ("temperature", "lr", "teacher_weight"):
            _number(name, getattr(self, name))
        for name in ("koleo", "weight_decay", "warmup"):
            _number(name, getattr(self, name), zero=True)
        for name in ("view_share", "dark"):
            if not 0 <= _number(name, getattr(self, name), zero=True) <= 1:
                raise UsageError(f"{name} is a share between 0 and 1, not {getattr(self, name)}")
        if not 0 <= _number("momentum", self.momentum, zero=True) < 1:
            raise UsageError(f"momentum is a decay below 1 such as 0.99, not {self.momentum}")
        if self.queue and not self.momentum:
            raise UsageError("a queue of old descriptors needs a momentum encoder", "Name --momentum 0.99 too.")

    def anchored(self) -> CopiesConfig:
        """The same with absolute paths, so that it means the same in another folder."""
        paths = {name: anchored_path(getattr(self, name)) for name in ("data", "model")}
        teacher = None if self.teacher is None else anchored_path(self.teacher)
        return CopiesConfig(
            **{**self.__dict__, **paths, "also": tuple(map(anchored_path, self.also)), "teacher": teacher}
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> CopiesConfig:
        """From a file that :meth:`to_json` was written to. Raises UsageError for anything else."""
        form = read_form(path)
        odd = sorted(set(form) - {field.name for field in fields(cls)})
        if odd or not {"data", "model"} <= set(form):
            raise UsageError(
                f"{os.fspath(path)} is not a configuration of this recipe" + (f": it has {odd[0]!r}" if odd else "")
            )
        form["also"] = tuple(form.get("also", ()))
        return cls(**form)


def is_copies_run(path: str | os.PathLike[str]) -> bool:
    """Whether the folder ``path`` holds a run of this recipe."""
    file = Path(path) / "config.json"
    return file.is_file() and read_form(file).get("recipe") == RECIPE


def _whole(name: str, value: Any, low: int) -> None:
    if type(value) is not int or value < low:
        raise UsageError(f"{name} must be a whole number of at least {low}, not {value!r}")


def _number(name: str, value: Any, *, zero: bool = False) -> float:
    least = "at least 0" if zero else "above 0"
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not 0 <= value < math.inf
        or not (zero or value)
    ):
        raise UsageError(f"{name} must be a number {least}, not {value!r}")
    return float(value)

"""What a training run is asked to do, as plain data: everything that decides its result, and nothing of the machine."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from retrieval.errors import UsageError

OPTIMISERS = ("adam", "adamw", "sgd")
SCHEDULES = ("exponential", "cosine", "constant")
_SHARE = 0.1  # of the clusters, held out where nothing else is said
_ENOUGH = 20  # clusters, from which on some are held out


@dataclass(frozen=True)
class TrainingConfig:
    """A run that can be repeated. Raises UsageError for values out of range.

    ``data``, ``kind``, ``images``: see :func:`retrieval.training.data.sources.read_training_set`. ``model``: where to start, by
    name or path. ``loss``: see :func:`retrieval.training.losses.create_loss`; ``margin`` None: see :func:`default_margin`.

    ``queries``, ``pool``, ``negatives``, ``repick``: the tuples of an epoch, see :mod:`retrieval.training.data.mining`.
    ``tuples_per_step``: how many tuples' gradients are summed before the weights move.

    ``lr``: the learning rate; ``p_lr``: by what it is multiplied for the exponent of the pooling; ``fixed_p``: it is not
    learned. ``freeze_backbone``: the head is learned alone, the exponent and a whitening layer. ``schedule``: exponential
    (times exp(-0.01) an epoch), cosine (to zero at the last epoch) or constant;
    ``warmup``: epochs in which the rate rises from zero. ``ema``: decay of an average of the weights, which then is what
    is validated and kept (0: none).

    ``size``: longest side in pixels, aspect ratio kept; ``augment``: a preset (None: ``views`` for unlabelled pictures,
    else ``light``). ``validate``: a share of the clusters to hold out, the path of a ground truth, or ``none`` (None: a
    tenth of the clusters where there are 20 or more). ``patience``: epochs without a better mAP after which training stops.
    ``whiten_layer``: dimensions of a linear layer after the pooling, which starts as a learned whitening. ``avoid``: ground
    truths whose queries' look-alikes, of a cosine of ``avoid_above`` or more, are left out. ``amp``: bfloat16 in the
    backbone. ``save_every``: steps between checkpoints.
    """

    data: str
    model: str
    kind: str = "auto"
    images: str | None = None
    loss: str = "contrastive"
    margin: float | None = None
    negatives: int = 5
    queries: int = 2000
    pool: int = 20_000
    repick: bool = False
    tuples_per_step: int = 5
    epochs: int = 30
    lr: float = 5e-5
    optimiser: str = "adam"
    weight_decay: float = 1e-6
    schedule: str = "exponential"
    warmup: float = 0.0
    p_lr: float = 10.0
    fixed_p: bool = False
    freeze_backbone: bool = False
    ema: float = 0.0
    size: int = 362
    augment: str | None = None
    validate: str | None = None
    patience: int | None = None
    whiten_layer: int | None = None
    avoid: tuple[str, ...] = ()
    avoid_above: float = 0.8
    amp: bool = False
    seed: int = 0
    save_every: int = 100

    def __post_init__(self) -> None:
        least = {"negatives": 1, "queries": 1, "pool": 1, "tuples_per_step": 1, "epochs": 1, "save_every": 1, "seed": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if type(value) is not int or value < low:
                raise UsageError(f"{name} must be a whole number of at least {low}, not {value!r}")
        for name, low in {"patience": 1, "whiten_layer": 1}.items():
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < low):
                raise UsageError(f"{name} must be a whole number of at least {low}, not {value!r}")
        for name in ("lr", "p_lr", "weight_decay", "warmup", "ema"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise UsageError(f"{name} must be a number of at least 0, not {value!r}")
        if self.lr == 0:
            raise UsageError("a learning rate of 0 trains nothing")
        if self.ema >= 1:
            raise UsageError(f"ema is the decay of an average, below 1 such as 0.999, not {self.ema}")
        if not 16 <= self.size <= 16384:
            raise UsageError(f"image size {self.size} is not between 16 and 16384 pixels")
        if self.optimiser not in OPTIMISERS:
            raise UsageError(f"unknown optimiser {self.optimiser!r}", f"Known: {', '.join(OPTIMISERS)}.")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"unknown schedule {self.schedule!r}", f"Known: {', '.join(SCHEDULES)}.")

    def require_possible(self, device: str) -> None:
        """Raises UsageError for what is wrong here and now although the values are in range: an unknown preset or loss, a
        loss without such a parameter, half precision where nothing gains by it. Imports torch."""
        from retrieval.training.data.augmentation import require_preset
        from retrieval.training.losses import create_loss
        from retrieval.training.network.half import require_half_precision

        if self.augment is not None:
            require_preset(self.augment)
        create_loss(self.loss, **({} if self.margin is None else {"margin": self.margin}))
        require_half_precision(self.amp, device)

    def preset(self, *, two_views: bool) -> str:
        """The preset of augmentation, where a picture's positive is another view of itself (``two_views``) or not."""
        return self.augment or ("views" if two_views else "light")

    def loss_parameters(self, backbone: str, whiten_layer: bool) -> dict[str, float]:
        """Keyword arguments of the loss: its margin, if it has one."""
        margin = default_margin(self.loss, backbone, whiten_layer) if self.margin is None else self.margin
        return {} if margin is None else {"margin": margin}

    def share_held_out(self, clusters: int) -> float:
        """What part of ``clusters`` clusters is held out for validation; 0 where none is.

        Raises UsageError where ``validate`` is a number outside (0, 1).
        """
        if self.validate is None:
            return _SHARE if clusters >= _ENOUGH else 0.0
        try:
            share = float(self.validate)
        except ValueError:
            return 0.0
        if not 0 < share < 1:
            raise UsageError(f"the share to hold out must lie between 0 and 1, not {self.validate}")
        return share

    @property
    def truth(self) -> str | None:
        """The path of the ground truth to validate on, if any."""
        if self.validate is None or self.validate == "none":
            return None
        try:
            float(self.validate)
        except ValueError:
            return self.validate
        return None

    def anchored(self) -> TrainingConfig:
        """The same with absolute paths, so that it means the same in another folder."""
        changed = {**self.__dict__, "avoid": tuple(anchored_path(path) for path in self.avoid)}
        for name in ("data", "model", "images", "validate"):
            if changed[name] is not None:
                changed[name] = anchored_path(changed[name])
        return TrainingConfig(**changed)

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> TrainingConfig:
        """From a file that :meth:`to_json` was written to. Raises UsageError for anything else."""
        form = read_form(path)
        odd = sorted(set(form) - {field.name for field in fields(cls)})
        if odd or not {"data", "model"} <= set(form):
            raise UsageError(
                f"{os.fspath(path)} is not a training configuration" + (f": it has {odd[0]!r}" if odd else "")
            )
        form["avoid"] = tuple(form.get("avoid", ()))
        return cls(**form)


def read_form(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A JSON object from a file. Raises UsageError."""
    try:
        form = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise UsageError(f"{os.fspath(path)} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{os.fspath(path)} is not JSON ({error})") from error
    if not isinstance(form, dict):
        raise UsageError(f"{os.fspath(path)} is not a training configuration")
    return form


def default_margin(loss: str, backbone: str, whiten_layer: bool) -> float | None:
    """The margin in use for a loss (None: it has none).

    Contrastive: 0.7, and 0.85 for the deep ResNets (Radenovic et al., TPAMI 2019); twice that with a whitening layer, whose
    outputs lie further apart. Triplet: 0.5, on squared distances.
    """
    if loss == "triplet":
        return 0.5
    if loss != "contrastive":
        return None
    return (0.85 if backbone in ("resnet101", "resnet152") else 0.7) * (2 if whiten_layer else 1)


def anchored_path(path: str) -> str:
    """An absolute path where there is such a file; names and numbers stay."""
    return os.path.abspath(path) if os.path.exists(path) else path

"""The model specification: everything that decides what a descriptor means, as plain data. Knows no torch.

A gallery, a checkpoint and a result file carry the specification; two descriptors may be compared exactly when their
specifications have the same fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from retrieval.errors import ModelError, UsageError

INTERPOLATIONS = ("lanczos", "bicubic", "bilinear")


@dataclass(frozen=True)
class ImageRule:
    """How a picture becomes the network's input.

    ``size``: longest side in pixels, downscale only (None: as it is). ``mean`` and ``std``: RGB, for values in [0, 1].
    ``exif``: whether the EXIF orientation is applied (on for people's photos, off for the published benchmarks).
    ``scales``: factors at which the picture is described; more than one gives a multi-scale descriptor.
    """

    size: int | None = 1024
    interpolation: str = "lanczos"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    exif: bool = True
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if self.size is not None and not 16 <= self.size <= 16384:
            raise UsageError(f"image size {self.size} is not between 16 and 16384 pixels")
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(f"unknown interpolation {self.interpolation!r}", f"Known: {', '.join(INTERPOLATIONS)}.")
        if not self.scales or not all(0.05 <= s <= 4 for s in self.scales):
            raise UsageError(
                f"scales {list(self.scales)} are not between 0.05 and 4", "Example: --scales 1,0.7071,0.5."
            )
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise UsageError("mean and std need three values each, std above 0")


TOKENS = "tokens"
"""A further parameter of a pooling of tokens: the schedule of Token Pooling, in the canonical words of
:mod:`retrieval.pooling.schedules`. The vectors that are pooled are then fewer, so it stands beside the pooling's own."""


@dataclass(frozen=True)
class WeightsRef:
    """Which weights: a readable ``id`` (origin) and the ``sha256`` that identifies them."""

    id: str
    sha256: str


@dataclass(frozen=True)
class ModelSpec:
    """A model as data. ``pooling`` is ``{"name": ..., **parameters}``; ``whitening`` is None or ``{"kind": ..., "dim": ...}``
    with its matrix among the weights; ``dim`` is the length of the descriptor."""

    backbone: str
    weights: WeightsRef
    pooling: Mapping[str, Any]
    dim: int
    whitening: Mapping[str, Any] | None = None
    image: ImageRule = field(default_factory=ImageRule)

    @property
    def name(self) -> str:
        """The short name, as ``--model`` takes it (without size and scales)."""
        parameters = ",".join(f"{k}={_show(v)}" for k, v in self.pooling.items() if k != "name")
        suffix = f"@{self.weights.id}" if self.weights.id.startswith("random") else ""
        return f"{self.backbone}-{self.pooling['name']}{':' + parameters if parameters else ''}{suffix}"

    @property
    def origin(self) -> str:
        """Where the weights are from, which tells models of one name apart for a reader; "" where the name says it."""
        return "" if self.weights.id.startswith("random:") else f"weights {self.weights.id}"

    def to_dict(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return result

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """Inverse of :meth:`to_dict`. Raises ModelError when a field is missing or of the wrong kind."""
        try:
            image = dict(data["image"])
            for key in ("mean", "std", "scales"):
                image[key] = tuple(float(v) for v in image[key])
            pooling = dict(data["pooling"])
            if not isinstance(pooling["name"], str):
                raise TypeError("pooling name is not a string")
            return cls(
                backbone=str(data["backbone"]),
                weights=WeightsRef(str(data["weights"]["id"]), str(data["weights"]["sha256"])),
                pooling=pooling,
                dim=int(data["dim"]),
                whitening=None if data.get("whitening") is None else dict(data["whitening"]),
                image=ImageRule(**image),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelError(f"the model specification is damaged ({type(error).__name__}: {error})") from error

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the canonical JSON, hashes of the weights included, their readable origin left out."""
        data = self.to_dict()
        del data["weights"]["id"]
        return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]

    def with_image(
        self, *, size: int | None = None, scales: tuple[float, ...] | None = None, exif: bool | None = None
    ) -> ModelSpec:
        """The same model with another picture size, scales or EXIF rule (None keeps what is there).

        Raises UsageError for scales other than those the model's whitening was learned at.
        """
        image = self.image
        if size is not None:
            image = replace(image, size=size)
        if scales is not None:
            learned = (self.whitening or {}).get("scales")
            if isinstance(learned, list | tuple) and tuple(learned) != tuple(scales):
                raise UsageError(
                    f"the model's whitening was learned at scales {','.join(f'{s:g}' for s in learned)}",
                    "Leave out --scales, or learn a whitening at the scales wanted.",
                )
            image = replace(image, scales=scales)
        if exif is not None:
            image = replace(image, exif=exif)
        return replace(self, image=image)


def _show(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

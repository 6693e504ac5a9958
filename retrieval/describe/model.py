"""A model as a user holds it: a specification, and an engine that is built when the first picture comes."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

from retrieval.engines.forks import require_own_threads
from retrieval.errors import ImageError, ModelError, UsageError
from retrieval.messages import Say, announced, safe, say_nothing
from retrieval.models.spec import ModelSpec

if TYPE_CHECKING:
    import numpy as np

    from retrieval.engines.base import Engine
    from retrieval.engines.loss import PrecisionLoss


class Model:
    """``spec`` says what the descriptors mean; ``engine()`` computes them. Made by :func:`load_model`.

    ``quantised``: the folder of an int8 model that computes them instead (see ``engines/openvino/quantise.py``); ``bf16``: its
    backbone computes in bfloat16 where the processor has that (see ``engines/half.py``); ``loss``: what was measured of
    either. ``say`` gets one-line messages of the engine, such as why it is not the one that would be faster.
    """

    def __init__(
        self,
        spec: ModelSpec,
        checkpoint: Path | None = None,
        engine: str = "auto",
        *,
        quantised: Path | None = None,
        bf16: bool = False,
        loss: PrecisionLoss | None = None,
        say: Say | None = None,
    ) -> None:
        self.spec = spec
        self.checkpoint = checkpoint
        self.engine_name = engine
        self.quantised = quantised
        self.bf16 = bf16 and quantised is None
        self.loss = loss
        self.say = announced(say)
        self._engine: Engine | None = None
        self._building = threading.Lock()

    def __repr__(self) -> str:
        return f"Model({self.spec.name!r}, dim={self.spec.dim}, size={self.spec.image.size}, fingerprint={self.fingerprint!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, a model is what it takes to build it again; its engine and who listens to it stay behind."""
        return _rebuilt, (self.spec, self.checkpoint, self.engine_name, self.quantised, self.bf16, self.loss)

    @property
    def fingerprint(self) -> str:
        return self.spec.fingerprint

    @property
    def precision(self) -> str:
        """What its descriptors are meant to be computed in: "fp32", "bf16" or "int8"."""
        return "bf16" if self.bf16 else "fp32" if self.quantised is None else "int8"

    def engine(self) -> Engine:
        """The engine, built at the first call; other threads wait for it. Raises ModelError in a forked process, where it would
        wait for ever for threads that stayed in the parent; one that openvino had built already goes on."""
        if self._engine is None:
            with self._building:
                if self._engine is None:
                    self._engine = self._built()
        if self._engine.name == "torch":
            require_own_threads()
        return self._engine

    def _built(self) -> Engine:
        from retrieval.engines.choose import create_engine

        return create_engine(
            self.spec,
            self.engine_name,
            self.checkpoint,
            quantised=self.quantised,
            precision=self.precision,
            say=self.say,
        )

    def quantise(self, pictures: Sequence[Any], folder: Path, *, refuse: bool = True, say: Say | None = None) -> Model:
        """This model in int8, written into ``folder`` and calibrated on ``pictures``, with what it loses by that; see
        :func:`retrieval.engines.openvino.quantise.quantise`. Raises UsageError, ModelError."""
        from retrieval.engines.openvino.quantise import quantise

        if self.engine_name == "torch":
            raise UsageError("int8 runs with openvino alone", "Leave out --engine.")
        say = say or self.say
        loss = quantise(self.spec, self.checkpoint, pictures, self.load, folder, refuse=refuse, say=say)
        return Model(self.spec, self.checkpoint, self.engine_name, quantised=folder, loss=loss, say=say)

    def in_bf16(self, pictures: Sequence[Any], *, refuse: bool = True, say: Say | None = None) -> Model:
        """This model with its backbone in bfloat16, with what it loses by that on ``pictures``; see
        :func:`retrieval.engines.half.measure_bf16`. Raises UsageError, ModelError."""
        from retrieval.engines.half import measure_bf16

        say = say or self.say
        loss = measure_bf16(self.spec, self.checkpoint, self.engine_name, pictures, self.load, refuse=refuse, say=say)
        return Model(self.spec, self.checkpoint, self.engine_name, bf16=True, loss=loss, say=say)

    def load(self, image: Any, bbox: Sequence[float] | None = None) -> np.ndarray:
        """One picture by this model's image rule: path, bytes, array or PIL image -> uint8 (H, W, 3). Raises ImageError."""
        from retrieval.pictures import imaging

        rule = self.spec.image
        return imaging.picture_of(
            image, size=rule.size, interpolation=rule.interpolation, exif=rule.exif, bbox=bbox
        ).array

    @overload
    def describe(
        self, images: Any, bbox: Sequence[float] | None = None, *, errors: Literal["raise"] = "raise"
    ) -> np.ndarray: ...

    @overload
    def describe(
        self, images: Any, bbox: Sequence[float] | None = None, *, errors: Literal["skip"]
    ) -> Descriptions: ...

    def describe(
        self, images: Any, bbox: Sequence[float] | None = None, *, errors: Literal["raise", "skip"] = "raise"
    ) -> np.ndarray | Descriptions:
        """Descriptors of pictures (paths, bytes, uint8 arrays or PIL images).

        One picture gives float32 (D,), with an optional ``bbox`` (x1, y1, x2, y2) in pixels of the whole picture;
        a list of N gives float32 (N, D), in order. Unit length. A picture that cannot be read raises ImageError, which
        names it (its path, or its place in the list). With ``errors="skip"``, which is for lists, it is left out:
        a :class:`Descriptions` of the others and of what was left out comes back.
        """
        import numpy as np

        if errors not in ("raise", "skip"):
            raise UsageError(f'errors must be "raise" or "skip", not {errors!r}')
        if not isinstance(images, list | tuple):
            if errors == "skip":
                raise UsageError('errors="skip" goes with a list of pictures, not with one')
            try:
                single: np.ndarray = self.engine().describe(self.load(images, bbox)[None])[0]
            except ImageError as error:
                raise _named(error, images, None) from error
            return single
        if bbox is not None:
            raise UsageError("a box goes with one picture, not with a list")
        from retrieval.describe.extraction import describe_all

        found = np.empty((len(images), self.spec.dim), np.float32)
        skipped: dict[int, str] = {}
        for result in describe_all(range(len(images)), lambda i: self.load(images[i]), self.engine):
            if result.error is None:
                found[result.item] = result.descriptor
            elif errors == "raise":
                raise _named(result.error, images[result.item], result.item) from result.error
            else:
                skipped[result.item] = str(result.error)
        if errors == "raise":
            return found
        kept = np.array([i for i in range(len(images)) if i not in skipped], np.int64)
        return Descriptions(found[kept], kept, dict(sorted(skipped.items())))


class Descriptions(NamedTuple):
    """Of a list of N pictures those that could be read: ``vectors`` float32 (M, D) of unit length, ``positions`` int64 (M,)
    their places in the list, ascending, and ``skipped``: place in the list -> why that one could not be read."""

    vectors: np.ndarray
    positions: np.ndarray
    skipped: dict[int, str]


def _named(error: ImageError, image: Any, position: int | None) -> ImageError:
    """The same error, saying which picture it is about."""
    if isinstance(image, str | os.PathLike):
        name = safe(os.fsdecode(image))
    elif position is None:
        return error
    else:
        name = f"picture {position} of the list"
    return ImageError(
        f"{name}: {error.message}",
        error.hint,
        transient=error.transient,
        limited=error.limited,
        out_of_memory=error.out_of_memory,
    )


def _rebuilt(
    spec: ModelSpec,
    checkpoint: Path | None,
    engine: str,
    quantised: Path | None,
    bf16: bool = False,
    loss: PrecisionLoss | None = None,
) -> Model:
    return Model(spec, checkpoint, engine, quantised=quantised, bf16=bf16, loss=loss)


def load_model(
    name: str | os.PathLike[str] = "auto",
    *,
    size: int | None = None,
    scales: Sequence[float] | None = None,
    exif: bool | None = None,
    tokens: str | None = None,
    engine: str = "auto",
    say: Say = say_nothing,
) -> Model:
    """A model by name (``"resnet50-gem"``, ``"auto"``, see :mod:`retrieval.models.zoo`) or by a checkpoint's path.

    ``size``: longest side in pixels (default: the model's own, 512 for the built-in one); ``scales``: several give multi-scale
    descriptors; ``exif``: whether EXIF orientation is applied (default: the model's own, on). ``tokens``: a schedule of Token
    Pooling for a vision transformer (:mod:`retrieval.pooling.schedules`), which becomes part of the model.
    Raises UsageError for an unknown name, ModelError or DownloadError when its weights cannot be had.
    """
    # Only here: a gallery's own model is made from its specification, without names and weights.
    from retrieval.models.checkpoint import checkpoint_path, read_spec
    from retrieval.models.token_reduction import with_tokens
    from retrieval.models.zoo import resolve

    wanted = None if scales is None else tuple(float(s) for s in scales)
    text = os.fspath(name)
    if isinstance(name, os.PathLike) or os.sep in text or text.endswith(".safetensors") or os.path.isdir(text):
        if text.endswith((".pth", ".pt", ".tar")):
            raise ModelError(
                f"{text} is not a checkpoint of this project", f"Convert it: retrieve models import {text} --out DIR."
            )
        path = checkpoint_path(text)
        spec = with_tokens(read_spec(path), tokens)
        return Model(spec.with_image(size=size, scales=wanted, exif=exif), path, engine, say=say)
    spec = with_tokens(resolve(text, say=say), tokens)
    return Model(spec.with_image(size=size, scales=wanted, exif=exif), None, engine, say=say)

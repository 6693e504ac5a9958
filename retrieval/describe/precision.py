"""A model in the precision that was asked for, once it is measured what it loses by that."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from retrieval.describe.model import Model
from retrieval.errors import UsageError

Precision = Literal["auto", "fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16", "int8")


def in_precision(model: Model, precision: str, pictures: Sequence[str | os.PathLike[str]], int8_folder: Path) -> Model:
    """``model``, or one of the same weights that computes in ``precision``.

    What bf16 and int8 lose is measured on ``pictures``, on which int8 is calibrated too; that model is written into
    ``int8_folder``. "auto" takes bf16 where the processor has it and the loss is harmless (:mod:`retrieval.engines.loss`), else
    float32, and says which and why. Raises UsageError, ModelError: for too few pictures, and for a loss beyond bounds.
    """
    if precision not in PRECISIONS:
        raise UsageError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    if precision == "auto":
        return _bf16_where_harmless(model, pictures)
    if precision == model.precision:
        return model
    if model.precision != "fp32":
        raise UsageError(f"this model computes in {model.precision}", f"Load it anew for {precision}.")
    return model.in_bf16(pictures) if precision == "bf16" else model.quantise(pictures, int8_folder)


def _bf16_where_harmless(model: Model, pictures: Sequence[str | os.PathLike[str]]) -> Model:
    from retrieval.engines.loss import FEWEST
    from retrieval.system.processor import has_bf16

    if model.precision != "fp32":
        return model
    if not has_bf16():
        model.say("fp32, for this processor has no instructions for bfloat16")
        return model
    if len(pictures) < FEWEST:
        model.say(f"fp32, for {len(pictures)} pictures are too few to measure the loss in bf16 on")
        return model
    reduced = model.in_bf16(pictures, refuse=False)
    if reduced.loss is not None and reduced.loss.harmless:
        model.say("bf16, about twice as fast here")
        return reduced
    model.say("fp32, for bf16 loses too much to be taken unasked")
    return model

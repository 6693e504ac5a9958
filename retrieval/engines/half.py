"""The network in bfloat16: half the bits of float32 with its whole range, and no calibration.

Processors that have instructions for it (AVX-512 BF16, AMX, Arm's BF16) multiply about twice as many of them. Only the
backbone computes so; pooling, normalisation and whitening stay in float32. On other processors the same model runs in
float32: the gallery keeps what that difference was when it was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from retrieval.engines.choose import create_engine
from retrieval.engines.loss import PrecisionLoss, compare, sample
from retrieval.errors import ModelError, UsageError
from retrieval.messages import Say, say_nothing
from retrieval.models.spec import ModelSpec
from retrieval.system.processor import has_bf16

T = TypeVar("T")

SAMPLE = 32  # pictures


def measure_bf16(
    spec: ModelSpec,
    checkpoint: Path | None,
    engine: str,
    pictures: Sequence[T],
    load: Callable[[T], np.ndarray],
    *,
    refuse: bool = True,
    say: Say = say_nothing,
) -> PrecisionLoss:
    """What the model ``spec`` loses in bfloat16 on a sample of ``pictures``, which ``load`` makes uint8 (H, W, 3) of.

    ``refuse``: whether too large a loss is an error. Raises UsageError where the processor has no such instructions and for
    fewer than 16 pictures, ModelError where the loss is too large or the engine cannot be had.
    """
    if not has_bf16():
        raise UsageError(
            "this processor has no instructions for bfloat16: it would not be faster", "Use --precision fp32."
        )
    decoded = sample(pictures, load, SAMPLE, "the loss in bf16 is measured on")
    engines = (create_engine(spec, engine, checkpoint, precision=p, say=say) for p in ("fp32", "bf16"))
    exact, rough = (np.concatenate([e.describe(picture[None]) for picture in decoded]) for e in engines)
    loss = compare(exact, rough, "bf16")
    say(str(loss))
    if refuse and not loss.bearable:
        raise ModelError(f"bf16 loses too much of {spec.name} on these pictures ({loss})", "Use --precision fp32.")
    return loss

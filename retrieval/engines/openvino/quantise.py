"""The network in 8 bits: post-training quantisation (NNCF), calibrated on pictures, its loss measured on others.

Weights and feature maps of the convolutions become 8-bit integers, by scales found from what the maps hold for the
calibration pictures; pooling, normalisation and whitening stay in float32. It is faster where the processor multiplies
bytes (AVX-512 VNNI, AVX-VNNI, Arm's dot products) and hardly elsewhere. What stays in float32 of the backbone runs in
bfloat16 where the processor has that; else the depthwise convolutions take most of the time.
"""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from retrieval.engines.base import EngineUnavailable
from retrieval.engines.loss import PrecisionLoss, compare, sample
from retrieval.engines.openvino import cache
from retrieval.engines.openvino.available import unsupported
from retrieval.engines.openvino.tail import BACKBONE
from retrieval.errors import ModelError
from retrieval.messages import Say, say_nothing
from retrieval.models.spec import ModelSpec
from retrieval.system.processor import has_vnni
from retrieval.system.signal_stack import signal_stack_kept

if TYPE_CHECKING:
    from collections.abc import Iterator


T = TypeVar("T")

CALIBRATION = 64  # pictures whose maps give the scales
SAMPLE = 64  # other pictures, for measuring the loss
_FIRST = 4  # convolutions from the pixels on that stay in float32


@signal_stack_kept()
def quantise(
    spec: ModelSpec,
    checkpoint: Path | None,
    pictures: Sequence[T],
    load: Callable[[T], np.ndarray],
    folder: str | os.PathLike[str],
    *,
    refuse: bool = True,
    say: Say = say_nothing,
) -> PrecisionLoss:
    """Write the int8 model of ``spec`` into ``folder`` (made whole or not at all), calibrated on ``pictures``.

    ``load`` makes uint8 (H, W, 3) of one of the 16 or more ``pictures``; those that it cannot read (ImageError) are passed
    over, and of many an even sample is used.
    ``refuse``: whether a model that loses too much is taken away again. ``say`` gets the measured loss
    and what is being done.
    Raises EngineUnavailable without openvino or nncf or for a network that cannot be converted, UsageError for too few
    pictures, ModelError where the loss is too large.
    """
    reason = unsupported()
    if reason is not None:
        raise EngineUnavailable(f"int8 needs openvino, and {reason}")
    try:
        with _in_silence():
            import nncf

            from retrieval.engines.openvino.runtime import openvino
    except ImportError as error:
        raise EngineUnavailable(f"int8 needs nncf ({error})", "Run: pip install nncf.") from error
    from retrieval.engines.openvino.engine import OpenvinoEngine
    from retrieval.engines.openvino.prepared import XML, load_model

    decoded = sample(pictures, load, CALIBRATION + SAMPLE, "int8 is calibrated on")
    calibration, others = decoded[::2], decoded[1::2]
    say(f"quantising {spec.name} to int8, calibrated on {len(calibration)} pictures")
    converted = load_model(spec, checkpoint, say)
    wide = has_vnni()
    with _in_silence():
        quantised = nncf.quantize(
            converted,
            nncf.Dataset([picture[None] for picture in calibration]),
            preset=nncf.QuantizationPreset.MIXED,  # activations with a zero point: they are not symmetric
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=_kept(converted), validate=False),
            # Without VNNI, sums of products of 8 bits overflow: weights of 7 bits are made there, and lose twice as much.
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=nncf.OverflowFix.DISABLE if wide else nncf.OverflowFix.ENABLE
            ),
        )
    target = Path(folder)

    def write(into: Path) -> None:
        openvino.save_model(quantised, into / XML, compress_to_fp16=False)
        if wide:
            (into / cache.WIDE).write_text("weights of 8 bits, for processors with VNNI\n")

    cache.write_entry(target, write)
    engines = (
        OpenvinoEngine(spec, checkpoint, say=say),
        OpenvinoEngine(spec, checkpoint, quantised=target, say=say),
    )
    exact, rough = (np.concatenate([e.describe(picture[None]) for picture in others]) for e in engines)
    loss = compare(exact, rough, "int8")
    say(str(loss))
    if refuse and not loss.bearable:
        shutil.rmtree(target, ignore_errors=True)
        raise ModelError(f"int8 loses too much of {spec.name} on these pictures ({loss})", "Use --precision fp32.")
    return loss


def _kept(model: Any) -> list[str]:
    """The operations that stay in float32: all but the backbone, and in it the depthwise convolutions, the first few others
    and the last.

    They lose most and gain least. EfficientNet-Lite0 at 512 pixels on 317 paintings: mean cosine 0.980 with all in int8,
    0.989 with pixels and depthwise in float32, 0.994 so.
    """
    layers = [_layer(node) for node in model.get_ordered_ops() if node.get_type_name() == "Convolution"]
    order = list(dict.fromkeys(layer for layer in layers if BACKBONE in layer))
    ends = {*order[:_FIRST], *order[-1:]}
    return [
        node.get_friendly_name()
        for node in model.get_ops()
        if BACKBONE not in node.get_friendly_name()
        or node.get_type_name() == "GroupConvolution"
        or (node.get_type_name() == "Convolution" and _layer(node) in ends)
    ]


def _layer(node: Any) -> str:
    """The name of an operation without the number that its copies at further scales carry."""
    return re.sub(r"_\d+$", "", node.get_friendly_name())


@contextmanager
def _in_silence() -> Iterator[None]:
    """Without the library's progress bars and log."""
    before = {name: os.environ.get(name) for name in ("NNCF_CI", "TQDM_DISABLE")}
    logger = logging.getLogger("nncf")
    level = logger.level
    os.environ["NNCF_CI"] = "1"
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

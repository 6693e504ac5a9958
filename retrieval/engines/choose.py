"""Which engine runs a model on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from retrieval.engines.base import ENGINES, Engine, EngineUnavailable
from retrieval.engines.forks import note_at_work, require_own_threads
from retrieval.engines.openvino.available import unsupported
from retrieval.engines.openvino.cache import WIDE
from retrieval.errors import UsageError
from retrieval.messages import say_nothing
from retrieval.models.spec import ModelSpec
from retrieval.system.processor import has_bf16, has_vnni


def create_engine(
    spec: ModelSpec,
    name: str = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    quantised: Path | None = None,
    precision: str = "fp32",
    say: Callable[[str], None] = say_nothing,
) -> Engine:
    """The engine for a model. ``quantised``: the folder of an int8 model made from it, which is then what runs (but float32
    for one made for VNNI where the processor has none).
    ``precision``: "fp32", or "bf16" for a backbone in bfloat16 where the processor has it, and float32 where it has not.

    ``auto`` is OpenVINO on the processors it is made for, when it is installed and can run the model, else torch; and
    torch where it can use a GPU. ``say`` gets one-line messages, such as why it is not OpenVINO.
    Raises UsageError for an unknown name, ModelError when the weights cannot be had, the engine cannot run the model, or the
    process was forked from one with a network.
    """
    require_own_threads()
    made = _created(spec, name, checkpoint, quantised, precision, say)
    note_at_work()
    return made


def _created(
    spec: ModelSpec,
    name: str,
    checkpoint: str | os.PathLike[str] | None,
    quantised: Path | None,
    precision: str,
    say: Callable[[str], None],
) -> Engine:
    if name not in ENGINES:
        raise UsageError(f"unknown engine {name!r}", f"Known: {', '.join(ENGINES)}.")
    if quantised is not None:
        if name == "torch":
            raise UsageError("int8 runs with openvino alone, and these descriptors are int8", "Leave out --engine.")
        if (quantised / WIDE).is_file() and not has_vnni():
            say(f"fp32, for the int8 model in {quantised} is for processors with VNNI, and this one has none")
            return _created(spec, name, checkpoint, None, "fp32", say)
        try:
            return _openvino(spec, checkpoint, quantised, "fp32", say)
        except EngineUnavailable as error:
            raise EngineUnavailable(f"the int8 model needs openvino, and {error}") from error
    if precision == "bf16" and not has_bf16():
        precision = "fp32"
    if name == "openvino":
        try:
            return _openvino(spec, checkpoint, None, precision, say)
        except EngineUnavailable as error:
            raise EngineUnavailable(f"openvino cannot run {spec.name}: {error}", "Use --engine torch.") from error
    if name == "auto" and not _gpu_here():
        reason = unsupported()
        if reason is None:
            try:
                return _openvino(spec, checkpoint, None, precision, say)
            except EngineUnavailable as error:
                reason = str(error)
        say(f"engine torch, for openvino cannot run {spec.name} here ({reason})")
    from retrieval.engines.torch.engine import TorchEngine

    return TorchEngine(spec, checkpoint, precision=precision)


def import_engine(name: str) -> None:
    """Import what the engine of this name most likely is: building it is then hardly Python's work, so that another thread can
    do it while this one goes on."""
    if name != "torch" and unsupported() is None:
        with suppress(ImportError):
            import retrieval.engines.openvino.engine  # noqa: F401


def _openvino(
    spec: ModelSpec,
    checkpoint: str | os.PathLike[str] | None,
    quantised: Path | None,
    precision: str,
    say: Callable[[str], None],
) -> Engine:
    reason = unsupported()
    if reason is not None:
        raise EngineUnavailable(reason)
    try:
        from retrieval.engines.openvino.engine import OpenvinoEngine
    except ImportError as error:
        raise EngineUnavailable(f"it cannot be imported: {error}") from error
    return OpenvinoEngine(spec, checkpoint, quantised=quantised, precision=precision, say=say)


def _gpu_here() -> bool:
    """Whether torch can use a GPU. Asking it takes seconds, so only where the driver of one is loaded."""
    if gpu_driver() is None:
        return False
    import torch

    return torch.cuda.is_available()


def gpu_driver() -> str | None:
    """Where the driver of a GPU shows; None where none is loaded, or CUDA_VISIBLE_DEVICES hides them all."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None
    places = (
        "/proc/driver/nvidia/version",
        "/dev/kfd",
        "/dev/dxg",
        os.path.expandvars(r"%SystemRoot%\System32\nvcuda.dll"),
    )
    return next((path for path in places if os.path.exists(path)), None)

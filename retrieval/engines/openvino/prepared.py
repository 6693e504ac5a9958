"""Where the OpenVINO engine gets its model from: a prepared one in the cache, else one made from the torch network.

Two kinds of entries lie in the cache: the model (``model.xml`` and ``model.bin``, the same on every machine) and what
the library's compiler made of it for one kind of processor (``model.blob``), which starts several times faster. Neither
imports torch.
"""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from retrieval.engines import winograd
from retrieval.engines.base import EngineUnavailable
from retrieval.engines.openvino import cache
from retrieval.engines.openvino import winograd as winograd_openvino
from retrieval.engines.openvino.runtime import openvino
from retrieval.engines.openvino.tail import keep_float32_after_backbone
from retrieval.errors import ModelError
from retrieval.messages import first_line
from retrieval.models.spec import ImageRule, ModelSpec
from retrieval.system.installed import versions_of
from retrieval.system.processor import processor_flags
from retrieval.system.shortage import is_shortage
from retrieval.system.signal_stack import signal_stack_kept

_REVISION = "3"  # of what retrieval.engines.openvino.export makes: another number, and everything is prepared anew
XML, BLOB, REASON = "model.xml", "model.blob", "unsupported.txt"

Say = Callable[[str], None]


def model_key(spec: ModelSpec) -> str:
    """Names the converted model: all that decides it, so not the picture's size, its orientation and its filter."""
    rule = spec.image
    graph = replace(spec, image=ImageRule(mean=rule.mean, std=rule.std, scales=rule.scales))
    return cache.key_of("model", _REVISION, graph.fingerprint, *library_versions())


@functools.cache
def library_versions() -> tuple[str, ...]:
    """Of the libraries that decide what the converted model computes."""
    return tuple(version or "none" for version in versions_of(("openvino", "torch", "torchvision", "timm")))


@signal_stack_kept()
def compiled_model(
    spec: ModelSpec,
    checkpoint: str | os.PathLike[str] | None,
    settings: dict[str, str],
    say: Say,
    given: Path | None = None,
    *,
    bf16: bool = False,
) -> openvino.CompiledModel:
    """The model ready to run with these settings of the library. ``given``: the folder of a model that is there already
    (an int8 model in its gallery) instead of the specification's own. ``bf16``: the settings ask for bfloat16.

    Raises EngineUnavailable where the network cannot be converted, or memory is short; what happens to the cache is only said.
    """
    core = openvino.Core()
    key = model_key(spec) if given is None else _quantised_key(given)
    filtered = given is None and not bf16 and winograd.pays_here() and winograd_openvino.suits(spec)
    way = [*(["winograd"] if filtered else []), *(["bf16"] if bf16 else [])]
    compiled_key = cache.key_of("compiled", key, openvino.get_version(), processor_key(core), *way)

    def make() -> openvino.Model:
        model = load_model(spec, checkpoint, say) if given is None else _read_quantised(core, given)
        if filtered:
            winograd_openvino.use_winograd(model)
        if bf16:
            keep_float32_after_backbone(model)
        return model

    # Otherwise it is said when the model itself cannot be kept.
    unkept = None if given is None else "the model is compiled at every start"
    return kept_compiled(core, compiled_key, settings, make, say, unkept)


def kept_compiled(
    core: openvino.Core,
    key: str,
    settings: dict[str, str],
    make: Callable[[], openvino.Model],
    say: Say,
    unkept: str | None,
) -> openvino.CompiledModel:
    """What the cache has under ``key``, else what ``make`` makes, compiled and kept there. ``unkept``: what is said to follow
    where the cache cannot be written. Its requests work as long as this object is there: who keeps one keeps both."""
    try:
        if (kept := cache.load(key, BLOB)) is not None:
            compiled = core.import_model(openvino.Tensor(kept, shared_memory=True), "CPU", settings)
            compiled.memory = kept  # which it works on, and does not hold itself
            return compiled
    except (cache.Damaged, RuntimeError) as error:
        _unless_short(error)
        say(f"the compiled model in the cache is damaged ({first_line(error)}); it is made again")
        cache.discard(key)
    compiled = core.compile_model(make(), "CPU", settings)
    try:
        blob = compiled.export_model().getvalue()
        cache.store(key, lambda folder: _write(folder / BLOB, blob))
    except (OSError, RuntimeError) as error:
        if unkept is not None:
            say(f"{cache.cache_folder()} cannot be written ({first_line(error)}): {unkept}")
    return compiled


def load_model(spec: ModelSpec, checkpoint: str | os.PathLike[str] | None, say: Say) -> openvino.Model:
    """The converted model, from the cache or made now with torch. Raises EngineUnavailable, ModelError."""
    key = model_key(spec)
    try:
        entry = cache.find(key)
        if entry is not None:
            if (entry / REASON).is_file():
                raise EngineUnavailable((entry / REASON).read_text("utf-8"))
            return openvino.Core().read_model(entry / XML)
    except (cache.Damaged, OSError, RuntimeError) as error:
        _unless_short(error)
        say(f"the prepared model in the cache is damaged ({first_line(error)}); it is made again")
        cache.discard(key)
    model, reason = _convert(spec, checkpoint, say)

    def write(folder: Path) -> None:
        if model is None:
            _write(folder / REASON, reason.encode())
        else:
            openvino.save_model(model, folder / XML, compress_to_fp16=False)

    try:
        cache.store(key, write)
    except (OSError, RuntimeError) as error:
        say(f"{cache.cache_folder()} cannot be written ({first_line(error)}): the model is prepared at every start")
    if model is None:
        raise EngineUnavailable(reason)
    return model


def _unless_short(error: Exception) -> None:
    """Raises EngineUnavailable where the process has too little memory or the like: that says nothing of the network, of which it
    would be kept, nor of what is in the cache, which would be thrown away."""
    if is_shortage(error):
        raise EngineUnavailable(first_line(error.__cause__ or error)) from error


def _quantised_key(folder: Path) -> str:
    try:
        return cache.key_of("given", (folder / cache.CONTENTS).read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{folder} cannot be read ({first_line(error)})", "Index into a new gallery.") from error


def _read_quantised(core: openvino.Core, folder: Path) -> openvino.Model:
    try:
        cache.check_entry(folder)
        return core.read_model(folder / XML)
    except (cache.Damaged, RuntimeError) as error:
        _unless_short(error)
        raise ModelError(
            f"the int8 model in {folder} is damaged ({first_line(error)})", "Index into a new gallery."
        ) from error


def _convert(spec: ModelSpec, checkpoint: str | os.PathLike[str] | None, say: Say) -> tuple[openvino.Model | None, str]:
    """The model, or None and why there is none. Raises EngineUnavailable where that is a matter of this moment."""
    from retrieval.engines.openvino.export import Unconvertible, convert
    from retrieval.models.loading import build_network
    from retrieval.models.network import Describer

    network = build_network(spec, checkpoint)
    say(f"preparing {spec.name} for OpenVINO, once")
    try:
        return convert(Describer(network, spec.image).eval()), ""
    except Unconvertible as error:
        _unless_short(error)
        return None, str(error)


def processor_key(core: openvino.Core) -> str:
    """What a compiled model depends on beside the library: the processor and what it is able to do."""
    able = sorted(str(c) for c in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    return f"{platform.machine()} {core.get_property('CPU', 'FULL_DEVICE_NAME')} {able} {processor_flags()}"


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)

"""The OpenVINO engine: the network as a graph compiled for this processor: float32, bfloat16 or int8. Imports no torch."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.engines.base import checked, least_side, unit_length
from retrieval.engines.forks import require_own_threads, was_forked
from retrieval.engines.openvino.prepared import compiled_model
from retrieval.errors import UsageError
from retrieval.messages import say_nothing
from retrieval.models.spec import ModelSpec
from retrieval.system.processor import allowed_cores, has_bf16

_MOST_STREAMS = 4  # each holds the feature maps of a picture of its own


class OpenvinoEngine:
    """Runs one picture a request, so a descriptor does not depend on the pictures beside it.
    See :class:`retrieval.engines.base.Engine`.

    Called by one thread, all cores work on one picture; once two threads call at the same time, the model is compiled
    again (a fraction of a second) so that the cores work on pictures of their own, which wastes less of their time.
    ``quantised``: the folder of an int8 model to run; ``precision``: "bf16" for a backbone in bfloat16. ``say`` gets one-line
    messages about the cache.
    """

    name = "openvino"
    batch_pixels = 1_000_000  # small pictures of one shape go together: another shape costs some milliseconds

    def __init__(
        self,
        spec: ModelSpec,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        quantised: Path | None = None,
        precision: str = "fp32",
        say: Callable[[str], None] = say_nothing,
    ) -> None:
        self.dim = spec.dim
        self.precision = precision if quantised is None else "int8"
        # What of an int8 model is not in integers, depthwise convolutions above all, would take most of its time.
        self._bf16 = precision == "bf16" or (quantised is not None and has_bf16())
        self._least_side = least_side(spec)
        self.streams = min(usable_cores(), _MOST_STREAMS)
        self._source = (spec, checkpoint, quantised, say)
        self._lock = threading.Lock()
        self._calls = 0
        self._model = self._compile(1)
        self._width = 1  # streams of the present model
        self._idle: list[tuple[int, Any]] = []

    def describe(self, images: np.ndarray) -> np.ndarray:
        if self._width > 1:  # streams are threads
            require_own_threads()
        images = checked(images)
        if min(images.shape[1:3]) < self._least_side:
            height, width = images.shape[1:3]
            raise UsageError(f"the feature map of {width} x {height} pixels is smaller than the pooling's windows")
        out = np.empty((len(images), self.dim), np.float32)
        width, request = self._take()
        try:
            for i in range(len(images)):
                request.infer({0: np.ascontiguousarray(images[i : i + 1])}, share_inputs=True)
                out[i] = request.get_output_tensor(0).data[0]
        finally:
            self._give(width, request)
        return unit_length(out)

    def _take(self) -> tuple[int, Any]:
        with self._lock:
            self._calls += 1
            if self._calls > 1 and self._width < self.streams and not was_forked():
                # The request at work keeps the old model until it is done.
                self._idle.clear()
                before, self._width = self._width, self.streams  # first: a process that is forked meanwhile has to know
                try:
                    self._model = self._compile(self.streams)
                except BaseException:
                    self._width = before
                    raise
            if self._idle:
                return self._idle.pop()
            request = self._model.create_infer_request()
            request.model = self._model  # whose memory it needs, also when another one has taken its place
            return self._width, request

    def _give(self, width: int, request: Any) -> None:
        with self._lock:
            self._calls -= 1
            if width == self._width and len(self._idle) < width:
                self._idle.append((width, request))

    def _compile(self, streams: int) -> Any:
        spec, checkpoint, quantised, say = self._source
        settings = {
            # Said in any case: on some processors the library's default is bfloat16.
            "INFERENCE_PRECISION_HINT": "bf16" if self._bf16 else "f32",
            "NUM_STREAMS": str(streams),
        }
        if (threads := _asked_threads()) is not None:
            settings["INFERENCE_NUM_THREADS"] = str(threads)
        return compiled_model(spec, checkpoint, settings, say, quantised, bf16=self._bf16)


def _asked_threads() -> int | None:
    """OMP_NUM_THREADS, which limits torch as well; without it the library takes the cores this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) > 0 else None


def usable_cores() -> int:
    cores = allowed_cores()
    return min(cores, _asked_threads() or cores)

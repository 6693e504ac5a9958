"""Index pictures in a process of its own and tell what it took: a JSON task on stdin, a JSON answer on stdout."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.describe.extraction import describe_all
from retrieval.describe.model import Model
from retrieval.engines.choose import create_engine
from retrieval.errors import ImageError
from retrieval.gallery.gallery import Gallery
from retrieval.models.spec import ModelSpec

_DECODED_BYTES = 512 << 20


def run(task: dict[str, Any]) -> dict[str, Any]:
    """``seconds`` for indexing from files to a gallery, the engine being ready; ``own``: for describing as many decoded
    pictures (measured on a part of them that fits into memory); ``peak``: bytes of memory at most, while indexing;
    ``at_size``: whether every picture had the model's size; ``start``: seconds until the engine was ready.
    """
    spec = ModelSpec.from_dict(task["model"])
    checkpoint = None if task["checkpoint"] is None else Path(task["checkpoint"])
    quantised = None if task["quantised"] is None else Path(task["quantised"])
    model = Model(spec, checkpoint, task["engine"], quantised=quantised, bf16=task["bf16"])
    with Gallery.create(task["gallery"], model) as gallery:
        began = time.perf_counter()
        gallery.model.engine()
        start = time.perf_counter() - began
        began = time.perf_counter()
        report = gallery.index(task["paths"])
        seconds = time.perf_counter() - began
        peak = _peak()
        described = report.embedded
        decoded: list[np.ndarray] = []
        step = max(1, round(len(task["paths"]) / max(1, _DECODED_BYTES // (3 * (spec.image.size or 1024) ** 2))))
        for path in task["paths"][::step]:
            with suppress(ImageError):
                decoded.append(model.load(path))
        # A new engine: like the first it meets each shape for the first time.
        fresh = create_engine(spec, task["engine"], checkpoint, quantised=quantised, precision=model.precision)
        began = time.perf_counter()
        for _ in describe_all(range(len(decoded)), lambda i: decoded[i], lambda: fresh):
            pass
        own = (time.perf_counter() - began) / len(decoded) * described
    at_size = all(max(array.shape) == spec.image.size for array in decoded)
    return {"pictures": described, "seconds": seconds, "own": own, "peak": peak, "at_size": at_size, "start": start}


def _peak() -> int:
    """Bytes of memory this process has held at most; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


if __name__ == "__main__":
    json.dump(run(json.load(sys.stdin)), sys.stdout)

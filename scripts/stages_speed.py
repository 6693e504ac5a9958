"""What indexing costs besides the network: each stage alone, and all of it with an engine that does nothing.

    python scripts/stages_speed.py photos/ --size 512

CPU milliseconds a picture, and how many pictures a second one core does; the last rows are `retrieve index` as it is, with
unit vectors in place of the network's.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from retrieval import Gallery, Model, load_model
from retrieval.files.digest import content_hash
from retrieval.gallery.local.index import LocalIndex
from retrieval.pictures.scan import pictures_in


class NoEngine:
    """Descriptors that differ and cost nothing."""

    name = "none"
    batch_pixels = 1_000_000

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._rng = np.random.default_rng(0)

    def describe(self, images: np.ndarray) -> np.ndarray:
        vectors = self._rng.standard_normal((len(images), self.dim), np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def timed(task: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the processor, and by the clock."""
    cpu, clock = time.process_time(), time.perf_counter()
    task()
    return time.process_time() - cpu, time.perf_counter() - clock


def without_network(model: Model) -> Model:
    made = Model(model.spec, model.checkpoint)
    made._engine = NoEngine(model.spec.dim)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--size", type=int, default=512)
    given = parser.parse_args()
    model = load_model("auto", size=given.size)
    paths = pictures_in([given.folder])
    arrays = [model.load(path) for path in paths]  # the system's cache holds the files from here on
    rows = [
        ("scan", timed(lambda: pictures_in([given.folder]))),
        ("hash", timed(lambda: [content_hash(path) for path in paths])),
        ("decode", timed(lambda: [model.load(path) for path in paths])),
    ]
    with tempfile.TemporaryDirectory() as folder:
        codes = LocalIndex(Path(folder))
        codes.describe(arrays[0])
        rows.append(("local codes", timed(lambda: [codes.describe(array) for array in arrays])))
        for name, local in (("index, no network, no local index", False), ("index, no network", True)):
            with Gallery.create(Path(folder) / str(local), without_network(model), local=local) as gallery:
                rows.append((name, timed(lambda gallery=gallery: gallery.index([given.folder]))))  # type: ignore[misc]
    print(f"{len(paths)} pictures at {given.size} px")
    print("| stage | CPU ms a picture | pictures a second and core | by the clock |\n|---|---|---|---|")
    for name, (cpu, clock) in rows:
        each = cpu / len(paths)
        print(f"| {name} | {1000 * each:.2f} | {1 / max(each, 1e-9):,.0f} | {len(paths) / clock:,.0f} |")


if __name__ == "__main__":
    main()

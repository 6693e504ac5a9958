"""What a picture costs beyond its description: merge, unchanged run and search, at several sizes, without any network.

``python scripts/scale_slopes.py [--counts 10000,50000] [--dim 512] [--out FILE.json]`` makes parts of random unit vectors in a
temporary folder, and prints CPU seconds, memory and bytes for each step. With ``--address URL`` a served gallery is filled and
asked too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import tempfile
import time
import urllib.parse
from pathlib import Path

import numpy as np

from retrieval.backends.served import ServedGallery
from retrieval.describe.model import Model
from retrieval.gallery.gallery import Gallery
from retrieval.models.spec import ImageRule, ModelSpec, WeightsRef
from retrieval.parts.items import Item
from retrieval.parts.manifest import prepare, read_manifest
from retrieval.parts.merge import merge_parts
from retrieval.parts.part import write_part

SHARD = 1000
QUERIES = 50


def model_of(dim: int) -> Model:
    return Model(ModelSpec("fake", WeightsRef("fake", "a" * 64), {"name": "none"}, dim, None, ImageRule(size=64)))


def around(count: int, dim: int, rng: np.random.Generator, rows: int) -> np.ndarray:
    """Unit vectors float32 (rows, dim) around the centres of a gallery of ``count``: a hundred for each."""
    centres = np.random.default_rng(count).normal(size=(max(count // 100, 1), dim))
    vectors = centres[rng.integers(0, len(centres), rows)] + 0.7 * rng.normal(size=(rows, dim))
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def make_parts(folder: Path, count: int, dim: int) -> None:
    """Parts as of a list of addresses; vectors are random, with neighbours."""
    rng = np.random.default_rng(1)
    names = [f"s3://bucket/{i // 1000:05d}/{i:09d}.jpg" for i in range(count)]
    (folder / "list.txt").write_text("\n".join(names))
    prepare(str(folder / "list.txt"), folder / "parts", model_of(dim), shard_size=SHARD, multiple=1, local=False)
    manifest = read_manifest(folder / "parts")
    for shard, inputs in enumerate(manifest.shards):
        vectors = around(count, dim, rng, len(inputs))
        items = []
        for name, vector in zip(inputs, vectors, strict=True):
            item = Item(
                name,
                name,
                lambda item: b"",
                size=100_000,
                digest=hashlib.blake2b(name.encode(), digest_size=28).hexdigest(),
                width=640,
                height=480,
            )
            item.vector = vector
            items.append(item)
        write_part(manifest, shard, items)


class Step:
    """Times a step: ``seconds``, ``cpu`` seconds of this process, ``megabytes``: its peak so far."""

    def __init__(self, name: str, rows: int, into: list[dict[str, object]]) -> None:
        self.name, self.rows, self.into = name, rows, into

    def __enter__(self) -> None:
        self.begin = time.monotonic(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wall, cpu = time.monotonic() - self.begin[0], time.process_time() - self.begin[1]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        told = {
            "step": self.name,
            "rows": self.rows,
            "seconds": round(wall, 3),
            "cpu": round(cpu, 3),
            "cpu_microseconds_a_row": round(1e6 * cpu / max(self.rows, 1), 1),
            "peak_megabytes": round(peak),
        }
        self.into.append(told)
        print(json.dumps(told), flush=True)


def measure(count: int, dim: int, address: str | None, steps: list[dict[str, object]]) -> None:
    with tempfile.TemporaryDirectory(prefix="scale-") as work:
        folder = Path(work)
        with Step("write parts", count, steps):
            make_parts(folder, count, dim)
        manifest = read_manifest(folder / "parts")
        queries = around(count, dim, np.random.default_rng(2), QUERIES)  # no members
        with Gallery.create(folder / "gallery", model_of(dim), local=False) as gallery:
            gallery.configure_search("flat")
            with Step("local: merge (exact index)", count, steps):
                merge_parts(gallery, manifest)
            with Step("local: merge again", count, steps):
                merge_parts(gallery, manifest)
            with Step("local: 50 queries", QUERIES, steps):
                truth = gallery.search(queries, 10)
            under = "s3://bucket/00003"
            with Step("local: 50 queries under one folder", QUERIES, steps):
                gallery.search(queries, 10, under=under)
        size = sum(path.stat().st_size for path in (folder / "gallery").rglob("*") if path.is_file())
        steps.append({"step": "local: bytes a picture", "rows": count, "bytes": round(size / count)})
        print(json.dumps(steps[-1]), flush=True)
        if address is None:
            return
        with ServedGallery.create(address, model_of(dim)) as served:
            with Step("served: merge", count, steps):
                served.merge(manifest)
            with Step("served: tune", count, steps):
                recall, effort = served.tune()
            with Step("served: 50 queries", QUERIES, steps):
                found = served.search(queries, 10)
            hits = sum(len({m.path for m in a} & {m.path for m in b}) for a, b in zip(truth, found, strict=True))
            with Step("served: 50 queries under one folder", QUERIES, steps):
                served.search(queries, 10, under=under)
            size = served.backend.bytes_on_disk() or 0
        steps.append(
            {
                "step": "served: recall",
                "rows": count,
                "recall": hits / (10 * QUERIES),
                "tuned": recall,
                "effort": effort,
                "bytes": round(size / count),
            }
        )
        print(json.dumps(steps[-1]), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="10000,50000")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--address")
    parser.add_argument("--out")
    asked = parser.parse_args()
    steps: list[dict[str, object]] = []
    for number, count in enumerate(map(int, asked.counts.split(","))):
        parts = urllib.parse.urlsplit(asked.address or "")
        own = parts._replace(path=f"{parts.path}{number}").geturl()  # a gallery for each count
        measure(count, asked.dim, own if asked.address else None, steps)
    if asked.out:
        Path(asked.out).write_text(json.dumps(steps, indent=1) + "\n")

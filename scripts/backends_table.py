"""Recall, latency, building time and disk of one back end, as lines of a Markdown table.

    python scripts/backends_table.py local --count 20000
    python scripts/backends_table.py milvus-lite            # 200,000 x 512; starts a server of its own on 127.0.0.1
    python scripts/backends_table.py postgres

Descriptors are those of ``scale_slopes.py``: a hundred around each centre. Truth is a product of matrices in float64 over all of
them. Queries are no members. The prefix is a folder that holds a hundredth of the pictures, drawn over all centres. One client
asks, one query after the other; latency includes what is computed here. Each back end is run by itself: what else the machine
does shows in its times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from scale_slopes import around, model_of

from retrieval.backends.base import Entry
from retrieval.backends.served import ServedGallery
from retrieval.gallery.gallery import Gallery

K, QUERIES, UNDER_QUERIES, BLOCK = 10, 200, 60, 1000
FOLDERS = 100
Vectors = npt.NDArray[np.float32]


def name_of(i: int) -> str:
    """Each folder holds every hundredth picture, so that it lies across all centres."""
    return f"s3://bucket/{i % FOLDERS:03d}/{i:09d}.jpg"


def truth_of(vectors: Vectors, queries: Vectors, chosen: npt.NDArray[np.int64]) -> list[set[str]]:
    """The ten nearest of the ``chosen`` rows, by cosine in float64."""
    best: list[set[str]] = []
    for query in queries:
        scores = np.concatenate([vectors[some].astype(np.float64) @ query for some in np.array_split(chosen, 50)])
        best.append({name_of(int(chosen[i])) for i in np.argpartition(-scores, K)[:K]})
    return best


class Local:
    """A gallery in a folder with the index that it takes by itself at this size."""

    def __init__(self, folder: Path, dim: int, ann: str) -> None:
        self.folder = folder / "gallery"
        self.gallery = Gallery.create(self.folder, model_of(dim), local=False)
        self.gallery.configure_search(ann)

    def fill(self, vectors: Vectors) -> str:
        for begin in range(0, len(vectors), 32_768):
            block = vectors[begin : begin + 32_768]
            self.gallery.add([name_of(begin + i) for i in range(len(block))], vector=block)
        with self.gallery.writing() as catalog:
            self.gallery.refresh_index(catalog)
        note = self.gallery.info().search
        return "exact" if note is None or note.recall is None else f"{note.factory}, tuned to {note.recall:.3f}"

    def bytes(self) -> int | None:
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())

    def stop(self) -> None:
        self.gallery.close()


class Served:
    """A gallery on a server that is started for it."""

    def __init__(self, folder: Path, dim: int, kind: str) -> None:
        from engines_served import Milvus, Postgres

        self.folder = folder
        self.server: Any = (Postgres if kind == "postgres" else Milvus)(folder)
        self.gallery = ServedGallery.create(self.server.address("measured"), model_of(dim))

    def fill(self, vectors: Vectors) -> str:
        for begin in range(0, len(vectors), BLOCK):
            names = [name_of(i) for i in range(begin, min(begin + BLOCK, len(vectors)))]
            self.gallery.backend.upsert(
                [
                    Entry(n, hashlib.blake2b(n.encode(), digest_size=28).hexdigest(), 1, 2, 640, 480, v)
                    for n, v in zip(names, vectors[begin : begin + BLOCK], strict=True)
                ]
            )
        self.gallery.backend.settle()
        recall, effort = self.gallery.tune()
        return f"HNSW, effort {effort}, tuned to {recall:.3f}"

    def bytes(self) -> int | None:
        told = self.gallery.backend.bytes_on_disk()
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return told if told is not None else sum(path.stat().st_size for path in files)

    def stop(self) -> None:
        self.gallery.close()
        self.server.stop()


def asked(gallery: Any, queries: Vectors, truth: list[set[str]], **options: Any) -> tuple[float, float, float]:
    """Recall@10, and milliseconds at the median and at the 99th percentile."""
    hits, times = 0, []
    for query, right in zip(queries, truth, strict=True):
        began = time.perf_counter()
        found = gallery.search(query[None], K, **options)[0]
        times.append(1000 * (time.perf_counter() - began))
        hits += len({match.path for match in found} & right)
    return hits / (K * len(queries)), float(np.percentile(times, 50)), float(np.percentile(times, 99))


def measure(kind: str, count: int, dim: int, ann: str) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    vectors = np.concatenate([around(count, dim, rng, min(50_000, count - b)) for b in range(0, count, 50_000)])
    queries = around(count, dim, np.random.default_rng(2), QUERIES)
    everything = np.arange(count)
    with tempfile.TemporaryDirectory(prefix="bt-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user where this is root
        engine: Any = Local(Path(folder), dim, ann) if kind == "local" else Served(Path(folder), dim, kind)
        try:
            began = time.perf_counter()
            how = engine.fill(vectors)
            built = time.perf_counter() - began
            asked(engine.gallery, queries[:20], [set()] * 20)  # warm
            recall, p50, p99 = asked(engine.gallery, queries, truth_of(vectors, queries, everything))
            under = f"s3://bucket/{FOLDERS // 2:03d}"
            inside = everything[FOLDERS // 2 :: FOLDERS]
            few, right = queries[:UNDER_QUERIES], truth_of(vectors, queries[:UNDER_QUERIES], inside)
            below, below50, below99 = asked(engine.gallery, few, right, under=under)
            size = engine.bytes()
        finally:
            engine.stop()
    return {
        "back end": kind,
        "index": how,
        "pictures": count,
        "recall": recall,
        "p50": p50,
        "p99": p99,
        "recall_under": below,
        "p50_under": below50,
        "p99_under": below99,
        "seconds": built,
        "bytes": size,
    }


def markdown(found: dict[str, Any]) -> str:
    head = (
        "| back end | index | pictures | recall@10 | query p50, ms | p99 | recall@10 under 1 % | p50 under, ms | p99 "
        "| built, s | disk, bytes a picture |"
    )
    size = "not told" if found["bytes"] is None else f"{found['bytes'] / found['pictures']:.0f}"
    row = (
        f"| {found['back end']} | {found['index']} | {found['pictures']:,} | {found['recall']:.3f} | {found['p50']:.1f} "
        f"| {found['p99']:.1f} | {found['recall_under']:.3f} | {found['p50_under']:.1f} | {found['p99_under']:.1f} "
        f"| {found['seconds']:.0f} | {size} |"
    )
    return f"{head}\n{'|---' * 11}|\n{row}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["local", "milvus-lite", "postgres"])
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument(
        "--ann", default="auto", help="the local gallery's search index, as `retrieve index --ann` takes it"
    )
    parser.add_argument("--out", type=Path, help="also write a JSON file")
    given = parser.parse_args()
    result = measure(given.kind, given.count, given.dim, given.ann)
    print(markdown(result))
    if given.out:
        given.out.write_text(json.dumps(result, indent=1) + "\n")

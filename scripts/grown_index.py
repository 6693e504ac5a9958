"""What the search index of a large gallery writes when a hundredth of pictures comes or goes, and what shards cost a query.

``python scripts/grown_index.py [--count 2000000] [--dim 64] [--shard-rows N] [--turns 0] [--out FILE.json]`` draws vectors that
look like descriptors into a gallery in a temporary folder, and prints bytes, CPU seconds and recall of each step. With
``--turns`` the same vectors in one file are then asked so many queries, in turn with the shards.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from retrieval.benchmarks.ann.descriptors import Things, drawn_things
from retrieval.describe.model import Model
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.search import cutting
from retrieval.gallery.store.catalog import Catalog, Seen
from retrieval.models.spec import ImageRule, ModelSpec, WeightsRef

BLOCK = 16_384


def add(gallery: Gallery, catalog: Catalog, things: Things, count: int, rng: np.random.Generator) -> None:
    """Pictures of drawn things, under made-up names."""
    root = next((root.id for root in catalog.roots()), None) or catalog.add_root("pictures", "folder").id
    for _ in range(0, count, BLOCK):
        first = catalog.number("vector_count")
        vectors = things.pictures_of(things.choose(min(BLOCK, count), rng), rng)
        count -= len(vectors)
        names = range(first, first + len(vectors))
        hashes = [f"{n + 1:056x}" for n in names]
        gallery.store(catalog).write(first, vectors, hashes)
        with catalog.writing():
            catalog.add_seen(
                Seen(root, f"{n:09d}.jpg", 9, 9, h, 9, 9, None, n) for n, h in zip(names, hashes, strict=True)
            )
            catalog.set_meta("vector_count", first + len(vectors))
            catalog.bump_version()


def files(gallery: Gallery) -> dict[int, int]:
    """Inode -> bytes of the files of the search index."""
    found = (path.stat() for path in (gallery.folder / "ann").glob("*.faiss"))
    return {status.st_ino: status.st_size for status in found}


def refreshed(gallery: Gallery, catalog: Catalog, step: str, steps: list[dict[str, object]]) -> None:
    """Bring the search index in line, and tell what that wrote."""
    before, begin = files(gallery), os.times()
    started = time.monotonic()
    gallery.refresh_index(catalog)
    after, end = files(gallery), os.times()
    written, size = sum(s for inode, s in after.items() if inode not in before), sum(after.values())
    note = gallery.info().search
    assert note is not None
    tell(
        steps,
        step=step,
        vectors=len(gallery),
        files=[shard.count for shard in note.shards],
        factory=note.factory,
        bytes=size,
        written=written,
        written_share=round(written / size, 4),
        cpu=round(end.user + end.system - begin.user - begin.system, 1),
        seconds=round(time.monotonic() - started, 1),
        recall=note.recall,
        least_recall_of_a_file=min(shard.recall or 1.0 for shard in note.shards),
        peak_megabytes=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    )


def tell(steps: list[dict[str, object]], **facts: object) -> None:
    steps.append(facts)
    print(json.dumps(facts), flush=True)


def measure(work: Path, count: int, dim: int, turns: int, steps: list[dict[str, object]]) -> None:
    rng = np.random.default_rng(3)
    things = drawn_things(count, dim, rng)
    spec = ModelSpec("none", WeightsRef("none", "0" * 64), {"name": "none"}, dim, None, ImageRule(size=64))
    more = count // 100 + count // 1000 + 1  # a little more than is searched beside the files
    with Gallery.create(work / "shards", Model(spec), local=False) as gallery:
        gallery.configure_search("ivf")
        with gallery.writing() as catalog:
            add(gallery, catalog, things, count, rng)
            refreshed(gallery, catalog, "all built", steps)
            for turn in range(3):
                add(gallery, catalog, things, more, rng)
                refreshed(gallery, catalog, f"1.1 % came, {turn + 1}", steps)
            with catalog.writing():
                catalog.delete(range(1, count, 90))
                catalog.bump_version()
            refreshed(gallery, catalog, "1.1 % went from everywhere", steps)
    if not turns:
        return
    shutil.copytree(work / "shards", work / "one", ignore=shutil.ignore_patterns("ann"))
    cutting.SHARD_ROWS = 1 << 40
    with Gallery.open(work / "one") as one:
        with one.writing() as catalog:
            refreshed(one, catalog, "in one file", steps)
        with Gallery.open(work / "shards") as shards:
            queries = things.pictures_of(things.choose(turns + 5, rng), rng)
            spent: dict[str, list[float]] = {"shards": [], "one file": []}
            for query in queries:
                for name, gallery in (("shards", shards), ("one file", one)):
                    begin = time.process_time()
                    gallery.search(query[None], 10)
                    spent[name].append(1000 * (time.process_time() - begin))
    for name, times in spent.items():
        tell(steps, step=f"a query, {name}", cpu_milliseconds=round(float(np.median(times[5:])), 2), queries=turns)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2_000_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--shard-rows", type=int, default=cutting.SHARD_ROWS)
    parser.add_argument("--turns", type=int, default=0)
    parser.add_argument("--out")
    asked = parser.parse_args()
    cutting.SHARD_ROWS = asked.shard_rows
    told: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="grown-") as place:
        measure(Path(place), asked.count, asked.dim, asked.turns, told)
    if asked.out:
        Path(asked.out).write_text(json.dumps(told, indent=1) + "\n")

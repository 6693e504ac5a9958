"""What an index run costs that finds nothing changed: CPU and memory at several sizes, over a tree of names that needs no files.

``python scripts/unchanged_run.py [--counts 100000,1000000]`` makes a gallery of so many entries in a temporary folder; folders
are real ones of a thousand names each, whose listing is made up, so that what the disk takes is not in the figures. Memory is
told above what the process holds before the run.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from retrieval.describe.model import Model
from retrieval.gallery.gallery import Gallery
from retrieval.models.spec import ImageRule, ModelSpec, WeightsRef
from retrieval.pictures import scan

FOLDER = 1000
DIM = 8


def model() -> Model:
    return Model(ModelSpec("fake", WeightsRef("fake", "a" * 64), {"name": "none"}, DIM, None, ImageRule(size=64)))


def name_of(number: int) -> str:
    return f"{number // FOLDER:06d}/picture-{number:09d}.jpg"


class Entry:
    """As ``os.scandir`` gives them, of a file that is not there; its own status, so that making it up costs little."""

    __slots__ = ("name", "path", "st_ino", "st_mtime_ns", "st_size")
    st_mode = stat.S_IFREG | 0o644

    def __init__(self, folder: str, number: int) -> None:
        self.name = name = f"picture-{number:09d}.jpg"
        self.path = f"{folder}/{name}"
        self.st_size = 100_000 + number
        self.st_mtime_ns = 10**18 + number
        self.st_ino = 10**6 + number

    @property
    def st_ctime_ns(self) -> int:
        return self.st_mtime_ns

    def stat(self) -> Entry:
        return self

    def is_symlink(self) -> bool:
        return False


def make(work: Path, count: int) -> None:
    for number in range(0, count, FOLDER):
        (work / "tree" / name_of(number)).parent.mkdir(parents=True)
    names = [name_of(number) for number in range(count)]
    rng = np.random.default_rng(0)
    with Gallery.create(work / "gallery", model(), local=False) as gallery:
        gallery.configure_search("flat")
        with gallery.writing() as catalog:
            store = gallery.store(catalog)
            digests = [rng.bytes(28).hex() for _ in range(count)]
            for begin in range(0, count, 65_536):
                part = digests[begin : begin + 65_536]
                store.append(begin, rng.normal(size=(len(part), DIM)).astype(np.float32), part)
            with catalog.writing():
                root = catalog.add_root(gallery.root_path(os.fspath(work / "tree")), "folder")
                catalog.add_pending(root.id, names)
                catalog.set_first_ok(
                    (100_000 + i, 10**18 + i, digest, 640, 480, i, i + 1) for i, digest in enumerate(digests)
                )
                for i in range(count):
                    catalog.set_identity(i + 1, ctime_ns=10**18 + i, inode=10**6 + i)
                catalog.set_meta("vector_count", count)
                catalog.bump_version()
                gallery.describe_roots(catalog)
            gallery.refresh_index(catalog)


@contextmanager
def made_up(tree: str, count: int) -> Iterator[None]:
    """``os.scandir`` of the tree's folders gives names of which there are no files."""
    real = os.scandir

    @contextmanager
    def listing(folder: str) -> Iterator[Iterator[object]]:
        folder = os.path.normpath(folder)
        if os.path.dirname(folder) != tree:
            with real(folder) as found:
                yield found
        else:
            begin = int(os.path.basename(folder)) * FOLDER
            numbers = range(begin, min(begin + FOLDER, count))
            yield iter([Entry(folder, number) for number in numbers])

    os.scandir = listing  # type: ignore[assignment]
    try:
        yield
    finally:
        os.scandir = real


def resident(what: str) -> float:
    """Megabytes: "VmRSS" now, "VmHWM" at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def run(work: Path, count: int) -> None:
    """In a process of its own, so that the peak is this run's."""
    tree = os.fspath(work / "tree")
    with made_up(tree, count), Gallery.open(work / "gallery") as gallery:
        begin, before = time.process_time(), resident("VmRSS")
        report = gallery.index([tree])
        cpu, peak = time.process_time() - begin, resident("VmHWM")
        begin = time.process_time()
        scan.walk(tree)
        walking = time.process_time() - begin
    assert report.unchanged == count, report
    told = {
        "rows": count,
        "cpu": round(cpu, 2),
        "cpu_microseconds_a_row": round(1e6 * cpu / count, 2),
        "of_these_walking": round(1e6 * walking / count, 2),
        "megabytes_above_start": round(peak - before),
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="100000,1000000")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        run(Path(asked.run), int(asked.counts))
        sys.exit()
    for count in map(int, asked.counts.split(",")):
        with tempfile.TemporaryDirectory(prefix="unchanged-") as work:
            make(Path(work), count)
            for _ in range(2):
                subprocess.run([sys.executable, __file__, "--run", work, "--counts", str(count)], check=True)

"""Damaged catalogs: entries with values that they cannot have, and bytes of the file. Answers stay right or the damage is named
as such; mended and synchronised, the gallery answers as before."""

from __future__ import annotations

import functools
import shutil
import sqlite3
import sys
import tempfile
from pathlib import Path

import numpy as np

from retrieval.errors import GalleryDamaged, GalleryError
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.repair import repair
from torture_phases.base import Outcome, Phase, damaged

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

PICTURES = 12
_TABLES = {
    "images": [
        "id",
        "root",
        "path",
        "size",
        "mtime_ns",
        "hash",
        "width",
        "height",
        "status",
        "error",
        "row",
        "metadata",
        "ctime_ns",
        "inode",
    ],
    "roots": ["id", "path", "kind"],
    "meta": ["key", "value"],
    "changes": ["seq", "id"],
}
Answers = list[list[tuple[str, float]]]


@functools.cache
def original() -> tuple[Path, tuple[np.ndarray, ...], str]:
    """A folder with pictures and their gallery, queries, and the answers to them."""
    from fakes import FakeEngine, fake_gallery, write_pictures

    folder = Path(tempfile.mkdtemp(prefix="torture-catalog-"))
    paths = write_pictures(folder / "album", PICTURES)
    with fake_gallery(folder / "g") as gallery:
        gallery.index([folder / "album"])
        described = gallery.vectors_of([record for _, record in gallery.records()])
    assert len(described) == len(paths)
    assert FakeEngine.dim == described.shape[1]
    queries = tuple(described[i] for i in (0, 5, 11))
    return folder, queries, repr(answers(folder, queries))


def answers(folder: Path, queries: tuple[np.ndarray, ...]) -> Answers:
    """Names and scores, worked out anew; what is only warned of was worked around, and is as right."""
    from fakes import fake_gallery

    with fake_gallery(folder / "g") as gallery:
        gallery.warn = lambda message: None
        gallery.info()
        list(gallery)
        found = gallery.search(np.stack(queries), PICTURES)
        return [[(Path(match.path).name, round(match.score, 6)) for match in matches] for matches in found]


def trial(rng: np.random.Generator, folder: Path) -> Outcome:
    source, queries, expected = original()
    here = folder / "here"
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(source, here)
    path = here / "g" / "catalog.sqlite"
    kind = _damage_entry(path, rng) if rng.random() < 0.7 else _damage_bytes(path, rng)
    result = "read"
    try:
        if repr(answers(here, queries)) != expected:
            return Outcome("failed", kind.split(":")[0], f"{kind}: another answer without a word")
    except GalleryError as error:
        if "\n" in str(error):
            return Outcome("failed", kind.split(":")[0], f"{kind}: an error that says {error!s:.200}")
        result = "refused" if isinstance(error, GalleryDamaged) else "refused otherwise"
    repair(here / "g")
    with _opened(here) as gallery:
        gallery.index([here / "album"])
    if repr(answers(here, queries)) != expected:
        return Outcome("failed", kind.split(":")[0], f"{kind}: another answer after --repair")
    return Outcome(result, kind.split(":")[0])


def _opened(here: Path) -> Gallery:
    from fakes import fake_gallery

    gallery: Gallery = fake_gallery(here / "g")
    return gallery


def _damage_entry(path: Path, rng: np.random.Generator) -> str:
    """One value of one entry becomes one that it cannot have, or an entry goes."""
    table = str(rng.choice(list(_TABLES)))
    column = str(rng.choice(_TABLES[table]))
    value = [None, -7, 2**62, 1.5, "", "x", b"\xff\x00", 10**6, "12"][int(rng.integers(0, 9))]
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        rows = [row for (row,) in connection.execute(f"SELECT rowid FROM {table}")]
        if not rows:
            return f"{table}: nothing there"
        row = int(rng.choice(rows))
        try:
            if rng.random() < 0.1 and table != "images":  # of an entry that was deleted like any other nothing tells
                connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))
                return f"{table}: entry {row} gone"
            connection.execute(f"UPDATE OR REPLACE {table} SET {column} = ? WHERE rowid = ?", (value, row))
        except sqlite3.Error:
            return f"{table}: refused by SQLite"
    connection.close()
    return f"{table}.{column}: {value!r} in {row}"


def _damage_bytes(path: Path, rng: np.random.Generator) -> str:
    data, names = damaged(path.read_bytes(), rng)
    path.write_bytes(data)
    return f"bytes: {names}"


PHASE = Phase("catalog", "catalogs of galleries: entries and bytes", 300, trial)

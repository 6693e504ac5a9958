"""Damaged files of galleries: each way of asking gives what it gave before, or an error or a warning that says what is damaged;
`--repair` and the next run restore what was there."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import RetrievalError
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.local import index as local_index
from retrieval.gallery.repair import repair
from retrieval.gallery.search import cutting
from torture_phases import scenes
from torture_phases.base import Outcome, Phase, damaged

FILES = {
    "catalog": "catalog.sqlite",
    "catalog's log": "catalog.sqlite-wal",
    "description": "gallery.json",
    "vectors": "vectors/*.f32",
    "keys": "vectors/*.keys",
    "search index": "ann/*.faiss",
    "its note": "ann/*.json",
    "its state": "ann/*.seen",
    "local index": "local/*/*.block",
    "its tail": "local/*/tail",
    "hashes compared": "local/*/*.seen",
}


KINDS = ("small", "logged", "graph")


def _sizes(kind: str) -> None:
    scenes.small()
    if kind == "graph":
        cutting.SHARD_ROWS = 1 << 20


@dataclass(frozen=True)
class Original:
    """A gallery's folder, whose pictures lie outside of it; queries; what each way of asking gives, and gave before the last
    commit; and what the first gives without a search index, as where that is damaged: a graph may miss a picture."""

    folder: Path
    queries: np.ndarray
    said: dict[str, Any]
    earlier: dict[str, Any]
    exact: Any


@functools.cache
def original(kind: str) -> Original:
    """``small``: pictures and keys, all of which are looked at in a search. ``logged``: the same, its newest changes in SQLite's
    log. ``graph``: more pictures, searched by a graph, in one file; the others have several."""
    from fakes import write_pictures

    _sizes(kind)
    folder = Path(tempfile.mkdtemp(prefix=f"torture-{kind}-"))
    scenes._album(folder) if kind != "graph" else write_pictures(folder / "album", 260, sizes=((8, 8),))
    with scenes.opened(folder / "made" / "g") as gallery:
        if kind == "graph":
            gallery.configure_search("hnsw", 0.5)
        gallery.index([folder / "album"], exclude=["left-out*"])
        local_index._SEAL_AFTER = local_index._SEAL_WITHIN = (
            1 << 30
        )  # else there may be no tail, as commits happened to fall
        write_pictures(folder / "album" / "later", 2, sizes=((40, 30),), seed=5)
        gallery.index()
        _sizes(kind)
        queries = np.concatenate([gallery.vectors()[[0, 5, 11]], scenes._vectors(2, 6)]).astype(np.float32)
        earlier = {name: way(gallery, queries) for name, way in WAYS.items()}
        with contextlib.nullcontext() if kind != "logged" else sqlite3.connect(gallery.catalog_path) as reader:
            if reader is not None:  # as long as there is a reader, SQLite does not take the log into the file
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM meta").fetchone()
            if kind != "graph":
                gallery.add([f"key {i}" for i in range(4)], vector=scenes._vectors(4, 1), metadata=[{"n": 1}] * 4)
            shutil.copytree(folder / "made" / "g", folder / "g")
    for left in (*(folder / "g").glob("*-shm"), *([] if kind == "logged" else (folder / "g").glob("*-wal"))):
        left.unlink()
    said = {}
    shutil.copytree(folder / "g", folder / "asked" / "g")
    for name, way in WAYS.items():
        with _quiet(folder / "asked" / "g", []) as gallery:
            said[name] = way(gallery, queries)
    shutil.rmtree(folder / "asked" / "g" / "ann")
    with _quiet(folder / "asked" / "g", []) as gallery:
        exact = _asked(gallery, queries)
    return Original(folder / "g", queries, said, earlier, exact)


def _quiet(folder: Path, warnings: list[str]) -> Gallery:
    gallery = scenes.opened(folder) if (folder / "gallery.json").exists() else Gallery.open(folder)
    gallery.warn = warnings.append
    return gallery


def _asked(gallery: Gallery, queries: np.ndarray) -> Any:
    found = gallery.search(queries, 10)
    return [[(m.path, round(m.score, 6), m.metadata) for m in matches] for matches in found]


def _recognised(gallery: Gallery, queries: np.ndarray) -> Any:
    """By the local index too, for a view of a thing in the gallery and for one of none."""
    from textures import texture, turned

    found = gallery.query([turned(texture(1, (120, 90), 60)), texture(9, (120, 90), 60)], 8)
    return [[(m.path, round(m.score, 6), m.inliers, m.verdict) for m in result.matches] for result in found]


def _told(gallery: Gallery, queries: np.ndarray) -> Any:
    info = gallery.info()
    return (
        info.images,
        info.vectors,
        info.pending,
        info.roots,
        info.troubled,
        info.ann,
        info.recall,
        info.exclude,
        info.dtype,
    )


def _listed(gallery: Gallery, queries: np.ndarray) -> Any:
    return list(gallery)


WAYS: dict[str, Callable[[Gallery, np.ndarray], Any]] = {
    "query": _asked,
    "same thing": _recognised,
    "info": _told,
    "list": _listed,
}


def trial(rng: np.random.Generator, folder: Path) -> Outcome:
    name = str(rng.choice(list(FILES)))  # each kind of file as often, not as many as there are
    gallery = str(rng.choice([kind for kind in KINDS if any(original(kind).folder.glob(FILES[name]))]))
    source = original(gallery)
    _sizes(gallery)
    here = folder / "g"
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(source.folder, here)
    path = _file(here, name, rng)
    kind = f"{name}, {gallery}"
    how = _damage_entry(path, rng) if name == "catalog" and rng.random() < 0.4 else _damage_bytes(path, here, rng)
    ends = {}
    for way, asked in WAYS.items():
        warnings: list[str] = []
        try:
            with _quiet(here, warnings) as opened:
                found = asked(opened, source.queries)
            # SQLite reads its log up to the first damage: it cannot tell that from a power cut before the commit.
            earlier = name == "catalog's log" and found == source.earlier[way]
            same = found == source.said[way] or (way == "query" and found == source.exact)
            ends[way] = "warned" if warnings else "same" if same else "earlier commit" if earlier else "silent"
        except RetrievalError as error:
            if "\n" in str(error) or len(str(error)) > 600:
                return Outcome("failed", kind, f"{how}: {way} says {error!s:.200}")
            ends[way] = "refused"
        except Exception as error:
            return Outcome("failed", kind, f"{how}: {way} raises {type(error).__name__}: {error!s:.200}")
    if "silent" in ends.values():
        return Outcome("failed", kind, f"{how}: {ends}")
    problem = _not_restored(here, source)
    if problem and "earlier commit" in ends.values() and "are lost: key" in problem:
        return Outcome("earlier commit", kind)
    if problem:
        return Outcome("failed", kind, f"{how}: {ends}; {problem}")
    if all(end == "same" for end in ends.values()):
        return Outcome("read", kind)
    return Outcome("refused" if "refused" in ends.values() else "warned of", kind)


def _not_restored(here: Path, source: Original) -> str:
    """Keys are known to the catalog alone: where that was made anew, they are not there, and a line says so."""
    try:
        done = repair(here)
        warnings: list[str] = []
        with _quiet(here, warnings) as gallery:
            gallery.index()
        with _quiet(here, warnings) as gallery:
            shown = dict(zip(gallery, gallery.vectors(), strict=True))
            found = [(round(m.score, 6), m.path) for m in gallery.search(source.queries[:1], 10)[0]]
            troubled = gallery.info().troubled
    except Exception as error:
        return f"after the repair, {type(error).__name__}: {error!s:.200}"
    wanted = source.said["list"]
    lost = [name for name in wanted if name not in shown]
    if any(os.path.isabs(name) for name in lost) or (
        lost and not any(word in line for line in done for word in ("anew", "dropped", "lost"))
    ):
        return f"after the repair ({'; '.join(done)}), {len(lost)} are lost: {lost[0]}"
    if more := [name for name in shown if name not in wanted]:
        return f"after the repair, {more[0]} is there too"
    if troubled != source.said["info"][4]:
        return f"after the repair, {troubled} could not be read"
    before, exact = (
        [(score, path) for path, score, _ in answers[0] if path not in lost]
        for answers in (source.said["query"], source.exact)
    )
    if sorted(found[: len(before)]) not in (sorted(before), sorted(exact)):
        return f"after the repair ({'; '.join(done)}), other answers: {found[:3]}, not {before[:3]}"
    if warnings:
        return f"after the repair, {warnings[0]}"
    return ""


def _file(here: Path, name: str, rng: np.random.Generator) -> Path:
    there = sorted(here.glob(FILES[name]))
    return there[int(rng.integers(0, len(there)))]


def _any_file(here: Path, rng: np.random.Generator) -> Path:
    return _file(here, str(rng.choice([name for name in FILES if any(here.glob(FILES[name]))])), rng)


def _damage_bytes(path: Path, here: Path, rng: np.random.Generator) -> str:
    data = path.read_bytes()
    name = str(
        rng.choice(
            ["several", "bit", "append", "zeros", "swap", "cut", "gone"], p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.08, 0.02]
        )
    )
    block = int(rng.choice([64, 512, 4096]))
    first, second = sorted(int(i) * block for i in rng.integers(0, len(data) // block + 1, 2))
    if name == "several":
        other = _any_file(here, rng).read_bytes()
        data, name = damaged(data, rng, other)
    elif name == "bit":
        place = int(rng.integers(0, len(data)))
        data, name = (
            data[:place] + bytes([data[place] ^ 1 << int(rng.integers(0, 8))]) + data[place + 1 :],
            f"bit at {place}",
        )
    elif name == "append":
        data += rng.bytes(int(rng.integers(1, 5000)))
    elif name == "zeros":
        data = data[:first] + bytes(len(data[first : first + block])) + data[first + block :]
    elif name == "swap" and first + block <= second and second + block <= len(data):
        one, other = data[first : first + block], data[second : second + block]
        data = data[:first] + other + data[first + block : second] + one + data[second + block :]
    elif name == "cut":
        data = data[: int(rng.integers(0, len(data)))]
    path.write_bytes(data)
    if name == "gone":
        path.unlink()
    return f"{path.name}: {name}"


def _damage_entry(path: Path, rng: np.random.Generator) -> str:
    """A value of an entry becomes another that it might well have, or an entry is gone, and everything else fits."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        table = str(rng.choice(["images", "images", "images", "roots", "meta"]))
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        column = str(rng.choice(columns))
        rows = [row for (row,) in connection.execute(f"SELECT rowid FROM {table}")]
        one, other = (int(i) for i in rng.choice(rows, 2))
        kind = int(rng.integers(0, 4))
        said = f"{table}.{column} of {one}: "
        try:
            if kind == 0:
                connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (one,))
                said = f"{table}: {one} gone"
            elif kind == 1:
                connection.execute(
                    f"UPDATE {table} SET {column} = (SELECT {column} FROM {table} WHERE rowid = ?) WHERE rowid = ?",
                    (other, one),
                )
                said += f"that of {other}"
            elif kind == 2:
                connection.execute(f"UPDATE {table} SET {column} = NULL WHERE rowid = ?", (one,))
                said += "NULL"
            else:
                (value,) = connection.execute(f"SELECT {column} FROM {table} WHERE rowid = ?", (one,)).fetchone()
                value = value + 1 if isinstance(value, int) else f"{value}1" if isinstance(value, str) else value
                connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (value, one))
                said += repr(value)
        except sqlite3.Error:
            said += "refused by SQLite"
        for _, sql in triggers:
            connection.execute(sql)
    return said


PHASE = Phase(
    "galleries",
    "files of galleries: catalog, its log, description, vectors, keys, search index, notes, local index",
    300,
    trial,
)

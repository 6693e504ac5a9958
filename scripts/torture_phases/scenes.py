"""A gallery's writers, each as a few steps on a small gallery; and what a gallery holds, read without trusting its answers."""

from __future__ import annotations

import functools
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import GalleryError
from retrieval.gallery import compaction, describing
from retrieval.gallery.derive import derive_gallery, fit_gallery
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.local import index as local_index
from retrieval.gallery.repair import repair
from retrieval.gallery.search import cutting
from retrieval.gallery.search import kind as ann_kind

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

Step = Callable[[Path], None]
Picture = tuple[Any, ...]
Content = dict[str, Picture]
Codes = dict[str, bytes]


@dataclass(frozen=True)
class Scene:
    """``prepare(here)`` makes the state before; ``steps`` are done one after the other, each can be done again when it was
    interrupted. ``whole``: a step shows all of its pictures or none. ``broken``: before the first step there may be a gallery
    that cannot be opened. ``gallery``: the folder in question."""

    name: str
    prepare: Step
    steps: Sequence[Step]
    whole: bool = False
    broken: bool = False
    gallery: str = "g"


def small() -> None:
    """Commits, compaction, local blocks, search indexes and their shards of so few pictures that small galleries have several of
    each."""
    describing.COMMIT_PICTURES = 5
    describing.COMMIT_SECONDS = 1e9
    compaction._COMPACT_ROWS = 4
    ann_kind.FEWEST = 8
    cutting.SHARD_ROWS = 9
    local_index._SEAL_AFTER, local_index._SEAL_WITHIN = 4, 8


def opened(folder: Path) -> Gallery:
    from fakes import fake_gallery

    gallery: Gallery = fake_gallery(folder)
    return gallery


def content(folder: Path) -> Content:
    """name -> (id, status, error, metadata, size, vector) of everything in a gallery, and a word for what it warns of."""
    here = folder.parent
    warnings: list[str] = []
    with opened(folder) as gallery:
        gallery.warn = warnings.append
        gallery.info()
        name = gallery.namer()
        found: Content = {}
        keys = {root.id for root in gallery.catalog.roots() if root.kind == "keys"}
        for record in gallery.catalog.records():
            path = record.path if record.root in keys else os.path.relpath(name(record), here)
            vector = b"" if record.row is None else gallery.vectors_of([record])[0].tobytes()
            found[path] = (record.id, record.status, record.error, record.metadata, record.width, vector)
        _check_answers(gallery, found, here)
    if warnings:
        raise AssertionError(f"the gallery says {warnings[0]}")
    return found


def local_codes(folder: Path) -> Codes:
    """Content hash -> codes, of all that the local index of a gallery holds; no gallery holds none."""
    try:
        with opened(folder) as gallery:
            index = gallery.local
            assert index is not None
            return {
                digest.tobytes().hex(): codes.words.tobytes() + codes.codes.tobytes() + codes.places.tobytes()
                for block in index.blocks()
                for digest, codes in zip(block.hashes, block.inverted.pictures(), strict=True)
            }
    except GalleryError:
        return {}


def searchable(found: Content) -> Content:
    return {name: picture for name, picture in found.items() if picture[-1]}


def _check_answers(gallery: Gallery, found: Content, here: Path) -> None:
    """Answers are those of a loop over the vectors."""
    dim = gallery.spec.dim
    shown = searchable(found)
    for number in (0, 3, 7):
        query = np.random.default_rng(number).standard_normal(dim).astype(np.float32)
        answer = [(m.id, round(m.score, 6)) for m in gallery.search(query[None], 10)[0]]
        scores = []
        for picture in shown.values():
            vector = np.frombuffer(picture[-1], np.float32).astype(float)
            scores.append((picture[0], float(vector @ query / np.linalg.norm(vector) / np.linalg.norm(query))))
        wanted = [(i, round(s, 6)) for i, s in sorted(scores, key=lambda pair: (-round(pair[1], 9), pair[0]))[:10]]
        if [i for i, _ in answer] != [i for i, _ in wanted] or not np.allclose(
            [s for _, s in answer], [s for _, s in wanted], atol=2e-6
        ):
            raise AssertionError(f"answers {answer[:3]}, a loop over the vectors {wanted[:3]}")


def _index(here: Path) -> None:
    with opened(here / "g") as gallery:
        gallery.index([here / "album"], workers=1)


def _album(here: Path, count: int = 14) -> None:
    from fakes import write_pictures
    from textures import write_textures

    paths = write_pictures(here / "album", count)
    write_textures(here / "album" / "things", 3, size=(120, 90))
    shutil.copyfile(paths[1], here / "album" / "copy.png")
    (here / "album" / "broken.jpg").write_bytes(b"\xff\xd8\xffno picture")


def _indexed(here: Path) -> None:
    _album(here)
    _index(here)


def _changed(here: Path) -> None:
    from fakes import write_pictures

    _indexed(here)
    album = here / "album"
    new = write_pictures(here / "new", 7, seed=5)
    os.replace(new[0], album / "0000.png")  # another picture
    os.replace(new[1], album / "0009.png")
    for path in new[2:]:
        os.replace(path, album / f"new-{path.name}")
    os.rename(album / "0003.png", album / "renamed.png")
    (album / "sub").mkdir()
    os.rename(album / "0004.png", album / "sub" / "moved.png")
    shutil.copyfile(album / "0005.png", album / "another-copy.png")
    (album / "0011.png").unlink()
    (album / "0012.png").write_bytes(b"\x89PNG\r\n\x1a\nnot any more")


def _vectors(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 48))


def _add_vectors(here: Path) -> None:
    with opened(here / "g") as gallery:
        notes = [{"n": i} for i in range(4)]
        gallery.add([f"key {i}" for i in range(4)], vector=_vectors(4, 1), metadata=notes)


def _add_image(here: Path) -> None:
    with opened(here / "g") as gallery:
        gallery.add("pixels", image=np.random.default_rng(3).integers(0, 256, (30, 40, 3)).astype(np.uint8))


def _replace_keys(here: Path) -> None:
    with opened(here / "g") as gallery:
        gallery.add(["key 1", "key 9"], vector=_vectors(2, 2), metadata=[{"n": "new"}, None])


def _remove_some(here: Path) -> None:
    with opened(here / "g") as gallery:
        gallery.remove_matching("000[1-6].png")


def _remove_folder(here: Path) -> None:
    with opened(here / "g") as gallery:
        gallery.remove_matching(str(here / "album"))


def _few_left(here: Path) -> None:
    _indexed(here)
    for path in sorted((here / "album").glob("00*.png"))[:9]:
        path.unlink()
    _index(here)  # drops them; the next run compacts


def _without_catalog(here: Path) -> None:
    _indexed(here)
    (here / "g" / "catalog.sqlite").write_bytes(b"SQLite format 3\0" + bytes(5000))


def _cut_vectors(here: Path) -> None:
    _indexed(here)
    (path,) = (here / "g" / "vectors").glob("*.f32")
    os.truncate(path, 5 * 48 * 4 + 17)
    (here / "g" / "gallery.json").unlink()


def _repair(here: Path) -> None:
    repair(here / "g")


def _derive(here: Path) -> None:
    from retrieval.describe.model import Model
    from retrieval.models.spec import ImageRule, ModelSpec, WeightsRef

    if (here / "white").exists():
        return
    with opened(here / "g") as source:
        whitening, _ = fit_gallery(source, 6)
        spec = ModelSpec("fake", WeightsRef("fake", "b" * 64), {"name": "grid"}, 6, None, ImageRule(size=64))
        derive_gallery(source, whitening, Model(spec), here / "white").close()


def _exported(here: Path) -> None:
    from fakes import write_pictures

    _indexed(here)
    with opened(here / "g") as gallery:
        gallery.export(here / "out.npy")
    shutil.rmtree(here / "g")
    write_pictures(here / "other", 4, seed=8)
    with opened(here / "g") as gallery:
        gallery.index([here / "other"], workers=1)


def _import(here: Path) -> None:
    with opened(here / "g") as gallery:
        gallery.import_(here / "out.npy")


def _kind(kind: str) -> Step:
    def step(here: Path) -> None:
        with opened(here / "g") as gallery:
            gallery.configure_search(kind, 0.5)
            gallery.index([here / "album"], workers=1)

    return step


SCENES = {
    scene.name: scene
    for scene in (
        Scene("first index", _album, [_index], broken=True),
        Scene("index of changes", _changed, [_index, _index]),
        Scene("adding under keys", _indexed, [_add_vectors, _add_image, _replace_keys], whole=True),
        Scene("removing", _indexed, [_remove_some, _remove_folder], whole=True),
        Scene("compaction", _few_left, [_index]),
        Scene("repair of a catalog", _without_catalog, [_repair, _index], broken=True),
        Scene("repair of vectors", _cut_vectors, [_repair, _index], broken=True),
        Scene("deriving", _indexed, [_derive], whole=True, broken=True, gallery="white"),
        Scene("import", _exported, [_import], whole=True),
        Scene("search index", _indexed, [_kind("hnsw"), _kind("ivf"), _kind("flat")], whole=True),
    )
}


@dataclass(frozen=True)
class Rehearsed:
    """A scene as it goes undisturbed: ``before``, a folder to copy; ``states``, what the gallery holds at first (None: cannot be
    opened) and after each step; ``codes``: those of its local index then; ``files``: the kinds of files in the end."""

    scene: Scene
    before: Path
    states: list[Content | None]
    codes: list[Codes]
    files: set[str]


@functools.cache
def rehearsed(name: str) -> Rehearsed:
    scene = SCENES[name]
    base = Path(tempfile.mkdtemp(prefix="torture-scene-"))
    scene.prepare(base / "before")
    shutil.copytree(base / "before", base / "here")
    states, codes = [state(scene, base / "here")], [local_codes(base / "here" / scene.gallery)]
    for step in scene.steps:
        step(base / "here")
        states.append(state(scene, base / "here"))
        codes.append(local_codes(base / "here" / scene.gallery))
    files = kinds_of_files(base / "here")
    shutil.rmtree(base / "here")
    return Rehearsed(scene, base / "before", states, codes, files)


def state(scene: Scene, here: Path) -> Content | None:
    """What the gallery holds; None where there is none that can be opened, and the scene allows that. Else raises."""
    try:
        return content(here / scene.gallery)
    except GalleryError:
        if not scene.broken:
            raise
        return None


def kinds_of_files(here: Path) -> set[str]:
    """The files that are there, versions and times left out, and how local and search index are split into blocks and shards."""
    names = (os.path.relpath(path, here) for path in here.rglob("*") if not path.name.endswith(("-wal", "-shm")))
    kinds = {re.sub(r"\d+", "N", re.sub(r"[0-9a-f]{64}", "H", name)) for name in names}
    kinds = {re.sub(r"N-N\.(faiss|seen)$", r"N.\1", kind) for kind in kinds}
    return {re.sub(r"(tail|N-H\.block|N-H\.seen)$", "part", kind) for kind in kinds}

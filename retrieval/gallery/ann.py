"""The search index: a plain FAISS file, derived from the vectors and always replaceable.

``ann/VERSION.faiss`` belongs to one version of the catalog; its ids are the catalog's. Where it is missing or behind,
search goes through the vectors themselves: slower, and as exact.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import GalleryDamaged, GalleryError
from retrieval.gallery.vectors import VectorStore


def index_path(folder: Path, version: int) -> Path:
    return folder / f"{version}.faiss"


def build(folder: Path, version: int, store: VectorStore, ids: np.ndarray, rows: np.ndarray) -> Path:
    """Write the flat inner-product index of ``rows`` under ``ids``, beside its final name first, then rename it."""
    import faiss

    index = faiss.IndexIDMap2(faiss.IndexFlatIP(store.dim))
    for begin in range(0, len(rows), 16384):
        part = slice(begin, begin + 16384)
        index.add_with_ids(store.take(rows[part]), ids[part])
    folder.mkdir(exist_ok=True)
    path = index_path(folder, version)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        faiss.write_index(index, str(temporary))
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        raise GalleryError(
            f"could not write the search index {path}: {_first_line(error)}",
            "Every picture is committed; search stays exact without it, and the next `retrieve index` writes it.",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
    for other in folder.iterdir():
        if other != path and other.suffix in (".faiss", ".tmp"):
            other.unlink(missing_ok=True)
    return path


def load(folder: Path, version: int, dim: int, count: int) -> Any | None:
    """The index of this version, or None where there is none. Raises GalleryDamaged, naming the file."""
    path = index_path(folder, version)
    if not path.is_file():
        return None
    import faiss

    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        if not path.is_file():  # a writer replaced it meanwhile
            return None
        raise GalleryDamaged(
            f"{path} is damaged: {_first_line(error)}", "`retrieve index --repair` writes it anew."
        ) from error
    if index.d != dim or index.ntotal != count:
        raise GalleryDamaged(
            f"{path} is damaged: {index.ntotal} vectors of {index.d} dimensions, not {count} of {dim}",
            "`retrieve index --repair` writes it anew.",
        )
    return index


def candidates(index: Any, queries: np.ndarray, k: int) -> list[np.ndarray]:
    """For each query the ids of its ``k`` best, in no promised order."""
    _, ids = index.search(np.ascontiguousarray(queries, np.float32), k)
    return [row[row >= 0] for row in ids]


def exact_candidates(
    store: VectorStore, count: int, ids: np.ndarray, rows: np.ndarray, queries: np.ndarray, k: int
) -> list[np.ndarray]:
    """The same from the vectors on disk, in bounded memory, 32 queries at a time."""
    out: list[np.ndarray] = []
    for begin in range(0, len(queries), 32):
        part = queries[begin : begin + 32]
        by_row = np.empty((len(part), count), np.float32)
        for first, vectors in store.blocks(count):
            by_row[:, first : first + len(vectors)] = part @ vectors.T
        for scores in by_row[:, rows]:
            out.append(ids if k >= len(ids) else ids[np.argpartition(-scores, k - 1)[:k]])
    return out


def _first_line(error: Exception) -> str:
    """FAISS errors carry the C++ source position; a user needs the last sentence only."""
    return str(error).strip().splitlines()[-1].split("Error: ")[-1][:200]

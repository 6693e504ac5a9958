"""A gallery of vectors without pictures, for tests of searching: picture id i shows vector i - 1 unless changed."""

from __future__ import annotations

import shutil
from pathlib import Path

import faiss
import numpy as np

from retrieval.describe.model import Model
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.store.catalog import Catalog
from retrieval.models.spec import ImageRule, ModelSpec, WeightsRef


def clustered(count: int, dim: int = 48, seed: int = 0, clusters: int = 300) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((clusters, dim))
    points = centres[rng.integers(0, clusters, count)] + rng.standard_normal((count, dim))
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def same(found: list[tuple[int, float]], expected: list[tuple[int, float]]) -> None:
    """Ids are equal, scores to 1e-12."""
    assert [i for i, _ in found] == [i for i, _ in expected]
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], atol=1e-12)


def ids_in(path: Path) -> list[int]:
    """Every id in an index file, ascending, read by FAISS alone."""
    index = faiss.read_index(str(path))
    inner = faiss.downcast_index(index)
    if isinstance(inner, faiss.IndexIDMap):
        return sorted(faiss.vector_to_array(inner.id_map).tolist())
    lists = inner.invlists
    return sorted(
        i for n in range(inner.nlist) for i in faiss.rev_swig_ptr(lists.get_ids(n), lists.list_size(n)).tolist()
    )


class VectorGallery:
    """``truth``: id -> vector as it should be; ``gallery`` reads."""

    def __init__(self, folder: Path, dim: int = 48, **options: str) -> None:
        spec = ModelSpec("fake", WeightsRef("fake", "a" * 64), {"name": "grid"}, dim, None, ImageRule(size=64))
        self.gallery = Gallery.create(folder, Model(spec), **options)
        self.truth: dict[int, np.ndarray] = {}
        self.warnings: list[str] = []
        self.gallery.warn = self.warnings.append
        self._known: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # of ``truth``, for ``brute``
        self._made = 0
        with self.gallery.writing() as catalog, catalog.writing():
            self.root = catalog.add_root("pictures", "folder").id

    @classmethod
    def copied(cls, template: VectorGallery, folder: Path) -> VectorGallery:
        """A copy of one that took long to make, to be changed."""
        shutil.copytree(template.gallery.folder, folder)
        made = cls.__new__(cls)
        made.gallery, made.truth, made.warnings = Gallery.open(folder), dict(template.truth), []
        made.gallery.warn = made.warnings.append
        made._made, made.root, made._known = template._made, template.root, None
        return made

    def _write(self, catalog: Catalog, vectors: np.ndarray) -> tuple[int, list[str]]:
        first = catalog.number("vector_count")
        hashes = [f"{self._made + i + 1:056x}" for i in range(len(vectors))]
        self.gallery.store(catalog).write(first, vectors, hashes)
        self._made += len(vectors)
        return first, hashes

    def add(self, vectors: np.ndarray, refresh: bool = True) -> list[int]:
        with self.gallery.writing() as catalog:
            first, hashes = self._write(catalog, vectors)
            with catalog.writing():
                catalog.add_described(self.root, (f"{h}.png" for h in hashes), hashes, first)
                catalog.set_meta("vector_count", first + len(vectors))
                catalog.bump_version()
            ids, _ = catalog.pictures_of_rows(np.arange(first, first + len(vectors)))
            self._known = None
            self.truth.update(zip(ids.tolist(), vectors, strict=True))
            if refresh:
                self.gallery.refresh_index(catalog)
        return ids.tolist()

    def change(self, i: int, vector: np.ndarray) -> None:
        """Another picture under the same id."""
        with self.gallery.writing() as catalog:
            first, hashes = self._write(catalog, vector[None])
            with catalog.writing():
                catalog.set_ok(i, size=1, mtime_ns=1, digest=hashes[0], width=1, height=1, row=first)
                catalog.set_meta("vector_count", first + 1)
                catalog.bump_version()
            self._known = None
            self.truth[i] = vector
            self.gallery.refresh_index(catalog)

    def remove(self, ids: list[int]) -> None:
        with self.gallery.writing() as catalog:
            with catalog.writing():
                catalog.delete(ids)
                catalog.bump_version()
            self._known = None
            for i in ids:
                del self.truth[i]
            self.gallery.refresh_index(catalog)

    def refresh(self) -> bool:
        with self.gallery.writing() as catalog:
            return self.gallery.refresh_index(catalog)

    def brute(self, query: np.ndarray, k: int) -> list[tuple[int, float]]:
        """Ids and cosines from the vectors as they should be, in float64, ties by ascending id."""
        if self._known is None:
            vectors = np.stack(list(self.truth.values())).astype(np.float64)
            self._known = np.array(list(self.truth)), vectors, np.sqrt((vectors**2).sum(axis=1))
        ids, vectors, lengths = self._known
        wanted = query.astype(np.float64)
        cosines = (vectors * wanted).sum(axis=1) / (lengths * np.sqrt((wanted**2).sum()))
        order = np.lexsort((ids, -cosines))[:k]
        return list(zip(ids[order].tolist(), cosines[order].tolist(), strict=True))

    def answer(self, query: np.ndarray, k: int) -> list[tuple[int, float]]:
        return [(m.id, m.score) for m in self.gallery.search(query[None], k)[0]]

"""A set's queries, each file opened once: read, hashed, checked against its box and described in one pass.

What was described before is found by the file's content and the box, beside the gallery that keeps the set's descriptors.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from retrieval.datasets.groundtruth import Box, GroundTruth
from retrieval.datasets.placing import box_trouble, refuse
from retrieval.describe.extraction import describe_all
from retrieval.errors import GalleryError, ImageError
from retrieval.evaluation.set_cache import QUERIES_FILE, kept_queries
from retrieval.files.digest import content_digest
from retrieval.gallery.gallery import Gallery
from retrieval.gallery.store.view import write_arrays
from retrieval.messages import Bars
from retrieval.pictures.imaging import picture_size
from retrieval.pictures.readers import open_file


class Queries:
    """``vectors`` float32 (Q, D) and ``hashes`` of a set's queries; filled by :meth:`describe`, and :meth:`take_whole` for
    those that are whole pictures of the gallery."""

    def __init__(self, truth: GroundTruth, gallery: Gallery) -> None:
        self.truth, self.gallery = truth, gallery
        self.paths = [os.path.abspath(os.path.join(truth.root, query.image)) for query in truth.queries]
        self.vectors = np.empty((len(self.paths), gallery.spec.dim), np.float32)
        self.hashes = [""] * len(self.paths)
        self._kept = kept_queries(gallery)
        self._lock = threading.Lock()

    def describe(self, chosen: Sequence[int], bars: Bars) -> None:
        """Describe these queries. All that cannot be used are named together: raises DatasetError."""
        if not chosen:
            return
        troubles: list[tuple[str, str]] = []
        new = 0
        with bars("queries") as update:
            for done, result in enumerate(describe_all(chosen, self._load, self.gallery.model.engine), 1):
                i = result.item
                if result.error is not None:
                    troubles.append((self.truth.queries[i].image, str(result.error)))
                elif result.descriptor is not None:
                    self.vectors[i] = self._kept[self._key(i)] = result.descriptor
                    new += 1
                update(done, len(chosen))
        if new:
            self._keep()  # those that could be used, whatever becomes of the others
        refuse(self.truth, troubles)

    def take_whole(self, chosen: Sequence[int], hashes: Sequence[str]) -> None:
        """Queries that are pictures of the gallery, which knows their content: they are described there already."""
        for i, digest in zip(chosen, hashes, strict=True):
            self.hashes[i] = digest
            found = self.gallery.catalog.vector_of(digest)
            assert found is not None
            self.vectors[i] = self.gallery.store().take(np.array([found[0]]), check=True)[0]

    def _load(self, i: int) -> np.ndarray | None:
        """In a worker: the query's picture, or None where its descriptor is known."""
        try:
            with open_file(self.paths[i]) as file:
                data = file.read()
        except OSError as error:
            raise ImageError(error.strerror or str(error)) from error
        digest = content_digest()
        digest.update(data)
        self.hashes[i] = digest.hexdigest()
        box = self.truth.queries[i].bbox
        known = self._kept.get(self._key(i))
        if known is None and box is None:
            with self._lock:
                twin = self.gallery.catalog.vector_of(self.hashes[i])
                known = None if twin is None else self.gallery.store().take(np.array([twin[0]]), check=True)[0]
        if known is not None:
            self.vectors[i] = known
            return None
        if box is not None:
            trouble = box_trouble(box, picture_size(data, exif=self.gallery.spec.image.exif))
            if trouble:
                raise ImageError(f"queries[{i}], {trouble}")
        return self.gallery.model.load(data, box)

    def _key(self, i: int) -> str:
        box: Box | None = self.truth.queries[i].bbox
        return f"{self.hashes[i]}:{'' if box is None else ','.join(map(repr, box))}"

    def _keep(self) -> None:
        with suppress(GalleryError):  # a read-only gallery: they are described again the next time
            write_arrays(
                self.gallery.folder / QUERIES_FILE,
                {
                    "fingerprint": np.array(self.gallery.spec.fingerprint),
                    "keys": np.array(list(self._kept)),
                    "vectors": np.stack(list(self._kept.values())),
                },
            )

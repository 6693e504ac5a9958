"""Pictures to train on: in a fixed order, with their clusters and, where their source gives them, fixed pairs.

A cluster is whatever must not be its own negative: a class, an object, a 3D model.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from retrieval.errors import UsageError


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """N pictures to train on.

    ``paths``: N files. ``clusters``: int64 (N,), pictures of one number match; -1: nothing is known of the picture, which
    is never a query and can be anyone's negative. ``pairs``: int64 (M, 2), fixed (query, positive) as positions in
    ``paths``; (0, 2): positives are drawn inside clusters. ``two_views``: a picture's positive is another augmented view of
    itself. ``notes``: what the user should know of the data, a line each. ``cluster_names``: by number, where the source
    names its clusters.
    """

    name: str
    paths: tuple[Path, ...]
    clusters: np.ndarray
    pairs: np.ndarray
    two_views: bool = False
    notes: tuple[str, ...] = ()
    cluster_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def cluster_word(self) -> tuple[str, str]:
        """What a person calls a cluster of these data: one, and several of them."""
        if self.two_views:
            return "picture", "pictures"
        return ("class", "classes") if self.cluster_names else ("cluster", "clusters")

    def subset(self, keep: np.ndarray) -> TrainingSet:
        """The pictures where ``keep``, bool (N,), is true; clusters keep their numbers, pairs that lost an end are dropped."""
        keep = np.asarray(keep)
        if keep.shape != (len(self),) or keep.dtype != bool:
            raise UsageError(f"expected {len(self)} values true or false, not {keep.dtype} of shape {keep.shape}")
        place = np.cumsum(keep, dtype=np.int64) - 1
        whole = keep[self.pairs].all(axis=1)
        return replace(
            self,
            paths=tuple(path for path, kept in zip(self.paths, keep, strict=True) if kept),
            clusters=self.clusters[keep],
            pairs=place[self.pairs[whole]],
        )

    def digest(self) -> str:
        """A hash over pictures, clusters and pairs: which they are, not what they show."""
        found = hashlib.blake2b("\0".join(map(str, self.paths)).encode("utf-8", "surrogateescape"), digest_size=16)
        found.update(np.ascontiguousarray(self.clusters).tobytes() + np.ascontiguousarray(self.pairs).tobytes())
        return found.hexdigest()

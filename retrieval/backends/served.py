"""A gallery that a server keeps, with the words of one in a folder: filled from parts, asked, listed, emptied.

Its answers follow the cosine, computed here in float64 from the stored vectors, so scores and ties are those of a gallery in a
folder; equal scores go by name. It keeps no local codes, so it gives no verdicts.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from retrieval.backends.base import Backend, Entry, id_of
from retrieval.backends.connect import connect
from retrieval.backends.names import name_of, storable
from retrieval.backends.nearest import best_of
from retrieval.backends.tuning import RECALL, tune
from retrieval.describe.model import Model
from retrieval.errors import GalleryDamaged, GalleryMismatch, UsageError, whole_number
from retrieval.files.paths import show_path
from retrieval.gallery.address import shown
from retrieval.gallery.answers import Match, QueryResult
from retrieval.gallery.folding import content_that_asks
from retrieval.gallery.in_order import answered_in_order
from retrieval.gallery.nearest import checked_queries
from retrieval.messages import Say, Update, no_update, say_nothing
from retrieval.models.spec import ModelSpec
from retrieval.parts.manifest import Manifest
from retrieval.parts.merge import MergeReport, parts_of, require_fingerprint
from retrieval.parts.part import Part

if TYPE_CHECKING:
    from typing_extensions import Self

    from retrieval.gallery.adding import Picture

_COPY = "A copy can: retrieval.backends.copied.CopiedGallery.of(gallery)."


class ServedGallery:
    """Made by :meth:`open` or :meth:`create`; usable as a context manager. ``folder`` is its address as it is shown."""

    local = None

    def __init__(self, address: str, backend: Backend, model: Model | None, engine: str, say: Say) -> None:
        self.folder = shown(address)
        self.backend = backend
        self.spec = ModelSpec.from_dict(backend.description["model"])
        if self.spec.fingerprint != backend.description["fingerprint"]:
            raise GalleryDamaged(f"{self.folder}: the model does not have the fingerprint kept beside it")
        self.model = model or Model(self.spec, None, engine, say=say)
        self.say = say

    @classmethod
    def open(cls, address: str, *, engine: str = "auto", say: Say = say_nothing) -> Self:
        """The gallery at ``address``. Raises GalleryError where there is none, UsageError."""
        return cls(address, connect(address), None, engine, say)

    @classmethod
    def create(cls, address: str, model: Model, *, say: Say = say_nothing) -> Self:
        """The gallery at ``address``, made for ``model`` where there is none. Raises GalleryMismatch, GalleryError."""
        description = {
            "model": model.spec.to_dict(),
            "fingerprint": model.fingerprint,
            "dim": model.spec.dim,
            "roots": [],
        }
        gallery = cls(address, connect(address, description), model, model.engine_name, say)
        try:
            gallery.require(model)
        except GalleryMismatch:
            gallery.close()
            raise
        return gallery

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.backend.close()

    def require(self, model: Model) -> None:
        """Raises GalleryMismatch unless ``model`` gives the descriptors this gallery holds."""
        if model.fingerprint != self.spec.fingerprint:
            raise GalleryMismatch(
                f"the gallery {self.folder} holds descriptors of {self.spec.name} (fingerprint {self.spec.fingerprint}), "
                f"not of {model.spec.name} ({model.fingerprint})",
                "Leave out --model, --size, --scales and --tokens to use the gallery's own, or name another with --index.",
            )

    # -- filling -------------------------------------------------------------------------------------------------

    def merge(self, manifest: Manifest, *, progress: Update = no_update) -> MergeReport:
        """Take in what parts hold, shard by shard; what is there already is not written again. Of a picture whose file was seen
        later than by the part, what is there stays. Raises GalleryMismatch, GalleryError."""
        require_fingerprint(manifest, self.folder, self.spec)
        report = MergeReport()
        for _, part in parts_of(manifest, report, progress):
            if part is not None:
                self._take(part, report)
        self.remember(manifest.source)
        self.backend.settle()
        return report

    def remember(self, source: str) -> None:
        """Keep the place of a source: names are asked relative to it."""
        roots = self.backend.description.get("roots", [])
        if source not in roots:
            self.backend.describe({"roots": [*roots, source]})

    def _take(self, part: Part, report: MergeReport) -> None:
        named = {name_of(row): row for row in part.rows}  # of two members of one name the later counts, as in a tar
        seen = self.backend.seen(list(named))
        new: list[Entry] = []
        longest = self.backend.longest_name
        for name, row in named.items():
            if row.vector is None:
                report.unreadable += 1
                continue
            if longest is not None and len(name.encode()) > longest:
                self.say(
                    f"left out, for its name is longer than {longest} bytes, which this engine takes: {name:.60} ..."
                )
                report.unreadable += 1
                continue
            known = seen.get(name)
            same = known is not None and known.hash == row.hash
            later = known is not None and known.mtime_ns > row.mtime_ns
            if later or (same and known is not None and (known.size, known.mtime_ns) == (row.size, row.mtime_ns)):
                report.unchanged += 1
                continue
            report.added += known is None
            report.changed += known is not None and not same
            report.unchanged += same
            vector = part.vectors[row.vector]
            new.append(Entry(name, row.hash or "", row.size, row.mtime_ns, row.width, row.height, vector))
        if new:
            self.backend.upsert(new)

    def tune(self, recall: float = RECALL) -> tuple[float, int]:
        """See :func:`retrieval.backends.tuning.tune`."""
        return tune(self.backend, recall)

    # -- asking --------------------------------------------------------------------------------------------------

    def rank_by(self, rank: str | None, reranked: bool = False, judged: bool = False) -> str:
        """ "cosine"; raises UsageError for what a served gallery cannot do."""
        if reranked:
            raise UsageError(f"{self.folder} is a served gallery, and cannot look twice", _COPY)
        return cosine_alone(self.folder, rank, judged)

    def search(
        self,
        vectors: npt.ArrayLike,
        k: int = 10,
        *,
        under: str | os.PathLike[str] | None = None,
        min_score: float | None = None,
        without: str | None = None,
    ) -> list[list[Match]]:
        """The ``k`` best pictures for each descriptor (Q, D): cosine similarity, equal scores by name. ``under`` looks at every
        picture in a folder, so it misses none; else one may be missed (:meth:`tune`), never wrongly scored. ``without``: the
        content hash of pictures to be left out."""
        queries = checked_queries(vectors, self.spec.dim)
        k = whole_number("k", k)
        below = None if under is None else self._below(under)
        least = -np.inf if min_score is None else min_score
        return [
            [
                Match(place, score, id_of(name), show_path(name))
                for place, (name, score) in enumerate(best_of(self.backend, query, k, below, without), 1)
                if score >= least
            ]
            for query in queries
        ]

    def answers(
        self,
        images: Sequence[Picture],
        k: int = 10,
        bbox: Sequence[float] | None = None,
        *,
        rerank: object = None,
        under: str | os.PathLike[str] | None = None,
        min_score: float | None = None,
        rank: str | None = None,
        min_probability: float | None = None,
        fold: bool = False,
        exclude_self: bool = False,
    ) -> Iterator[QueryResult]:
        """Rankings for one picture after the other, in order; one that cannot be read gives a result with an ``error``."""
        self.rank_by(rank, rerank is not None, min_probability is not None)
        if fold:
            raise UsageError("a gallery on a server cannot fold copies", _COPY)

        def find(i: int, vector: np.ndarray) -> list[Match]:
            own = content_that_asks(images[i]) if exclude_self else None
            return self.search(vector[None], k, under=under, without=own)[0]

        yield from answered_in_order(images, bbox, self.model, find, min_score=min_score)

    def _below(self, under: str | os.PathLike[str]) -> str:
        """The stored name of a folder (or a picture): a URI, a path on the disk, or relative to what was taken in."""
        roots = self.backend.description.get("roots", [])
        under = os.fspath(under)
        meant = [under] if "://" in under or os.path.isabs(under) else [os.path.abspath(under)]
        meant += [f"{root.rstrip('/')}/{under}" for root in roots if "://" not in under and not os.path.isabs(under)]
        meant = [storable(name) for name in meant]
        meant += [unicodedata.normalize(form, name) for name in meant for form in ("NFC", "NFD")]
        return next((name for name in meant if next(iter(self.backend.names(name)), None) is not None), meant[0])

    # -- what is in it -------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.backend.count()

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        return map(show_path, self.backend.names())

    def remove_matching(self, name: str, *, dry_run: bool = False) -> list[str]:
        """Take out the picture of a name, or all below a folder; returns the names. Patterns are refused."""
        found = list(self.backend.names(self._below(name)))
        if not dry_run:
            self.backend.delete(found)
        return [show_path(n) for n in found]


def cosine_alone(address: str, rank: str | None, judged: bool) -> str:
    """ "cosine"; raises UsageError for rankings and verdicts that take local codes, which a served gallery does not keep."""
    if rank not in (None, "cosine") or judged:
        raise UsageError(
            f"{address} is a served gallery, which keeps no local codes", "Its answers follow the cosine alone."
        )
    return "cosine"

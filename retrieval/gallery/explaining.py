"""Why a picture of the gallery matched: the terms of its cosine by cells, and the points that agree in one pose."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from retrieval.errors import ImageError, UsageError
from retrieval.gallery.adding import Picture
from retrieval.gallery.answers import Match
from retrieval.gallery.local.pictures import large_enough
from retrieval.gallery.local.search import LocalSearch
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Record

if TYPE_CHECKING:
    from retrieval.describe.explain import Explainer, Seen
    from retrieval.describe.model import Model


@dataclass(frozen=True)
class WhyMatched:
    """``cosine`` as the network in torch gives it (the stored descriptor's may differ by rounding; in a gallery of int8
    descriptors by more). ``query_terms``, ``terms``: float64 (rows, columns) of the query's and the picture's cells, each
    summing to the cosine; None for a model that describes by its class token alone. ``query_picture``, ``picture``: uint8
    (H, W, 3), as the network sees them. ``points``: float64 (M, 4), x and y in the query and in the picture, in parts of width
    and height, of local features that agree in one pose; None where there is no local index for it. ``query_attention``,
    ``attention``: float64 (heads, rows, columns), how much of the class token's attention goes to each patch; None without one.
    """

    cosine: float
    query_terms: npt.NDArray[np.float64] | None
    terms: npt.NDArray[np.float64] | None
    query_picture: npt.NDArray[np.uint8]
    picture: npt.NDArray[np.uint8]
    points: npt.NDArray[np.float64] | None
    query_attention: npt.NDArray[np.float64] | None = None
    attention: npt.NDArray[np.float64] | None = None


class PairExplaining:
    """Explains why two pictures are alike to one model; its network is loaded at the first. Several threads may ask."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._explainer: Explainer | None = None
        self._turn = threading.Lock()
        self._asked: tuple[npt.NDArray[np.uint8], Seen] | None = None  # one query has many answers

    def explain(self, ours: npt.NDArray[np.uint8], theirs: npt.NDArray[np.uint8]) -> WhyMatched:
        """Of two pictures, uint8 (H, W, 3), as :meth:`Model.load` gives them; without points. Raises UsageError for a model that
        cannot be told by cells, ModelError."""
        explainer = self.prepare()
        asked = self._asked
        if asked is None or not np.array_equal(asked[0], ours):
            asked = self._asked = ours, explainer.see(ours)
        found = explainer.explain(asked[1], explainer.see(theirs))
        attentions = found.attentions or (None, None)
        return WhyMatched(found.cosine, found.first, found.second, ours, theirs, None, *attentions)

    def explain_match(self, image: Picture, match: Match, bbox: Sequence[float] | None = None) -> WhyMatched:
        """``match`` for the query ``image``, or its ``bbox``, by the file that the match is called by, as of a served gallery.
        Raises ImageError for a picture that cannot be read here, UsageError, ModelError."""
        return self.explain(self.model.load(image, bbox), self.model.load(match.path))

    def prepare(self) -> Explainer:
        """Load the network now, so that the first explanation need not wait for it. Raises what :meth:`explain` raises."""
        with self._turn:
            if self._explainer is None:
                from retrieval.describe.explain import Explainer

                self._explainer = Explainer(self.model)
            return self._explainer


class Explaining:
    """Explains matches in one gallery in a folder. Several threads may ask."""

    def __init__(self, gallery: OpenedGallery) -> None:
        self.gallery = gallery
        self.pairs = PairExplaining(gallery.model)

    def explain(self, image: Picture, number: int, bbox: Sequence[float] | None = None) -> WhyMatched:
        """The picture with the id ``number`` for the query ``image``, or its ``bbox`` (x1, y1, x2, y2 in pixels).

        Raises UsageError for an id that is not in the gallery, or a model that cannot be told by cells; ImageError for a picture
        that cannot be read, or of which only the descriptor is kept (a key, a member of an archive).
        """
        gallery = self.gallery
        with gallery.catalog.reading():
            record = gallery.catalog.by_ids([number]).get(number)
            name = gallery.namer()
            keys = {root.id for root in gallery.catalog.roots() if root.kind == "keys"}
        if record is None or record.row is None:
            raise UsageError(f"picture {number} is not in the gallery")
        if record.root in keys:
            raise ImageError("no file of it is at hand, only its descriptor: it came by a key, or out of an archive")
        model = gallery.model
        ours = model.load(image, bbox)
        try:
            theirs = model.load(name(record))
        except ImageError as error:
            raise ImageError(f"picture {number} of the gallery: {error.message}", error.hint) from error
        found = self.pairs.explain(ours, theirs)
        return replace(found, points=self._points(ours, theirs, image, bbox, record))

    def explain_match(self, image: Picture, match: Match, bbox: Sequence[float] | None = None) -> WhyMatched:
        """See :meth:`explain`."""
        return self.explain(image, match.id, bbox)

    def prepare(self) -> None:
        """See :meth:`PairExplaining.prepare`."""
        self.pairs.prepare()

    def _points(
        self,
        ours: npt.NDArray[np.uint8],
        theirs: npt.NDArray[np.uint8],
        image: Picture,
        bbox: Sequence[float] | None,
        record: Record,
    ) -> npt.NDArray[np.float64] | None:
        index = self.gallery.local
        if index is None:
            return None
        source = os.fspath(image) if isinstance(image, os.PathLike) else image
        codes = index.describe(large_enough(ours, self.gallery.spec, source, bbox), query=True)
        search = LocalSearch(index.blocks(), codes)
        number = int(search.numbers_of([record.hash])[0])
        if number < 0:
            return None
        found = search.geometry(number)
        return np.concatenate([_places(found.ours, ours), _places(found.theirs, theirs)], axis=1)


def _places(places: npt.NDArray[np.uint8], picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Places in 256ths of the longest side (M, 4) as x and y (M, 2) in parts of width and height."""
    height, width = picture.shape[:2]
    sides = np.array([width, height], np.float64)
    result: npt.NDArray[np.float64] = np.clip((places[:, :2] + 0.5) / 256 * sides.max() / sides, 0, 1)
    return result

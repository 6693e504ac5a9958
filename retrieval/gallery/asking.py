"""A gallery that is asked: pictures in, ranked matches out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, TypedDict, TypeVar, overload

import numpy as np

from retrieval.errors import ImageError, UsageError, number_between, whole_number
from retrieval.gallery.answers import Match, QueryResult, one_box
from retrieval.gallery.given import listed
from retrieval.gallery.in_order import answered_in_order
from retrieval.gallery.local.querying import QueryCodes
from retrieval.gallery.weighed import WeighedGallery
from retrieval.pictures.content import digest_of

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from retrieval.describe.begun import Begun
    from retrieval.gallery.adding import Picture
    from retrieval.gallery.second_look import RerankedSearch
    from retrieval.ranking.asmk import LocalCodes

P = TypeVar("P", bound="Picture")


class QueryOptions(TypedDict, total=False):
    """What :meth:`AskedGallery.query` can be told by name."""

    rerank: str | RerankedSearch | None
    under: str | os.PathLike[str] | None
    min_score: float | None
    rank: str | None
    min_probability: float | None
    fold: bool
    exclude_self: bool


class AskedGallery(WeighedGallery):
    """The half of :class:`retrieval.Gallery` that answers. Several threads may ask one gallery at the same time: describing
    runs in all of them, the search in one after the other. ``begun``: for a gallery opened for one question, its picture, which
    is being described already."""

    begun: Begun | None = None

    @overload
    def query(
        self,
        image: Picture,
        k: int = ...,
        bbox: Sequence[float] | None = ...,
        **options: Unpack[QueryOptions],
    ) -> QueryResult: ...

    @overload
    def query(
        self,
        image: list[P],
        k: int = ...,
        bbox: None = ...,
        **options: Unpack[QueryOptions],
    ) -> list[QueryResult]: ...

    def query(
        self,
        image: Picture | list[P],
        k: int = 10,
        bbox: Sequence[float] | None = None,
        *,
        rerank: str | RerankedSearch | None = None,
        under: str | os.PathLike[str] | None = None,
        min_score: float | None = None,
        rank: str | None = None,
        min_probability: float | None = None,
        fold: bool = False,
        exclude_self: bool = False,
    ) -> QueryResult | list[QueryResult]:
        """The ``k`` most similar pictures to ``image`` (path, bytes, array or PIL image), or to its ``bbox`` (x1, y1, x2, y2
        in pixels of the whole picture). A list of pictures gives a list of results.

        ``rerank``: look twice, by name such as "alpha-qe" or "verify"; ``under``: only pictures in this folder;
        ``min_score``: only matches of this cosine similarity or more; ``min_probability``: only such as show the same thing
        with this probability or more. ``rank``: what the order follows, "fused" (the default where there is a local index),
        "cosine" or "local"; with ``rerank`` it is the re-ranker, and verdicts are those that the same pictures get without it
        (none with rank="cosine"). ``fold``: copies of an answer, altered ones too, do not follow
        it but are named in its ``copies``; ``exclude_self``: neither the file that asks nor its exact copies are answers.
        Raises ImageError, UsageError, GalleryDamaged.
        """
        several = isinstance(image, list)
        pictures: Sequence[Picture] = image if isinstance(image, list) else [image]
        results = list(
            self.answers(
                pictures,
                k,
                bbox,
                rerank=rerank,
                under=under,
                min_score=min_score,
                rank=rank,
                min_probability=min_probability,
                fold=fold,
                exclude_self=exclude_self,
            )
        )
        for result in results:
            if result.error is not None:
                if result.query:
                    raise ImageError(f"{result.query}: {result.error}") from result.error
                raise result.error
        return results if several else results[0]

    def answers(
        self,
        images: Sequence[Picture],
        k: int = 10,
        bbox: Sequence[float] | None = None,
        *,
        rerank: str | RerankedSearch | None = None,
        under: str | os.PathLike[str] | None = None,
        min_score: float | None = None,
        rank: str | None = None,
        min_probability: float | None = None,
        fold: bool = False,
        exclude_self: bool = False,
        begun: Begun | None = None,
    ) -> Iterator[QueryResult]:
        """What :meth:`query` gives, for one picture after the other, in order, each as soon as it is there. A picture that
        cannot be read gives a result with an ``error``, and the others go on. ``begun``: the first, if it is being described
        already."""
        images = listed("pictures", images)
        box = one_box(bbox, len(images))
        k = whole_number("k", k)
        if min_score is not None:
            min_score = number_between("min_score", min_score, -1, 1)
        if min_probability is not None:
            min_probability = number_between("min_probability", min_probability, 0, 1)
        by = self.rank_by(rank, rerank is not None, min_probability is not None)
        second = self._second_look(rerank, under)
        judged = by != "cosine" or (second is not None and self.judges(rank))
        index = self.local if judged else None
        with nullcontext() if index is None else QueryCodes(index, self.spec) as codes:
            if begun is None:
                begun, self.begun = self.begun, None
            if begun is not None and not (images and begun.is_of(images[0], bbox)):
                begun = None

            def load(i: int) -> np.ndarray:
                early = begun if i == 0 else None
                array = self.model.load(images[i], bbox) if early is None else early.pixels()
                if codes is not None:
                    codes.keep(i, array, images[i], bbox, now=early is not None and not early.done())
                return array

            def find(i: int, vector: np.ndarray) -> list[Match]:
                local = None if codes is None else codes.of(i)
                finder = self._finder(vector, local, images[i], box, second, under, by)
                return self._sifted(k, finder, images[i], fold, exclude_self)

            first = None
            if begun is not None:
                with suppress(ImageError):  # describing the picture tells it
                    load(0)
                    if under is None:  # else neither index nor all vectors are looked at
                        self.read_ahead(weighed=codes is not None)
                    first = begun.descriptor()
            least = {"min_score": min_score, "min_probability": min_probability}
            yield from answered_in_order(images, bbox, self.model, find, load=load, first=first, **least)

    def _second_look(
        self, rerank: str | RerankedSearch | None, under: str | os.PathLike[str] | None
    ) -> RerankedSearch | None:
        if rerank is None:
            return None
        from retrieval.gallery.second_look import RerankedSearch  # only here: most queries start without
        from retrieval.ranking.rerank import parse_reranker

        if isinstance(rerank, RerankedSearch):
            return rerank
        if not isinstance(rerank, str):
            raise UsageError(f"rerank must be the name of a re-ranker, not {rerank!r:.60}")
        return RerankedSearch(self, parse_reranker(rerank), under)

    def _sifted(
        self, k: int, find: Callable[[int], Sequence[Match]], source: Picture, fold: bool, exclude_self: bool
    ) -> list[Match]:
        """The ``k`` best that ``find`` gives, without what need not be answered."""
        if not (fold or exclude_self):
            return list(find(k))
        from retrieval.gallery.folding import Sifter  # only here: it compares pixels

        return Sifter(self, source, fold, exclude_self).first(k, find)

    def _finder(
        self,
        vector: np.ndarray,
        codes: LocalCodes | None,
        source: Picture,
        box: tuple[float, float, float, float] | None,
        second: RerankedSearch | None,
        under: str | os.PathLike[str] | None,
        by: str,
    ) -> Callable[[int], Sequence[Match]]:
        """What gives the so many best for a query described by ``vector`` (D,) and ``codes``."""
        content = digest_of(source) if codes is not None and box is None else None
        if second is not None:
            return lambda k: self._judged(vector, codes, content, second.search(vector, k, source, box), under)
        if codes is not None:
            return lambda k: self._weighed(vector, codes, content, k, under, by)
        return lambda k: self.search(vector[None], k, under=under)[0]

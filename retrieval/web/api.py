"""The JSON API."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse
from pydantic import ValidationError

from retrieval.gallery.thumbnails import SIDES
from retrieval.version import __version__
from retrieval.web import forms
from retrieval.web.errors import ApiError
from retrieval.web.known import known_parameters_alone
from retrieval.web.offers import Shown, require
from retrieval.web.state import WebState
from retrieval.web.uploads import JSON

T = TypeVar("T")
_PICTURE_BODY = {
    "requestBody": {
        "required": True,
        "description": "The picture itself, not a form; or, for a search, JSON with a vector.",
        "content": {
            "image/*": {"schema": {"type": "string", "format": "binary"}},
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            JSON: {"schema": forms.VectorQuestion.model_json_schema()},
        },
    }
}


router = APIRouter(responses=forms.ERRORS, dependencies=[Depends(known_parameters_alone)])

GalleryName = Annotated[
    str | None, Query(max_length=200, description="Which gallery; the first without.", examples=["album"])
]
Number = Annotated[int, Path(ge=0, le=1 << 53, description="Id of a picture", examples=[17])]
Asked = Annotated[int, Query(ge=0, le=1 << 53, description="Id of the picture that asks", examples=[17])]
Box = Annotated[
    str | None,
    Query(
        max_length=100,
        description="Only this box of the query: x1,y1,x2,y2 in its pixels.",
        examples=["120,40,560,480"],
    ),
]
Count = Annotated[int, Query(ge=1, le=1_000_000, description="How many results; the server has a limit", examples=[20])]
Under = Annotated[str | None, Query(max_length=4096, description="Only in this folder", examples=["album/2024"])]
Least = Annotated[float | None, Query(ge=-1, le=1, allow_inf_nan=False, description="Least cosine similarity")]
LeastChance = Annotated[float | None, Query(ge=0, le=1, allow_inf_nan=False, description="Least probability")]
Order = Annotated[forms.Ranking | None, Query(description="What the order follows")]
Fold = Annotated[bool, Query(description="Count copies of an answer beside it, not after it")]
Others = Annotated[bool, Query(description="Leave out the picture that asks, and its exact copies")]
Heads = Annotated[bool, Query(description="With the attention of each head, not of their mean alone")]
SecondLook = Annotated[forms.Rerank | None, Query(description="Look twice")]


def _web(request: Request) -> WebState:
    state: WebState = request.app.state.web
    return state


async def _searching(request: Request, task: Callable[[], T]) -> T:
    return await _web(request).searches.run(task, request.is_disconnected)


async def _light(request: Request, task: Callable[[], T]) -> T:
    return await _web(request).light.run(task, request.is_disconnected)


def box_of(text: str | None) -> tuple[float, float, float, float] | None:
    """``x1,y1,x2,y2`` as numbers. Raises ApiError 422."""
    if text is None or not text.strip():
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise ApiError(422, "A box is four numbers, x1,y1,x2,y2 in pixels of the query.", "invalid_box")
    return numbers[0], numbers[1], numbers[2], numbers[3]


@dataclass(frozen=True)
class _Search:
    """What both ways to search are told beside the picture."""

    served: Shown
    k: int
    box: tuple[float, float, float, float] | None
    options: dict[str, Any]

    def by(self, source: bytes | int) -> dict[str, Any]:
        return self.served.search(source, self.k, self.box, **self.options)


def _search(
    request: Request,
    gallery: GalleryName = None,
    k: Count = 20,
    box: Box = None,
    under: Under = None,
    rank: Order = None,
    rerank: SecondLook = None,
    min_score: Least = None,
    min_probability: LeastChance = None,
    fold: Fold = False,
    exclude_self: Others = False,
) -> _Search:
    web = _web(request)
    options = {
        "under": under or None,
        "rank": rank,
        "rerank": rerank,
        "min_score": min_score,
        "min_probability": min_probability,
        "fold": fold,
        "exclude_self": exclude_self,
    }
    return _Search(web.served(gallery), min(k, web.settings.limits.results), box_of(box), options)


Searching = Annotated[_Search, Depends(_search)]


@router.get("/api/search", response_model=forms.AnswerForm, summary="Search by an indexed picture")
async def search_by_id(request: Request, id: Asked, asked: Searching) -> Any:
    """What is most similar to a picture of the gallery, or to a box of it; it is itself among the answers unless left out."""
    return await _searching(request, lambda: asked.by(id))


@router.post(
    "/api/search", response_model=forms.AnswerForm, openapi_extra=_PICTURE_BODY, summary="Search by a picture or vector"
)
async def search_by_picture(request: Request, asked: Searching) -> Any:
    """What is most similar to the picture that is sent as the body (nothing of it is stored), or to the descriptor in a body of
    JSON: ``{"vector": [...]}``, which is ranked by the cosine alone."""
    async with _web(request).uploads.body(request) as (data, kind):
        if kind == JSON:
            vector = _vector(data)
            return await _searching(request, lambda: _by_vector(asked, vector))
        return await _searching(request, lambda: asked.by(data))


def _vector(data: bytes) -> list[float]:
    try:
        asked = forms.VectorQuestion.model_validate(json.loads(data))
    except (ValueError, RecursionError, ValidationError):
        raise ApiError(422, 'A search by vector needs JSON: {"vector": [numbers]}.', "invalid_vector") from None
    if not all(map(math.isfinite, asked.vector)) or not 0 < math.hypot(*asked.vector) < 1e30:
        raise ApiError(422, "The vector needs finite numbers that are not all 0.", "invalid_vector")
    return asked.vector


def _by_vector(asked: _Search, vector: list[float]) -> dict[str, Any]:
    served = asked.served
    if len(vector) != served.spec.dim:
        told = f"The vector has {len(vector)} numbers, this gallery's descriptors {served.spec.dim}."
        raise ApiError(422, told, "invalid_vector")
    length = math.hypot(*vector)
    unit = [value / length for value in vector]
    return served.search_by_vector(unit, asked.k, asked.options["under"], asked.options["min_score"])


@router.get("/api/images", response_model=forms.ListingForm, summary="List pictures")
async def list_pictures(
    request: Request,
    gallery: GalleryName = None,
    after: Annotated[int, Query(ge=-1, le=1 << 53, description="`next` of the page before")] = -1,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    under: Under = None,
    offset: Annotated[
        int | None, Query(ge=0, le=1 << 53, description="The place to begin at, instead of `after`")
    ] = None,
) -> Any:
    """All pictures that can be searched, by ascending id, a page at a time."""
    served = _web(request).served(gallery)
    if offset is not None:
        require(served, "places")
    return await _light(request, lambda: served.listing(after, limit, under or None, offset))


@router.get("/api/images/{id}", response_model=forms.WholePictureForm, summary="One picture")
async def one_picture(request: Request, id: Number, gallery: GalleryName = None) -> Any:
    """What is known of a picture. Its file is never sent; see thumbnails."""
    served = _web(request).served(gallery)
    return await _light(request, lambda: served.one(id))


@router.get(
    "/api/thumbnails/{id}",
    response_class=Response,
    responses={200: {"content": {"image/webp": {}}, "description": "The picture, small, the right way up"}},
    summary="A small picture",
)
async def thumbnail(
    request: Request,
    id: Number,
    gallery: GalleryName = None,
    side: Annotated[Literal["320", "1280"], Query(description="Longest side")] = "320",
    v: Annotated[
        str | None, Query(max_length=64, description="Changes with the content, so that it can be kept")
    ] = None,
) -> Response:
    """Encoded anew as WebP: no metadata, and nothing but a picture."""
    web = _web(request)
    served = web.served(gallery)
    data = await web.thumbnails.run(lambda: served.thumbnail(id, int(side)), request.is_disconnected)
    age = "max-age=31536000, immutable" if v else "no-cache"
    return Response(data, media_type="image/webp", headers={"Cache-Control": f"private, {age}"})


assert SIDES == (320, 1280)


@router.get("/api/heatmap", response_model=forms.WhyForm, summary="Why an indexed picture matches another")
async def heatmap_by_id(
    request: Request,
    id: Annotated[int, Query(ge=0, le=1 << 53, description="The answer", examples=[4])],
    query: Asked,
    gallery: GalleryName = None,
    box: Box = None,
    heads: Heads = False,
) -> Any:
    """The cosine as terms of both pictures' cells, the attention of a vision transformer, and the points that agree."""
    served = _web(request).served(gallery)
    return await _searching(request, lambda: served.why(query, id, box_of(box), heads))


@router.post(
    "/api/heatmap", response_model=forms.WhyForm, openapi_extra=_PICTURE_BODY, summary="Why a picture matches an answer"
)
async def heatmap_by_picture(
    request: Request,
    id: Annotated[int, Query(ge=0, le=1 << 53, description="The answer", examples=[4])],
    gallery: GalleryName = None,
    box: Box = None,
    heads: Heads = False,
) -> Any:
    """The same for a query that is sent as the body."""
    web = _web(request)
    served, cut = web.served(gallery), box_of(box)
    async with web.uploads.body(request) as (data, kind):
        if kind == JSON:
            raise ApiError(415, "A vector has no cells; send the picture.")
        return await _searching(request, lambda: served.why(data, id, cut, heads))


@router.get("/api/stats", response_model=forms.StatsForm, summary="What the galleries hold")
async def stats(request: Request) -> Any:
    """Counts that grow while a gallery is being indexed, folders, and what could not be read, with reasons."""
    web = _web(request)
    return await _light(request, lambda: {"galleries": [served.stats() for served in web.galleries.values()]})


@router.get("/api/duplicates", response_model=forms.CopiesForm, summary="Groups of duplicates")
async def duplicates(
    request: Request,
    gallery: GalleryName = None,
    level: Annotated[Literal["exact", "copies", "scenes"], Query()] = "copies",
    first: Annotated[int, Query(ge=0, le=1 << 31)] = 0,
    count: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Any:
    """Found in the background: ask again while ``state`` is "running". Nothing is deleted, here or anywhere."""
    web = _web(request)
    copies = web.copies(gallery)
    return await _light(request, lambda: copies.ask(level, first, count))


@router.get("/api/map", response_model=forms.MapForm, summary="A map of the gallery")
async def gallery_map_(
    request: Request,
    gallery: GalleryName = None,
    count: Annotated[int, Query(ge=1, le=5000, description="How many pictures, evenly chosen")] = 1000,
) -> Any:
    """A sample, laid out so that pictures near each other have like descriptors; kept until the gallery changes."""
    map_ = _web(request).map(gallery)
    return await _searching(request, lambda: map_.ask(count))


@router.get("/healthz", response_model=forms.HealthForm, summary="Whether the server is up")
async def health() -> Any:
    """Needs no token."""
    return {"status": "ok", "version": __version__}


@router.get("/metrics", response_class=PlainTextResponse, summary="Counters for Prometheus")
async def metrics(request: Request) -> Any:
    """Requests by route and status, seconds, what is waiting, pictures in galleries."""
    web = _web(request)
    gauges = await _light(request, web.gauges)
    return PlainTextResponse(web.metrics.text(gauges), media_type="text/plain; version=0.0.4")

"""What answers look like, as OpenAPI tells it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Ranking = Literal["fused", "cosine", "local"]
Rerank = Literal["qe", "alpha-qe", "k-reciprocal", "diffusion", "verify", "xfeat"]
Verdict = Literal["same", "likely", "similar"]


class PictureForm(BaseModel):
    """A picture of the gallery."""

    id: int = Field(examples=[17])
    name: str = Field(examples=["ruins_4.jpg"])
    folder: str = Field(examples=["album/2024"])
    path: str = Field(description="Folder and name", examples=["album/2024/ruins_4.jpg"])
    width: int | None = Field(examples=[4000])
    height: int | None = Field(examples=[3000])
    thumbnail: str | None = Field(description="Where a small WebP is", examples=["/api/thumbnails/17?gallery=album"])
    absent: str | None = Field(None, description="Why there is no thumbnail, where there is none")


class WholePictureForm(PictureForm):
    """A picture of the gallery, with its state."""

    bytes: int | None = Field(examples=[2_345_678])
    status: str = Field(examples=["ok"])
    error: str | None = None
    searchable: bool = True
    file: str | None = Field(None, description="Absolute path, told on the machine itself alone")


class ResultForm(PictureForm):
    """An answer. ``score`` is the cosine similarity; the others are null where they were not computed."""

    rank: int = Field(examples=[1])
    score: float = Field(examples=[0.9114])
    metadata: dict[str, Any] | None = None
    local: float | None = Field(None, examples=[0.21])
    fused: float | None = Field(None, examples=[9.3])
    inliers: int | None = Field(None, examples=[34])
    probability: float | None = Field(None, examples=[0.9999])
    verdict: Verdict | None = Field(None, examples=["same"])
    rerank_score: float | None = None
    copies: int = Field(0, description="How many copies were folded into it")


class QueryForm(BaseModel):
    id: int | None = None
    box: list[float] | None = Field(None, examples=[[120, 40, 560, 480]])


class AnswerForm(BaseModel):
    """A ranking. ``found``: whether a result shows the same thing, null without verdicts; ``filtered``: results left out by
    a least score or probability."""

    gallery: str = Field(examples=["album"])
    model: str = Field(description="Fingerprint of the model", examples=["5d1c0b7a9f3e2d44"])
    query: QueryForm
    ranked_by: str = Field(examples=["fused"])
    found: bool | None = Field(examples=[True])
    filtered: int = 0
    results: list[ResultForm]


class ListingForm(BaseModel):
    """Pictures by ascending id; ``next`` is what ``after`` is for the next page, null at the end."""

    total: int
    pictures: list[PictureForm]
    next: int | None = None


class GridForm(BaseModel):
    rows: int = Field(examples=[12])
    columns: int = Field(examples=[16])
    terms: list[list[float]] = Field(description="Row by row; they sum to the cosine", examples=[[[0.01, 0.02]]])


class AttentionGridForm(BaseModel):
    """How much of the class token's attention in the last block goes to each patch, row by row; the rest goes to itself."""

    rows: int = Field(examples=[14])
    columns: int = Field(examples=[14])
    heads: int = Field(examples=[6])
    mean: list[list[float]] = Field(description="Over heads", examples=[[[0.004, 0.012]]])
    of_heads: list[list[list[float]]] | None = Field(None, description="Of each head, where `heads` asked for them")


class AttentionForm(BaseModel):
    query: AttentionGridForm
    picture: AttentionGridForm


class WhyForm(BaseModel):
    """``query`` and ``picture``: the terms of each picture's cells, which sum to ``cosine``; null for a model that describes
    by its class token alone. ``attention``: of vision transformers. ``points``: [x, y, x, y] in the query (or its box) and in
    the picture, in parts of width and height; null without a local index."""

    cosine: float = Field(examples=[0.9114])
    query: GridForm | None
    picture: GridForm | None
    attention: AttentionForm | None = None
    points: list[list[float]] | None = Field(examples=[[[0.41, 0.52, 0.38, 0.6]]])


class TroubledForm(BaseModel):
    id: int | None = None
    path: str = Field(examples=["album/broken.jpg"])
    reason: str = Field(examples=["the file ends early"])


class FolderForm(BaseModel):
    folder: str = Field(examples=["album/2024"])
    pictures: int = Field(examples=[230])


class GalleryForm(BaseModel):
    """A gallery's counts; ``pending`` were found and are not described yet; ``version`` grows with every change."""

    gallery: str = Field(examples=["album"])
    pictures: int = Field(examples=[1000])
    pending: int | None = Field(0, description="Null where a gallery does not tell")
    unreadable: int | None = 0
    unreadable_pictures: list[TroubledForm]
    version: int
    model: str = Field(examples=["lite0_instance-gem"])
    fingerprint: str
    verdicts: bool
    offers: list[str] = Field(description="What it can be asked for beside searches", examples=[["map", "why"]])
    folders: list[FolderForm]


class StatsForm(BaseModel):
    galleries: list[GalleryForm]


class MemberForm(WholePictureForm):
    """A picture of a group; the best comes first."""

    score: float | None = None
    relation: Literal["exact", "copy", "scene"]
    verified: bool
    best: bool
    kept: str | None = Field(None, description="Why it is kept beside the best one; null: it need not be")


class GroupForm(BaseModel):
    kind: Literal["exact", "copies", "scenes"]
    members: list[MemberForm]


class CopiesForm(BaseModel):
    """``state``: "running" (ask again; ``done`` of ``of`` in this ``stage``), "done" or "failed" (``message`` tells why)."""

    state: Literal["running", "done", "failed"]
    level: str
    total: int = Field(description="How many groups there are in all")
    groups: list[GroupForm]
    judging: bool = Field(False, description="Whether it is still being looked at which of them need not be kept")
    pictures: int | None = None
    unread: list[TroubledForm] = []
    stage: str = ""
    done: int = 0
    of: int = 0
    message: str = ""


class PlaceForm(PictureForm):
    """A picture and where it lies on the map, -1 to 1."""

    x: float
    y: float


class MapForm(BaseModel):
    """``neighbours``: which part of each picture's ten nearest by descriptor, in the sample, are among its ten nearest here."""

    pictures: list[PlaceForm]
    total: int
    neighbours: float = Field(examples=[0.71])


class HealthForm(BaseModel):
    status: Literal["ok"]
    version: str


class EndpointForm(BaseModel):
    method: str = Field(examples=["GET"])
    path: str = Field(examples=["/api/search"])
    summary: str = Field(examples=["Search by an indexed picture"])


class ApiForm(BaseModel):
    version: str
    details: str = Field(description="Where all parameters and forms are told", examples=["/api/openapi.json"])
    endpoints: list[EndpointForm]


class VectorQuestion(BaseModel):
    """A search by a descriptor of the gallery's model; it is normalised."""

    model_config = ConfigDict(json_schema_extra={"example": {"vector": [0.1, -0.2, 0.3]}})
    vector: list[float] = Field(min_length=1, max_length=16384)


class ErrorDetail(BaseModel):
    code: str = Field(examples=["no_such_picture"])
    message: str = Field(examples=["There is no picture 99 in this gallery."])


class ErrorForm(BaseModel):
    """What every error is answered with."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorForm} for status in (400, 401, 403, 404, 408, 413, 415, 421, 422, 500, 503)
}
"""What every route may be refused with."""

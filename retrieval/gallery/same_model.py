"""Whether a request means the model that a gallery was made with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from retrieval.describe.model import Model, load_model
from retrieval.messages import Say
from retrieval.models.spec import ModelSpec
from retrieval.models.token_reduction import with_tokens


class HasModel(Protocol):
    """A gallery as far as its model goes."""

    spec: ModelSpec

    def require(self, model: Model) -> None:
        """Raises GalleryMismatch for another model."""


def require_same_model(
    gallery: HasModel,
    model: str | None,
    size: int | None,
    scales: Sequence[float] | None,
    say: Say,
    tokens: str | None = None,
) -> None:
    """Raises GalleryMismatch when a request names another model, size, scales or schedule of tokens than the gallery's own."""
    own = gallery.spec
    if model is None or model == own.name:
        own = with_tokens(own, tokens)
        gallery.require(Model(own.with_image(size=size, scales=None if scales is None else tuple(scales))))
    else:
        gallery.require(
            load_model(
                model,
                size=size or own.image.size,
                scales=scales or own.image.scales,
                exif=own.image.exif,
                tokens=tokens,
                say=say,
            )
        )

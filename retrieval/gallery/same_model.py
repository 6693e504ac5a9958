"""Whether a request means the model, and the type of stored values, that a gallery was made with."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from retrieval.describe.choice import ModelChoice
from retrieval.describe.model import Model
from retrieval.errors import GalleryMismatch, UsageError
from retrieval.messages import Say
from retrieval.models.spec import ModelSpec
from retrieval.models.token_reduction import with_tokens

if TYPE_CHECKING:
    from retrieval.gallery.opened import OpenedGallery


class HasModel(Protocol):
    """A gallery as far as its model goes."""

    spec: ModelSpec

    @property
    def folder(self) -> object: ...

    def require(self, model: Model) -> None:
        """Raises GalleryMismatch for another model."""


def require_same_model(gallery: HasModel, asked: ModelChoice, say: Say) -> None:
    """Raises GalleryMismatch when a request names another model, size, scales or schedule of tokens than the gallery's own.
    The rule of EXIF orientation is the gallery's."""
    own = gallery.spec
    if asked.model is not None and asked.model == own.name:
        _refuse_published_for_own(gallery)
    if asked.model is None or asked.model == own.name:
        scales = None if asked.scales is None else tuple(asked.scales)
        gallery.require(Model(with_tokens(own, asked.tokens).with_image(size=asked.size, scales=scales)))
    else:
        _refuse_other_backbone(gallery, asked.model)
        rule = own.image
        wanted = replace(asked, size=asked.size or rule.size, scales=asked.scales or rule.scales, exif=rule.exif)
        gallery.require(wanted.load(say=say))


def _refuse_published_for_own(gallery: HasModel) -> None:
    """A trained or whitened model has the short name of the one it came from, and a name means published weights."""
    from retrieval.models.registry import BACKBONES

    own = gallery.spec
    known = BACKBONES.get(own.backbone)
    published = known is not None and known.published(own.weights.id) is not None and own.whitening is None
    if not published and not own.weights.id.startswith("random:"):
        raise GalleryMismatch(
            f"the gallery {gallery.folder} was made with a model of one's own ({own.name}, {own.origin}), "
            "not with published weights",
            "Leave out --model to use the gallery's own, or name another with --index.",
        )


def _refuse_other_backbone(gallery: HasModel, name: str) -> None:
    """Before weights are looked for, which may mean a download."""
    from retrieval.models.zoo import parse_name

    try:
        backbone = gallery.spec.backbone if name == "auto" or os.path.exists(name) else parse_name(name).backbone
    except UsageError:  # loading it will say so
        return
    if backbone != gallery.spec.backbone:
        raise GalleryMismatch(
            f"the gallery {gallery.folder} was made with {gallery.spec.name}, not with {name}",
            "Leave out --model to use the gallery's own, or name another with --index.",
        )


def require_same_dtype(gallery: OpenedGallery, dtype: str | None) -> None:
    """Raises UsageError when a request names another type of stored values than the gallery's own."""
    own = gallery.description["dtype"]
    if dtype not in (None, own):
        raise UsageError(f"the gallery {gallery.folder} stores {own}", "Another dtype needs another gallery (--index).")

"""``retrieve query --bbox``: a box that goes beyond its picture is cut, and that is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrieval.cli.common import say
from retrieval.errors import ImageError, UsageError
from retrieval.resident.ask import ResidentGallery

if TYPE_CHECKING:
    from retrieval.backends.served import ServedGallery
    from retrieval.gallery.gallery import Gallery


def tell_cut(
    source: str | bytes, bbox: tuple[float, ...], gallery: Gallery | ServedGallery | ResidentGallery, quiet: bool
) -> None:
    """Of a picture that was read with this box: to what size it was cut, if it was."""
    from retrieval.pictures.geometry import size_within
    from retrieval.pictures.imaging import picture_size

    exif = gallery.exif if isinstance(gallery, ResidentGallery) else gallery.spec.image.exif
    try:
        cut = size_within(bbox, picture_size(source, exif=exif))
    except (ImageError, UsageError):  # it has become another one since
        return
    if cut is not None:
        say(f"box cut to {cut[0]} x {cut[1]}: the picture ends there", quiet)

"""What commands do with a served gallery where they need one in a folder: a temporary copy, and a line that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrieval.cli.common import say
from retrieval.gallery.address import served_address
from retrieval.messages import progress_bar, safe

if TYPE_CHECKING:
    from retrieval.backends.copied import CopiedGallery
    from retrieval.gallery.gallery import Gallery


def copy_of(address: str, engine: str, quiet: bool, names: Sequence[str] | None = None) -> CopiedGallery:
    """All pictures of the gallery at an address, or these, see :mod:`retrieval.backends.copied`. Raises GalleryError."""
    from retrieval.backends.copied import CopiedGallery
    from retrieval.backends.served import ServedGallery

    def tell(message: str) -> None:
        say(safe(message), quiet)

    with ServedGallery.open(address, engine=engine, say=tell) as served, progress_bar("fetch", quiet) as update:
        return CopiedGallery.of(served, names, progress=update)


def opened(index: str | None, engine: str, quiet: bool) -> Gallery:
    """The gallery that ``--index`` names, in a folder or as a copy of what a server keeps."""
    from retrieval.gallery.gallery import Gallery

    def warn(message: str) -> None:
        say(f"warning: {safe(message)}", quiet)

    address = served_address(index)
    return Gallery.open(index, engine=engine, warn=warn) if address is None else copy_of(address, engine, quiet)

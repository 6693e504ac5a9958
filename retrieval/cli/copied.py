"""What commands do with a served gallery where they need one in a folder: a temporary copy, and a line that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrieval.cli.common import say
from retrieval.gallery.address import served_address
from retrieval.messages import human_bytes, progress_bar, safe

if TYPE_CHECKING:
    from retrieval.backends.copied import CopiedGallery
    from retrieval.gallery.gallery import Gallery


def copy_of(
    address: str, engine: str, quiet: bool, names: Sequence[str] | None = None, *, instead: str = ""
) -> CopiedGallery:
    """All pictures of the gallery at an address, or these, see :mod:`retrieval.backends.copied`; says how many that are, and
    what does ``instead``. Raises GalleryError."""
    from retrieval.backends.copied import CopiedGallery, size_of
    from retrieval.backends.served import ServedGallery

    def tell(message: str) -> None:
        say(safe(message), quiet)

    with ServedGallery.open(address, engine=engine, say=tell) as served, progress_bar("fetch", quiet) as update:
        count = len(served) if names is None else len(set(names))
        size = human_bytes(size_of(served, count))
        tell(f"fetching names and vectors of {count:,} pictures from {served.folder}, some {size}. {instead}".rstrip())
        return CopiedGallery.of(served, names, progress=update)


_FOLDER = "A gallery in a folder, filled from the same parts, needs no copy."


def opened(index: str | None, engine: str, quiet: bool) -> Gallery:
    """The gallery that ``--index`` names, in a folder or as a copy of what a server keeps."""
    from retrieval.gallery.gallery import Gallery

    def warn(message: str) -> None:
        say(f"warning: {safe(message)}", quiet)

    address = served_address(index)
    return (
        Gallery.open(index, engine=engine, warn=warn)
        if address is None
        else copy_of(address, engine, quiet, instead=_FOLDER)
    )

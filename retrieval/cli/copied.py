"""What commands do with a served gallery where they need one in a folder: a temporary copy, and a line that says so."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from retrieval.cli.common import teller
from retrieval.gallery.address import served_address
from retrieval.messages import human_bytes, progress_bar

if TYPE_CHECKING:
    from retrieval.backends.copied import CopiedGallery
    from retrieval.gallery.gallery import Gallery


def end_by_signals() -> None:
    """From now on an end by SIGTERM, or with the terminal (SIGHUP), goes through what is to be tidied up, as Ctrl-C does: else a
    copy of some gigabytes stays where temporary files lie."""

    def ended(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    with suppress(ValueError):  # only a first thread may
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # not where nohup, or a program around this, has its own
                signal.signal(number, ended)


def copy_of(
    address: str, engine: str, quiet: bool, names: Sequence[str] | None = None, *, instead: str = ""
) -> CopiedGallery:
    """All pictures of the gallery at an address, or these, see :mod:`retrieval.backends.copied`; says how many that are, and
    what does ``instead``. Raises GalleryError."""
    from retrieval.backends.copied import CopiedGallery, size_of
    from retrieval.backends.served import ServedGallery

    end_by_signals()

    tell = teller(quiet)
    with ServedGallery.open(address, engine=engine, say=tell) as served, progress_bar("fetch", quiet) as update:
        count = len(served) if names is None else len(set(names))
        size = human_bytes(size_of(served, count))
        tell(f"fetching names and vectors of {count:,} pictures from {served.folder}, some {size}. {instead}".rstrip())
        return CopiedGallery.of(served, names, progress=update)


_FOLDER = "A gallery in a folder, filled from the same parts, needs no copy."


def opened(index: str | None, engine: str, quiet: bool) -> Gallery:
    """The gallery that ``--index`` names, in a folder or as a copy of what a server keeps."""
    from retrieval.gallery.gallery import Gallery

    warn = teller(quiet, "warning: ")
    address = served_address(index)
    return (
        Gallery.open(index, engine=engine, warn=warn)
        if address is None
        else copy_of(address, engine, quiet, instead=_FOLDER)
    )

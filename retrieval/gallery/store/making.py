"""A gallery is made under another name and renamed when it is whole. Who makes one holds its lock, so what a killed process
left is told from what is being made."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from retrieval.errors import GalleryError, GalleryLocked
from retrieval.files.whole import sync_folder
from retrieval.gallery.store.lock import WriterLock

_NAME = re.compile(r"(\.\d+\.derived)?\.\d+\.(making|derived)")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill, which then takes the place of ``folder``. When the block raises, nothing is left of it. Raises OSError,
    GalleryError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_left(folder)
    temporary = beside(folder, "making")
    temporary.mkdir()
    try:
        with ExitStack() as held:
            try:
                held.enter_context(WriterLock(temporary))
            except GalleryError as error:  # who makes the same at the same time may take it for left before it is held
                if isinstance(error, GalleryLocked) or not temporary.exists():
                    raise GalleryError(f"another run is just making {folder}", "Run this again.") from error
                raise
            yield temporary
            put_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def beside(folder: Path, what: str) -> Path:
    """The name under which this process makes ``folder``."""
    return folder.with_name(f".{folder.name.lstrip('.')}.{os.getpid()}.{what}")


def put_in_place(temporary: Path, folder: Path) -> None:
    """Give a folder its final name, for good: a power cut later takes neither that nor what is in it. Raises OSError."""
    sync_folder(temporary)
    os.rename(temporary, folder)
    sync_folder(folder.parent)


def remove_left(folder: Path) -> None:
    """Delete what killed processes left of a ``folder`` that they were making."""
    hidden = f".{folder.name.lstrip('.')}"
    for left in folder.parent.glob(f"{glob.escape(hidden)}.*"):
        if _NAME.fullmatch(left.name[len(hidden) :]) and left.is_dir():
            with suppress(GalleryError), WriterLock(left):
                shutil.rmtree(left, ignore_errors=True)

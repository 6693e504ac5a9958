"""A new gallery's folder: there whole or not at all, and complete in itself."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from retrieval.describe.model import Model
from retrieval.errors import GalleryError, UsageError
from retrieval.gallery.address import CATALOG, DESCRIPTION, holds_gallery
from retrieval.gallery.description import INT8_FOLDER, write_description
from retrieval.gallery.store.catalog import Catalog
from retrieval.gallery.store.making import new_folder
from retrieval.models.checkpoint import FILE_NAME


def create_folder(folder: Path, model: Model, dtype: str, local: bool) -> dict[str, Any]:
    """Make an empty gallery, see :meth:`retrieval.Gallery.create`; returns its description. Raises GalleryError, UsageError."""
    if dtype not in ("float32", "float16"):
        raise UsageError(f"vectors are stored as float32 or float16, not {dtype}")
    if (folder / DESCRIPTION).exists():
        raise GalleryError(
            f"there is a gallery in {folder} already",
            "In Python, Gallery.open opens it; where another run has just made it, run this again.",
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise GalleryError(f"{folder} is not empty and not a gallery", "Name an empty or new folder with --index.")
    description: dict[str, Any] = {
        "format": 1,
        "model": model.spec.to_dict(),
        "fingerprint": model.fingerprint,
        "checkpoint": FILE_NAME if model.checkpoint else None,
        "dtype": dtype,
        "precision": model.precision,
        **({} if model.loss is None else {"precision_loss": model.loss.to_dict()}),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "roots": [],
        "local": local,
    }
    try:
        with new_folder(folder) as temporary:  # a gallery is there whole or not at all
            if model.checkpoint:  # a gallery is complete in itself: the run its model came from may go
                shutil.copyfile(model.checkpoint, temporary / FILE_NAME)
            if model.quantised:  # calibrated on pictures that may change: no other would do
                shutil.copytree(model.quantised, temporary / INT8_FOLDER)
            catalog = Catalog(temporary / CATALOG, create=True, writable=True)
            with catalog.writing():
                catalog.set_meta("description", json.dumps(description))
            catalog.close()
            write_description(temporary, description)
    except OSError as error:
        if holds_gallery(folder):
            raise GalleryError(f"another run has just made a gallery in {folder}", "Run this again.") from error
        raise GalleryError(f"cannot make a gallery in {folder}: {error.strerror or error}") from error
    return description

"""``gallery.json``, read and checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval.engines.base import PRECISIONS
from retrieval.errors import GalleryDamaged, GalleryError, ModelError
from retrieval.gallery.address import CATALOG, DESCRIPTION
from retrieval.gallery.settings import FORMAT, description_checksum
from retrieval.models.spec import ModelSpec


def read_description(folder: Path) -> dict[str, Any]:
    """``gallery.json``, checked. Raises GalleryDamaged, or GalleryError for a gallery of a later program."""
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_text("utf-8"))
        if description.pop("check", None) not in (None, description_checksum(description)):  # before 0.2 there was none
            raise ValueError("it is not what was written")
        if description["format"] > FORMAT:  # later ones keep the check, so a damaged number is none of them
            raise GalleryError(
                f"{path} has format {description['format']}; this program knows up to {FORMAT}",
                "Update the program.",
            )
        if ModelSpec.from_dict(description["model"]).fingerprint != description["fingerprint"]:
            raise ValueError("the model does not have the fingerprint written beside it")
        if description["dtype"] not in ("float32", "float16"):
            raise ValueError(f"unknown dtype {description['dtype']!r}")
        if precision_of(description) not in PRECISIONS:
            raise ValueError(f"unknown precision {precision_of(description)!r}")
    except FileNotFoundError as error:
        if not (folder / CATALOG).is_file():
            raise GalleryError(f"{folder} holds no gallery", "Make one with: retrieve index FOLDER.") from error
        raise GalleryDamaged(f"{path} is missing", "`retrieve index --repair` writes it from the catalog.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ModelError) as error:
        raise GalleryDamaged(
            f"{path} is damaged ({error})", "`retrieve index --repair` writes it from the catalog."
        ) from error
    result: dict[str, Any] = description
    return result


def precision_of(description: Mapping[str, Any]) -> str:
    """What a gallery's network runs with; descriptions of early galleries do not say it."""
    found: str = description.get("precision", "fp32")
    return found

"""``gallery.json``: read and checked, written, and the model that it describes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval.describe.model import Model
from retrieval.engines.base import PRECISIONS
from retrieval.errors import GalleryDamaged, GalleryError, ModelError
from retrieval.files.whole import write_json
from retrieval.gallery.address import CATALOG, DESCRIPTION
from retrieval.gallery.store.unread import unread
from retrieval.messages import Say
from retrieval.models.checkpoint import FILE_NAME
from retrieval.models.spec import ModelSpec

FORMAT = 2  # 2: pictures under keys of a program, which an older one would take for files that vanished; 1: all others
INT8_FOLDER = "int8"  # the network in 8 bits, in galleries that are described with it


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
    except OSError as error:
        raise unread(path, error, "`retrieve index --repair` writes it from the catalog.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ModelError) as error:
        raise GalleryDamaged(
            f"{path} is damaged ({error})", "`retrieve index --repair` writes it from the catalog."
        ) from error
    result: dict[str, Any] = description
    return result


def precision_of(description: Mapping[str, Any]) -> str:
    """What a gallery's network runs with; descriptions of early galleries do not say it."""
    found: str = description.get("precision", "fp32")
    return found


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Write ``gallery.json``, which is whole at every moment. Raises GalleryError."""
    path = folder / DESCRIPTION
    try:
        write_json(path, {**description, "check": description_checksum(description)})
    except OSError as error:
        raise GalleryError(f"could not write {path}: {error.strerror or error}") from error


def description_checksum(description: dict[str, Any]) -> str:
    """What ``gallery.json`` carries as ``check``, of all its other members."""
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()[:32]


def described_model(folder: Path, description: Mapping[str, Any], engine: str = "auto", *, say: Say) -> Model:
    """The model of the gallery in ``folder``, ready to build its engine. ``say`` gets its messages."""
    checkpoint = folder / FILE_NAME if description.get("checkpoint") else None
    precision = precision_of(description)
    quantised = folder / INT8_FOLDER if precision == "int8" else None
    spec = ModelSpec.from_dict(description["model"])
    return Model(spec, checkpoint, engine, quantised=quantised, bf16=precision == "bf16", say=say)

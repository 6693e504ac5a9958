"""The manifest of parts: what model describes what, cut into which shards. Written first, once, and never changed.

``manifest.json``: ``format``, ``source`` and ``kind`` (see ``sources.py``), ``model`` and ``fingerprint``, ``checkpoint`` (a file
beside it), ``codebook`` of local codes or null, ``shards``: a list of inputs for each, and ``check``, a checksum of all this.
Workers that start at the same moment agree: the first that writes it wins, the others take what is there.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrieval.describe.model import Model
from retrieval.errors import GalleryDamaged, GalleryError, GalleryMismatch, ModelError, UsageError
from retrieval.gallery.description import description_checksum
from retrieval.messages import first_line, safe
from retrieval.models.checkpoint import FILE_NAME
from retrieval.models.spec import ModelSpec
from retrieval.parts.shelves import Shelf, shelf_at, write_to
from retrieval.parts.sources import KINDS, Input, Source, look_at
from retrieval.ranking.asmk import standard_codebook

NAME = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """``shelf``: where manifest and parts lie. ``codebook``: name of the one whose local codes the parts hold, or None."""

    shelf: Shelf
    source: str
    kind: str
    spec: ModelSpec
    checkpoint: str | None
    codebook: str | None
    shards: list[list[Input]]

    @property
    def fingerprint(self) -> str:
        return self.spec.fingerprint

    @property
    def folder(self) -> Path:
        """Of parts that lie on this machine."""
        return Path(str(self.shelf))

    def name_of_part(self, shard: int) -> str:
        return f"part-{shard:05d}.parquet"

    def part(self, shard: int) -> Path:
        """Of parts that lie on this machine."""
        return self.folder / self.name_of_part(shard)

    def inputs_hash(self, shard: int) -> str:
        """What a part carries of its shard's inputs."""
        return hashlib.sha256(json.dumps(self.shards[shard]).encode()).hexdigest()[:32]

    def model(self, engine: str = "auto") -> Model:
        """The model that describes, as a new gallery of these parts needs it."""
        return Model(self.spec, None if self.checkpoint is None else self.shelf.local(self.checkpoint), engine)

    def to_dict(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "source": self.source,
            "kind": self.kind,
            "model": self.spec.to_dict(),
            "fingerprint": self.fingerprint,
            "checkpoint": self.checkpoint,
            "codebook": self.codebook,
            "shards": self.shards,
        }


def is_parts(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder, or a URI, has a manifest of parts."""
    return shelf_at(folder).has(NAME)


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Raises GalleryError where there is none or one of a later program, GalleryDamaged."""
    shelf = shelf_at(folder)
    path = f"{shelf}/{NAME}"
    try:
        data = json.loads(shelf.read(NAME).decode("ascii"))
        if data.pop("check", None) != description_checksum(data):
            raise ValueError("it is not what was written")
        if data["format"] > FORMAT:
            raise GalleryError(
                f"{path} has format {data['format']}; this program knows up to {FORMAT}", "Update the program."
            )
        checkpoint = None if data["checkpoint"] is None else Path(data["checkpoint"]).name
        spec = ModelSpec.from_dict(data["model"])
        if spec.fingerprint != data["fingerprint"]:
            raise ValueError("the model does not have the fingerprint written beside it")
        _check(data)
        return Manifest(shelf, data["source"], data["kind"], spec, checkpoint, data["codebook"], data["shards"])
    except FileNotFoundError as error:
        raise GalleryError(
            f"there are no parts in {folder}", "Make them: retrieve describe SOURCE --out PARTS."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ModelError) as error:
        raise GalleryDamaged(f"{path} is damaged ({first_line(error)})", "Describe into a new folder.") from error


def _check(data: dict[str, Any]) -> None:
    """Raises ValueError where something in it is not of its kind: the checksum tells damage, not who wrote it."""
    shards = data["shards"]
    texts = isinstance(data["source"], str) and data["kind"] in KINDS
    if not texts or not isinstance(data["codebook"], str | None) or not isinstance(shards, list):
        raise ValueError("it is no manifest")
    for shard in shards:
        if not isinstance(shard, list) or not all(map(_is_row_range if data["kind"] == "parquet" else _is_name, shard)):
            raise ValueError("a shard in it names no inputs")


def _is_name(given: Any) -> bool:
    return isinstance(given, str) and bool(given) and "\0" not in given


def _is_row_range(given: Any) -> bool:
    return isinstance(given, list) and len(given) == 3 and _is_name(given[0]) and all(type(n) is int for n in given[1:])


def prepare(
    source: str, folder: str | os.PathLike[str], model: Model, *, shard_size: int, multiple: int, local: bool
) -> Manifest:
    """The manifest in ``folder``: as it is there, or made for ``source`` now. See :meth:`Source.shards` for the numbers.

    Raises UsageError (no such source, another one than the manifest's), GalleryMismatch (another model), GalleryError.
    """
    shelf = shelf_at(folder)
    if not shelf.has(NAME):
        if _is_anothers(shelf):
            raise GalleryError(f"{shelf} is not empty and holds no parts", "Name an empty or new folder with --out.")
        _make(look_at(source), shelf, model, shard_size, multiple, local)
    found = read_manifest(folder)
    if found.fingerprint != model.fingerprint:
        raise GalleryMismatch(
            f"the parts in {folder} are made with {found.spec.name} (fingerprint {found.fingerprint}), "
            f"not with {model.spec.name} ({model.fingerprint})",
            "Give the same --model, --size and --scales, or another --out.",
        )
    if found.source != (place := source if "://" in source else os.path.abspath(source)):
        raise UsageError(
            f"the parts in {folder} are of {safe(found.source)}, not of {safe(place)}", "Name another --out."
        )
    return found


def _is_anothers(shelf: Shelf) -> bool:
    """Whether there is what no other worker that has just begun would leave."""
    try:
        return any(not (n in (NAME, FILE_NAME) or (n[0] == "." and n.endswith(".tmp"))) for n in shelf.names())
    except NotADirectoryError:
        return True


def _make(source: Source, shelf: Shelf, model: Model, shard_size: int, multiple: int, local: bool) -> None:
    if model.precision != "fp32":
        raise UsageError(f"parts are described in fp32, not in {model.precision}")
    shards = source.shards(shard_size, multiple)
    try:
        if model.checkpoint is not None:  # parts are complete in themselves, as a gallery is
            held = Path(model.checkpoint).read_bytes()
            shelf.keep(FILE_NAME, lambda file: write_to(file, held))
        checkpoint = None if model.checkpoint is None else FILE_NAME
        codebook = standard_codebook().name if local else None
        made = Manifest(shelf, source.place, source.kind, model.spec, checkpoint, codebook, shards).to_dict()
        shelf.keep_once(NAME, json.dumps({**made, "check": description_checksum(made)}) + "\n")
    except OSError as error:
        raise GalleryError(f"cannot write parts in {shelf}: {error.strerror or error}") from error

"""One shard: its pictures are read, described and written as a part."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator

import numpy as np

from retrieval.describe.extraction import describe_all
from retrieval.describe.model import Model
from retrieval.errors import ImageError
from retrieval.gallery.local.collecting import cores_shared
from retrieval.gallery.local.pictures import large_enough, local_codes
from retrieval.parts.archives import pictures_in_tar
from retrieval.parts.items import Item, broken, local_file, remote_file
from retrieval.parts.manifest import Manifest
from retrieval.parts.part import write_part
from retrieval.parts.places import is_remote, local_uri
from retrieval.parts.tables import pictures_in_table
from retrieval.pictures.imaging import load_picture
from retrieval.ranking.asmk import Codebook, standard_codebook


def pictures_of(manifest: Manifest, shard: int, timeout: float) -> Iterator[Item]:
    """The pictures of a shard, in the order of its inputs. ``timeout``: seconds for a web address, each try."""
    for given in manifest.shards[shard]:
        if manifest.kind == "folder":
            path = os.path.join(manifest.source, given)
            yield local_file(given, local_uri(path), path)
        elif manifest.kind == "tar":
            yield from pictures_in_tar(given)
        elif manifest.kind == "parquet":
            place, first, count = given
            yield from pictures_in_table(place, first, count, timeout)
        elif is_remote(given):
            yield remote_file(given, given, timeout)
        elif os.path.isdir(given):
            yield broken(given, local_uri(given), ImageError("a directory, not a picture"))
        else:
            yield local_file(given, local_uri(given), given)


def describe_shard(manifest: Manifest, shard: int, model: Model, *, timeout: float, workers: int | None = None) -> int:
    """Describe a shard and write its part; returns how many pictures it has. Raises OSError and what a file system raises
    where an archive or a table cannot be read to its end, or the part cannot be written."""
    codebook = standard_codebook() if manifest.codebook else None
    items = describe_items(pictures_of(manifest, shard, timeout), model, codebook, workers=workers)
    write_part(manifest, shard, items)
    return len(items)


def describe_items(
    source: Iterable[Item], model: Model, codebook: Codebook | None = None, *, workers: int | None = None
) -> list[Item]:
    """Items with their vector or error, in order; of those with the same content the first alone is described. With a
    ``codebook`` they carry local codes."""
    run = _Shard(model, codebook)
    items: list[Item] = []

    def noted() -> Iterator[Item]:
        for item in source:
            items.append(item)
            yield item

    with cores_shared():
        for result in describe_all(noted(), run.load, model.engine, workers=workers):
            if result.error is not None:
                result.item.fail(result.error)
            elif result.descriptor is not None:
                result.item.vector = result.descriptor
    for item in items:
        if item.twin is not None:
            item.vector, item.error = item.twin.vector, item.twin.error
            item.width, item.height = item.twin.width, item.twin.height
        elif item.error is not None:
            item.codes = None
    return items


class _Shard:
    """Loads the pictures of one shard; of those with the same content, the first alone."""

    def __init__(self, model: Model, codebook: Codebook | None) -> None:
        self.spec, self.codebook = model.spec, codebook
        self._turn = threading.Lock()
        self._first: dict[str, Item] = {}

    def load(self, item: Item) -> np.ndarray | None:
        """In a worker: what the network gets of a picture. Raises ImageError."""
        source = item.read(item)
        with self._turn:
            first = self._first.setdefault(item.digest, item)
        if first is not item:
            item.twin = first
            return None
        rule = self.spec.image
        picture = load_picture(source, size=rule.size, interpolation=rule.interpolation, exif=rule.exif)
        if self.codebook is not None:
            item.codes = local_codes(large_enough(picture.array, self.spec, source), self.codebook).to_bytes()
        item.width, item.height = picture.width, picture.height
        return picture.array

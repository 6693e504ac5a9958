"""Pictures that a program adds under keys of its own: from memory, from files, or as descriptors of another tool.

The order of a commit is that of a synchronisation: vectors are written and forced to the disk, then one catalog transaction
makes them count. So what was added is there when the call returns, all of it or nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Union

import numpy as np
import numpy.typing as npt

from retrieval.describe.extraction import describe_all
from retrieval.errors import ImageError, UsageError
from retrieval.files.digest import content_digest
from retrieval.gallery.given import real_numbers
from retrieval.gallery.local.collecting import Collector
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Catalog, Root

if TYPE_CHECKING:
    from PIL import Image

Picture = Union[str, "os.PathLike[str]", bytes, npt.NDArray[np.uint8], "Image.Image"]
"""A path, the bytes of a picture file, uint8 (H, W, 3) or (H, W), or a PIL image."""


def add_pictures(
    gallery: OpenedGallery,
    keys: Sequence[str],
    images: Sequence[Picture] | None,
    vectors: npt.ArrayLike | None,
    metadata: Sequence[Mapping[str, Any] | None],
) -> list[int]:
    """Add or replace; returns their ids. See :meth:`retrieval.Gallery.add`."""
    _check_keys(keys)
    notes = [_json(key, entry) for key, entry in zip(keys, metadata, strict=True)]
    if vectors is not None:
        found = _checked_vectors(vectors, len(keys), gallery.spec.dim)
        digests = [_digest(b"vector", row.tobytes()) for row in found]
        collector = None
        sizes: list[tuple[int | None, int | None]] = [(None, None)] * len(keys)
    else:
        assert images is not None
        found, digests, sizes, collector = _describe(gallery, keys, images)
    with gallery.writing() as catalog:
        gallery.allow_keys(catalog)
        if collector is not None:
            collector.keep()
        ids = _commit(gallery, catalog, keys, found, digests, sizes, notes)
        if (
            collector is not None and collector.looked
        ):  # counted on: reading the index anew at each call would cost more than it
            with catalog.writing():
                catalog.set_meta("local_contents", catalog.number("local_contents") + collector.looked)
        return ids


def _commit(
    gallery: OpenedGallery,
    catalog: Catalog,
    keys: Sequence[str],
    vectors: np.ndarray,
    digests: list[str],
    sizes: list[tuple[int | None, int | None]],
    notes: list[str | None],
) -> list[int]:
    store, count = gallery.store(catalog), catalog.number("vector_count")
    store.check_sizes(count)
    store.append(count, vectors, digests, "What was added before is safe; free space and add these again.")
    ids = []
    with catalog.writing():
        root = keys_root(catalog)
        known = [catalog.find(root.id, key) for key in keys]
        catalog.add_pending(root.id, (key for key, record in zip(keys, known, strict=True) if record is None))
        for offset, key in enumerate(keys):
            record = catalog.find(root.id, key)
            assert record is not None
            width, height = sizes[offset]
            catalog.set_ok(
                record.id,
                size=-1,
                mtime_ns=-1,
                digest=digests[offset],
                width=width,
                height=height,
                row=count + offset,
            )
            catalog.set_metadata(record.id, notes[offset])
            ids.append(record.id)
        catalog.set_meta("vector_count", count + len(keys))
        catalog.bump_version()
        gallery.describe_roots(catalog)
    gallery.refresh_index(catalog, eagerly=False)
    return ids


def keys_root(catalog: Catalog) -> Root:
    """The root of pictures under keys; made where there is none."""
    found = next((root for root in catalog.roots() if root.kind == "keys"), None)
    return found or catalog.add_root("", "keys")


def _describe(
    gallery: OpenedGallery, keys: Sequence[str], images: Sequence[Picture]
) -> tuple[np.ndarray, list[str], list[tuple[int | None, int | None]], Collector | None]:
    from retrieval.pictures import imaging
    from retrieval.pictures.content import read_content

    rule = gallery.spec.image
    collector = None if gallery.local is None else Collector(gallery.local, gallery.spec)
    digests = [""] * len(keys)
    sizes: list[tuple[int | None, int | None]] = [(None, None)] * len(keys)

    def load(i: int) -> np.ndarray:
        source = images[i]
        if isinstance(source, str | os.PathLike):
            source, digests[i] = read_content(source)
        elif isinstance(source, bytes):
            digests[i] = _digest(b"", source)
        if isinstance(source, str | bytes):
            picture = imaging.load_picture(source, size=rule.size, interpolation=rule.interpolation, exif=rule.exif)
        else:
            picture = imaging.picture_from_array(
                source, size=rule.size, interpolation=rule.interpolation, exif=rule.exif
            )
            pixels = np.asarray(source)
            kind = f"{pixels.shape}{imaging.meaning_of(source)}"
            digests[i] = _digest(kind.encode(), np.ascontiguousarray(pixels).tobytes())
        sizes[i] = picture.width, picture.height
        if collector is not None and collector.claim(digests[i]):
            collector.look(digests[i], picture.array, source)
        return picture.array

    vectors = np.empty((len(keys), gallery.spec.dim), np.float32)
    with collector or nullcontext():
        for result in describe_all(range(len(keys)), load, gallery.model.engine):
            if result.error is not None:
                raise ImageError(f"{keys[result.item]}: {result.error}", "Nothing was added.") from result.error
            assert result.descriptor is not None
            vectors[result.item] = result.descriptor
    return vectors, digests, sizes, collector


def _digest(kind: bytes, data: bytes) -> str:
    digest = content_digest()
    digest.update(kind)
    digest.update(data)
    return digest.hexdigest()


def _checked_vectors(vectors: npt.ArrayLike, count: int, dim: int) -> np.ndarray:
    """Unit vectors, float32 (N, D), of descriptors as they were handed over."""
    found = real_numbers(vectors, np.float64, "descriptors are numbers, one row for each key")
    if found.shape != (count, dim):
        raise UsageError(f"descriptors of shape ({count}, {dim}) are needed, not {found.shape}")
    lengths = np.linalg.norm(found, axis=1)
    if not (np.isfinite(found).all() and (lengths > 0).all()):
        raise UsageError("a descriptor is zero or not finite")
    result: np.ndarray = (found / lengths[:, None]).astype(np.float32)
    return result


def _check_keys(keys: Sequence[str]) -> None:
    for key in keys:
        if not isinstance(key, str) or not key or "\0" in key:
            raise UsageError(f"a key is a text that is not empty, not {key!r}")
        try:
            key.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(f"the key {key!r} is not valid Unicode") from None
    if len(set(keys)) != len(keys):
        twice = next(key for key in keys if list(keys).count(key) > 1)
        raise UsageError(f"the key {twice!r} is given twice")


def _json(key: str, metadata: Mapping[str, Any] | None) -> str | None:
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping) or not all(isinstance(name, str) for name in metadata):
        raise UsageError(f"the metadata of {key!r} must be a dictionary with names as keys")
    try:
        return json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"the metadata of {key!r} cannot be kept as JSON ({error})") from None

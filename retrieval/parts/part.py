"""A part: one shard described, a Parquet file that is there whole or not at all.

Columns: ``key``, ``uri``, ``hash``, ``size``, ``mtime_ns``, ``width``, ``height``, ``error``, ``vector`` (a list of float32),
``codes`` (local codes as bytes, once for each content). Its metadata say ``fingerprint``, ``model``, ``count``, ``errors``,
``codebook`` and ``inputs``, a hash of the shard's inputs; pages carry checksums.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from retrieval.errors import GalleryDamaged, UsageError
from retrieval.files.whole import sync_folder, whole_file
from retrieval.messages import first_line
from retrieval.parts.items import Item
from retrieval.parts.manifest import Manifest

_KEY = b"retrieval"
_NUMBERS = ("size", "mtime_ns", "width", "height")


class Row(NamedTuple):
    """What a part says of a picture. ``vector``: which row of :attr:`Part.vectors`, None where there is an ``error``."""

    key: str
    uri: str
    hash: str | None
    size: int
    mtime_ns: int
    width: int | None
    height: int | None
    error: str | None
    codes: bytes | None
    vector: int | None


@dataclass(frozen=True)
class Part:
    """``vectors`` float32 (V, D)."""

    rows: list[Row]
    vectors: npt.NDArray[np.float32]


def check_pyarrow() -> None:
    """Raises UsageError where pyarrow is missing."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UsageError(
            "parts are Parquet files, which take pyarrow", "Run: pip install 'retrieval[parts]'."
        ) from None


def write_part(manifest: Manifest, shard: int, items: Sequence[Item]) -> None:
    """Raises OSError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    dim = manifest.spec.dim
    about = {
        "fingerprint": manifest.fingerprint,
        "model": manifest.spec.name,
        "count": len(items),
        "errors": sum(item.error is not None for item in items),
        "codebook": manifest.codebook,
        "inputs": manifest.inputs_hash(shard),
    }
    whole = np.zeros((len(items), dim), np.float32)
    for i, item in enumerate(items):
        if item.vector is not None:
            whole[i] = item.vector
    missing = pa.array([item.vector is None for item in items], pa.bool_())
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(whole.ravel()), dim, mask=missing)
    columns = {
        "key": pa.array([_text(item.key) for item in items], pa.string()),
        "uri": pa.array([_text(item.uri) for item in items], pa.string()),
        "hash": pa.array([item.digest or None for item in items], pa.string()),
        **{name: pa.array([getattr(item, name) for item in items], pa.int64()) for name in _NUMBERS},
        "error": pa.array([item.error for item in items], pa.string()),
        "vector": vectors,
        "codes": pa.array([item.codes for item in items], pa.binary()),
    }
    table = pa.table(columns).replace_schema_metadata({_KEY: json.dumps(about).encode()})
    with whole_file(manifest.part(shard)) as file:
        # A dictionary of floats, and their compression, take longer to read and save nothing.
        plain = [name for name in table.column_names if name != "vector"]
        packed = {name: "NONE" if name == "vector" else "SNAPPY" for name in table.column_names}
        pq.write_table(table, file, write_page_checksum=True, use_dictionary=plain, compression=packed)
    sync_folder(manifest.folder)


def _text(name: str) -> str:
    """A name as Parquet can hold it. One that is not UTF-8 is told by its ``uri``, which has every byte."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def part_counts(manifest: Manifest, shard: int) -> tuple[int, int] | None:
    """(pictures, errors) of a shard that is done, from its part's metadata alone; None where there is no part. Raises
    GalleryDamaged for a part that is of something else, or no whole one."""
    import pyarrow.parquet as pq

    path = manifest.part(shard)
    try:
        metadata = pq.read_metadata(path)
        about = _about(manifest, shard, metadata.metadata or {})
        if metadata.num_rows != about["count"]:
            raise ValueError(f"{metadata.num_rows} of {about['count']} rows are there")
        return int(about["count"]), int(about["errors"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def read_part(manifest: Manifest, shard: int) -> Part | None:
    """A shard's part, None where there is none. Raises GalleryDamaged."""
    import pyarrow.parquet as pq

    path = manifest.part(shard)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            table = file.read(use_threads=False)  # a part is small: threads cost more than they gain
        about = _about(manifest, shard, table.schema.metadata or {})
        if table.num_rows != about["count"]:
            raise ValueError(f"{table.num_rows} of {about['count']} rows are there")
        column = table.column("vector").combine_chunks()
        flat = np.asarray(column.flatten(), np.float32).reshape(-1, manifest.spec.dim)
        if not np.isfinite(flat).all():
            raise ValueError("a vector in it is not finite")
        there = np.asarray(column.is_valid())
        places = [int(at) if found else None for at, found in zip(np.cumsum(there) - 1, there, strict=True)]
        names = ("key", "uri", "hash", "size", "mtime_ns", "width", "height", "error", "codes")
        values = [table.column(name).to_pylist() for name in names]
        rows = [Row._make(entry) for entry in zip(*values, places, strict=True)]
        if any((row.vector is None) != (row.error is not None) for row in rows):
            raise ValueError("a picture in it has neither a vector nor an error")
        return Part(rows, flat)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error


def _about(manifest: Manifest, shard: int, metadata: dict[bytes, bytes]) -> dict[str, Any]:
    about: dict[str, Any] = json.loads(metadata.get(_KEY, b"{}"))
    if about.get("fingerprint") != manifest.fingerprint:
        raise ValueError("it was made with another model")
    if about.get("inputs") != manifest.inputs_hash(shard):
        raise ValueError("it is of another shard")
    return about


def _damaged(path: Path, error: Exception) -> GalleryDamaged:
    return GalleryDamaged(
        f"{path} is no part of these ({first_line(error)})", "Run the same `retrieve describe` again: it makes it anew."
    )

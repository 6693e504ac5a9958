"""A part: one shard described, a Parquet file that is there whole or not at all.

Columns: ``key``, ``uri``, ``hash``, ``size``, ``mtime_ns``, ``width``, ``height``, ``error``, ``vector`` (a list of float32),
``codes`` (local codes as bytes, once for each content). Its metadata say ``fingerprint``, ``model``, ``count``, ``errors``,
``codebook`` and ``inputs``, a hash of the shard's inputs; pages carry checksums.
"""

from __future__ import annotations

import json
import math
import operator
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from retrieval.errors import GalleryDamaged, UsageError
from retrieval.messages import first_line
from retrieval.parts.items import Item
from retrieval.parts.manifest import Manifest
from retrieval.parts.places import local_path
from retrieval.ranking.asmk import LocalCodes, standard_codebook
from retrieval.system.collector import at_rest

_KEY = b"retrieval"
_HEX = re.compile(r"[0-9a-f]*")
_HASH_LENGTHS = frozenset(range(16, 129, 2))
_LONGEST = 1.01  # no number of a vector of unit length is greater
_TROUBLE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    NotImplementedError,
    OverflowError,
    RecursionError,
)
_NUMBERS = ("size", "mtime_ns", "width", "height")
_PLAIN = ("key", "uri", "hash", *_NUMBERS, "error", "codes")


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

    @property
    def file(self) -> str | None:
        """The path of a local file; None for what lies elsewhere, or in an archive, or has no plain path."""
        return local_path(self.uri)


@dataclass(frozen=True)
class Part:
    """``vectors`` float32 (V, D); ``files``: the path of each row's local file, see :attr:`Row.file`."""

    rows: list[Row]
    vectors: npt.NDArray[np.float32]
    files: list[str | None]


def check_pyarrow() -> None:
    """Raises UsageError where pyarrow is missing."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UsageError(
            "parts are Parquet files, which take pyarrow", "Run: pip install 'retrieval[parts]'."
        ) from None


def write_part(manifest: Manifest, shard: int, items: Sequence[Item]) -> None:
    """Raises OSError, GalleryError of a store."""
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
    # A dictionary of floats, and their compression, take longer to read and save nothing.
    plain = [name for name in table.column_names if name != "vector"]
    packed = {name: "NONE" if name == "vector" else "SNAPPY" for name in table.column_names}
    manifest.shelf.keep(
        manifest.name_of_part(shard),
        lambda file: pq.write_table(table, file, write_page_checksum=True, use_dictionary=plain, compression=packed),
    )


def _text(name: str) -> str:
    """A name as Parquet can hold it. One that is not UTF-8 is told by its ``uri``, which has every byte."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def part_counts(manifest: Manifest, shard: int) -> tuple[int, int] | None:
    """(pictures, errors) of a shard that is done; None where there is no part. All of its pages are looked at, so what is called
    done can be taken in. Raises GalleryDamaged for a part that is of something else, or no whole one."""
    found = _table(manifest, shard)
    return None if found is None else (int(found[1]["count"]), int(found[1]["errors"]))


def read_part(manifest: Manifest, shard: int) -> Part | None:
    """A shard's part, None where there is none. Raises GalleryDamaged."""
    found = _table(manifest, shard)
    if found is None:
        return None
    table, _, vectors = found
    with _damage(manifest, shard), at_rest():
        vector = table.column("vector").combine_chunks()
        places: Sequence[int | None] = range(len(vectors))
        if vector.null_count:
            there = np.asarray(vector.is_valid())
            places = [int(at) if found else None for at, found in zip(np.cumsum(there) - 1, there, strict=True)]
        values = [table.column(name).to_pylist() for name in _PLAIN]
        rows = [Row._make(entry) for entry in zip(*values, places, strict=True)]
        files = [row.file for row in rows]
        if not _surely_sound(table, *values[:3]):
            for row in rows:
                _check_row(row)
        _check_codes(manifest, rows)
        _check_places(manifest, rows, files)
        return Part(rows, vectors, files)


def _table(manifest: Manifest, shard: int) -> tuple[Any, dict[str, Any], npt.NDArray[np.float32]] | None:
    """A part as Arrow has it, what it says of itself, and its vectors (V, D). Raises GalleryDamaged."""
    import pyarrow.parquet as pq

    with _damage(manifest, shard):
        source = manifest.shelf.source(manifest.name_of_part(shard))
        if source is None:
            return None
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            table = file.read(use_threads=False)  # a part is small: threads cost more than they gain
        about = _about(manifest, shard, table.schema.metadata or {})
        if table.num_rows != int(about["count"]) or int(about["errors"]) != table.column("vector").null_count:
            raise ValueError(f"{table.num_rows} of {about['count']} rows are there")
        vectors = _floats(table.column("vector").combine_chunks().flatten()).reshape(-1, manifest.spec.dim)
        if not vectors.size:
            return table, about, vectors
        least, most = float(vectors.min()), float(vectors.max())  # NaN where there is one
        if not (math.isfinite(least) and math.isfinite(most)):
            raise ValueError("a vector in it is not finite")
        if max(-least, most) > _LONGEST:
            raise ValueError("a vector in it is longer than 1")
        return table, about, vectors


def _floats(values: Any) -> npt.NDArray[np.float32]:
    """Arrow's numbers as an array, in place where they are float32 and none is missing: pyarrow's own way looks for pandas."""
    import pyarrow as pa

    if values.type != pa.float32() or values.null_count or not len(values):
        return np.asarray(values, np.float32)
    return np.frombuffer(values.buffers()[1], np.float32, len(values), 4 * values.offset)


@contextmanager
def _damage(manifest: Manifest, shard: int) -> Iterator[None]:
    """Whatever a file that is no part makes the libraries raise, in one line."""
    try:
        yield
    except _TROUBLE as error:
        raise GalleryDamaged(
            f"{manifest.shelf}/{manifest.name_of_part(shard)} is no part of these ({first_line(error)})",
            "Delete it and run the same `retrieve describe` again.",
        ) from error


def _surely_sound(table: Any, keys: list[Any], uris: list[Any], hashes: list[Any]) -> bool:
    """Whether the columns as wholes show that all rows are described, and as :func:`_check_row` wants them."""
    import pyarrow as pa

    sizes = [table.column(name) for name in ("size", "mtime_ns")]
    lacking = [table.column(name).null_count for name in ("key", "uri", "hash", "vector", "size", "mtime_ns")]
    return (
        not any(lacking)
        and table.column("error").null_count == table.num_rows
        and all(column.type == pa.int64() for column in sizes)
        and all(pa.types.is_string(table.column(name).type) for name in ("key", "uri", "hash"))
        and all(keys)
        and all(uris)
        and "\0" not in "".join(keys)
        and "\0" not in "".join(uris)
        and set(map(len, hashes)) <= _HASH_LENGTHS
        and _HEX.fullmatch("".join(hashes)) is not None
    )


def _check_row(row: Row) -> None:
    """Raises ValueError, TypeError for what no `describe` writes."""
    for text in (row.key, row.uri):
        if not text or "\0" in text:
            raise ValueError("a picture in it has no name")
    if (row.vector is None) != (row.error is not None):
        raise ValueError("a picture in it has neither a vector nor an error")
    if row.vector is not None and not (row.hash and len(row.hash) in _HASH_LENGTHS and _HEX.fullmatch(row.hash)):
        raise ValueError(f"{row.key} has no content hash")
    if not all(-(1 << 63) <= operator.index(number) < 1 << 63 for number in (row.size, row.mtime_ns)):
        raise ValueError(f"{row.key} has no size and time")


def _check_codes(manifest: Manifest, rows: Sequence[Row]) -> None:
    """The same for local codes."""
    coded = [(row.key, row.codes) for row in rows if row.codes is not None]
    if not coded:
        return
    known = len(standard_codebook()) if manifest.codebook == standard_codebook().name else 1 << 16
    for key, codes in coded:
        words = LocalCodes.from_bytes(codes).words
        if len(words) and (int(words.max()) >= known or (np.diff(words.astype(np.int32)) <= 0).any()):
            raise ValueError(f"{key} has codes of no codebook")


def _check_places(manifest: Manifest, rows: Sequence[Row], files: Sequence[str | None]) -> None:
    """Raises ValueError for a file that does not lie in the folder that was described."""
    if manifest.kind == "folder":
        inside = os.path.join(manifest.source, "")
        for row, file in zip(rows, files, strict=True):
            if not (file or "").startswith(inside):
                raise ValueError(f"{row.key} does not lie in the folder that was described")


def _about(manifest: Manifest, shard: int, metadata: dict[bytes, bytes]) -> dict[str, Any]:
    about = json.loads(metadata.get(_KEY, b"{}"))
    if not isinstance(about, dict):
        raise TypeError("it says nothing of itself")
    if about.get("fingerprint") != manifest.fingerprint:
        raise ValueError("it was made with another model")
    if about.get("inputs") != manifest.inputs_hash(shard):
        raise ValueError("it is of another shard")
    return about

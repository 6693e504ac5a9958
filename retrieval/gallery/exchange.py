"""Descriptors with their names, out of a gallery and into one: for other tools, other machines, other indexes.

Two forms. ``NAME.npy`` holds float32 (N, D), and ``NAME.names.jsonl`` beside it a line of JSON a row, in the same order:
``key`` (path or key), ``hash``, ``width``, ``height``, ``metadata``; its first line says ``fingerprint``, ``model`` and
``count``. ``NAME.parquet`` holds the same as columns, with ``vector`` as a list of float32 and the first line as the file's
metadata; it takes pyarrow. What another tool wrote may have ``key`` alone, or a name a line in ``NAME.names.txt``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from retrieval.errors import GalleryError, GalleryMismatch, UsageError
from retrieval.files.lines import lines_of
from retrieval.files.paths import show_path
from retrieval.files.whole import whole_file
from retrieval.gallery.adding import add_pictures
from retrieval.gallery.given import one_name
from retrieval.gallery.opened import OpenedGallery
from retrieval.gallery.store.catalog import Record
from retrieval.messages import first_line
from retrieval.pictures.replacing import spare_pictures

_ROWS = 8192
_COLUMNS = ("key", "hash", "width", "height", "metadata")


def export_gallery(gallery: OpenedGallery, path: str | os.PathLike[str]) -> int:
    """Write all descriptors and names to ``path`` (.npy or .parquet), whole or not at all. Raises UsageError, GalleryError."""
    path = Path(one_name("the file", path))
    _check_form(path)
    spare_pictures(path)
    with gallery.catalog.reading():
        records = [record for record in gallery.catalog.records() if record.row is not None]
        name = gallery.namer()
        try:
            if path.suffix == ".parquet":
                _write_parquet(gallery, records, [show_path(name(r)) for r in records], path)
            else:
                _write_npy(gallery, records, [show_path(name(r)) for r in records], path)
        except OSError as error:
            raise GalleryError(f"could not write {path}: {error.strerror or error}") from error
    return len(records)


def import_descriptors(gallery: OpenedGallery, path: str | os.PathLike[str]) -> int:
    """Add what ``path`` (.npy with its names beside it, or .parquet) holds under its names as keys; all of it or nothing.

    Raises UsageError for files that do not belong together, GalleryMismatch for descriptors of another model.
    """
    path = Path(one_name("the file", path))
    _check_form(path)
    try:
        about, rows, vectors = _read_parquet(path) if path.suffix == ".parquet" else _read_npy(path)
    except FileNotFoundError as error:
        raise UsageError(f"there is no file '{error.filename}'") from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as descriptors with names ({first_line(error)})") from error
    fingerprint = about.get("fingerprint")
    if fingerprint not in (None, gallery.spec.fingerprint):
        raise GalleryMismatch(
            f"{path} holds descriptors of {about.get('model', 'another model')} (fingerprint {fingerprint}), "
            f"the gallery {gallery.folder} those of {gallery.spec.name} ({gallery.spec.fingerprint})"
        )
    if vectors.ndim != 2 or len(rows) != len(vectors):
        raise UsageError(f"{path} holds descriptors of shape {vectors.shape} and {len(rows)} names")
    keys = [str(row["key"]) for row in rows]
    if keys:
        add_pictures(gallery, keys, None, vectors, [row.get("metadata") for row in rows])
    return len(keys)


def _check_form(path: Path) -> None:
    if path.suffix not in (".npy", ".parquet"):
        raise UsageError(
            f"descriptors are exchanged as .npy or .parquet, not as {path.name!r}",
            "NAME.npy is for numpy.load, a line of JSON a row lies beside it; NAME.parquet holds both, for pandas and others.",
        )
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise UsageError(
                "Parquet files take pyarrow", "Run: pip install 'retrieval[parquet]', or use .npy."
            ) from None


def _about(gallery: OpenedGallery, count: int) -> dict[str, Any]:
    return {"fingerprint": gallery.spec.fingerprint, "model": gallery.spec.name, "count": count}


def _row(record: Record, key: str) -> dict[str, Any]:
    metadata = None if record.metadata is None else json.loads(record.metadata)
    return dict(zip(_COLUMNS, (key, record.hash, record.width, record.height, metadata), strict=True))


def _blocks(gallery: OpenedGallery, records: list[Record]) -> Iterator[np.ndarray]:
    for begin in range(0, len(records), _ROWS):
        yield gallery.vectors_of(records[begin : begin + _ROWS]).astype("<f4")


def names_beside(path: Path) -> Path:
    """Where the names of a ``.npy`` stand."""
    return path.with_suffix(".names.jsonl")


def _write_npy(gallery: OpenedGallery, records: list[Record], keys: list[str], path: Path) -> None:
    with whole_file(names_beside(path)) as names, whole_file(path) as file:
        lines = [_about(gallery, len(records)), *map(_row, records, keys)]
        names.write_text("".join(json.dumps(line) + "\n" for line in lines), "ascii")
        with open(file, "wb") as stream:
            header = {"descr": "<f4", "fortran_order": False, "shape": (len(records), gallery.spec.dim)}
            np.lib.format.write_array_header_1_0(stream, header)
            for block in _blocks(gallery, records):
                stream.write(block.tobytes())


def _read_npy(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], np.ndarray]:
    vectors = np.load(path, allow_pickle=False, mmap_mode="r")
    if not isinstance(vectors, np.ndarray):  # what numpy.savez wrote, under another name
        vectors.close()
        raise ValueError("it holds several arrays")
    plain = path.with_suffix(".names.txt")
    if plain.is_file() and not names_beside(path).is_file():
        return {}, [{"key": line} for line in lines_of(plain.read_text("utf-8"))], vectors
    lines = [json.loads(line) for line in lines_of(names_beside(path).read_text("utf-8"))]
    if not all(isinstance(line, dict) for line in lines):
        raise ValueError("a line beside it is no JSON object")
    about = lines.pop(0) if lines and "key" not in lines[0] else {}
    if about.get("count", len(lines)) != len(lines):
        raise ValueError(f"{about['count']} names were written and {len(lines)} are there")
    return about, lines, vectors


def _write_parquet(gallery: OpenedGallery, records: list[Record], keys: list[str], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = {
        "key": pa.string(),
        "hash": pa.string(),
        "width": pa.int64(),
        "height": pa.int64(),
        "metadata": pa.string(),
    }
    vector = pa.list_(pa.float32(), gallery.spec.dim)
    about = {b"retrieval": json.dumps(_about(gallery, len(records))).encode()}
    schema = pa.schema([*texts.items(), ("vector", vector)], metadata=about)
    with whole_file(path) as file, pq.ParquetWriter(file, schema) as writer:
        begin = 0
        for block in _blocks(gallery, records):
            part = [_row(r, key) for r, key in zip(records[begin : begin + len(block)], keys[begin:], strict=False)]
            for row in part:
                row["metadata"] = None if row["metadata"] is None else json.dumps(row["metadata"])
            columns = [pa.array([row[name] for row in part], kind) for name, kind in texts.items()]
            flat = pa.array(block.ravel(), pa.float32())
            writer.write_table(
                pa.Table.from_arrays([*columns, pa.FixedSizeListArray.from_arrays(flat, type=vector)], schema=schema)
            )
            begin += len(block)


def _read_parquet(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]], np.ndarray]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    about = json.loads((table.schema.metadata or {}).get(b"retrieval", b"{}"))
    found = table.column("vector").combine_chunks() if table.num_rows else None
    vectors = np.zeros((0, 0), np.float32)
    if found is not None:
        vectors = np.asarray(found.flatten(), np.float32).reshape(table.num_rows, -1)
    names = [name for name in _COLUMNS if name in table.column_names]
    rows = table.select(names).to_pylist()
    for row in rows:
        row["metadata"] = None if row.get("metadata") is None else json.loads(row["metadata"])
    return about, rows, vectors

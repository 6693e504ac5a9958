"""Pictures in Parquet files: a column of bytes, or of paths and addresses."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from retrieval.errors import ImageError, UsageError
from retrieval.parts.items import Item, broken, in_memory, local_file, remote_file
from retrieval.parts.places import is_remote, local_uri, open_binary

_BYTES = ("bytes", "image", "image_bytes", "content", "data", "jpg", "jpeg", "png", "webp")
_ADDRESSES = ("url", "URL", "uri", "image_url", "path", "file_name", "image")
_NAMES = ("key", "__key__", "id", "path", "file_name")
_ROWS = 64


def picture_columns(schema: Any, place: str) -> tuple[str, bool, str | None]:
    """(column of pictures, whether it holds bytes, column of names). The first that is known counts; ``image`` may be bytes, or
    a struct with ``bytes`` as Hugging Face's data sets have it. Raises UsageError."""
    import pyarrow as pa

    kinds = {field.name: field.type for field in schema}
    names = next((n for n in _NAMES if n in kinds and (_is_text(kinds[n]) or pa.types.is_integer(kinds[n]))), None)
    for name in _BYTES:
        kind = kinds.get(name)
        if kind is None:
            continue
        struct = pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
        if struct or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            return name, True, names
    for name in _ADDRESSES:
        if name in kinds and _is_text(kinds[name]):
            return name, False, names
    raise UsageError(
        f"{place} has no column of pictures among {', '.join(kinds) or 'none'}",
        f"Known are bytes ({', '.join(_BYTES)}) and addresses ({', '.join(_ADDRESSES)}).",
    )


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def pictures_in_table(place: str, first: int, count: int, timeout: float) -> Iterator[Item]:
    """Rows ``first`` to ``first + count - 1``. Raises UsageError, OSError, and pyarrow's errors for a damaged file."""
    import pyarrow.parquet as pq

    base = place if is_remote(place) else local_uri(place)
    folder = "" if is_remote(place) else os.path.dirname(place)
    with open_binary(place) as file:
        table = pq.ParquetFile(file)
        column, as_bytes, names = picture_columns(table.schema_arrow, place)
        groups, at = [], 0
        skipped = None
        for group in range(table.metadata.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if at < first + count and at + rows > first:
                groups.append(group)
                skipped = at if skipped is None else skipped
            at += rows
        number = skipped or 0
        columns = list(dict.fromkeys([column, *([names] if names else [])]))
        for batch in table.iter_batches(_ROWS, row_groups=groups, columns=columns):
            pictures = batch.column(column).to_pylist()
            called = batch.column(names).to_pylist() if names else [None] * len(pictures)
            for value, name in zip(pictures, called, strict=True):
                if first <= number < first + count:
                    own = str(number if name in (None, "") else name)
                    yield _item(value, as_bytes, f"{place}/{own}", f"{base}#{number}", folder, timeout)
                number += 1


def _item(value: Any, as_bytes: bool, key: str, uri: str, folder: str, timeout: float) -> Item:
    if as_bytes and isinstance(value, dict):
        value = value.get("bytes")
    if not value:
        return broken(key, uri, ImageError("there is no picture in its row"))
    if as_bytes:
        return in_memory(key, uri, bytes(value))
    if is_remote(value):
        return remote_file(value, value, timeout)
    if not folder and not os.path.isabs(value):
        return broken(key, uri, ImageError("it is named by a path, and the table is not on this machine"))
    path = os.path.normpath(os.path.join(folder, value))
    return local_file(path, local_uri(path), path)

"""safetensors files, each read through one opening: a file that is replaced meanwhile is the old one or the new, never both."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from retrieval.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

_LONGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""


def read_metadata(path: Path) -> dict[str, str]:
    """What the file says of itself beside its tensors, read without torch. Raises ModelError for a foreign or damaged file."""
    return _read(path, _metadata)


def read_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors (on the CPU) of one and the same file. Raises ModelError for a foreign or damaged file.

    safetensors' own reader opens a path twice, for the header and for the data; during training the file may be replaced
    between the two. The price is the file's bytes held twice while it is read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    metadata, data = _read(path, lambda file: (_metadata(file), _from_start(file)))
    try:
        return metadata, load(data)
    except (SafetensorError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error


def _read(path: Path, read: Callable[[BinaryIO], T]) -> T:
    try:
        with open(path, "rb") as file:
            return read(file)
    except (OSError, struct.error, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not a readable safetensors file ({error})") from error


def _from_start(file: BinaryIO) -> bytes:
    file.seek(0)
    return file.read()


def _metadata(file: BinaryIO) -> dict[str, str]:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(_LONGEST_HEADER, os.fstat(file.fileno()).st_size):
        raise ValueError("header longer than the file")
    header: Any = json.loads(file.read(length))
    metadata = header.get("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise ValueError("its header is not one")
    return metadata

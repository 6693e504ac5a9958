"""Points of an image and their descriptors as bytes, and back: one form for every kind of local features."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.errors import UsageError

_HEADER = struct.Struct("<4sIII")
_PLACE = 8  # bytes: x and y


def packed(
    magic: bytes, points: npt.NDArray[np.float32], descriptors: npt.NDArray[Any], size: tuple[int, int]
) -> bytes:
    """16 bytes for the header, then all points (N, 2), then all descriptors (N, D), of one byte a number. ``magic``: four bytes
    that name the kind."""
    return _HEADER.pack(magic, len(points), *size) + points.astype("<f4").tobytes() + descriptors.tobytes()


def unpacked(
    magic: bytes, data: bytes, width: int, dtype: Any, what: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[Any], tuple[int, int]]:
    """Points, descriptors (N, ``width``) and size that :func:`packed` made these bytes of. Raises UsageError for any other bytes:
    they are not ``what``."""
    kind, count, across, down = _HEADER.unpack_from(data) if len(data) >= _HEADER.size else (b"", 0, 0, 0)
    if kind != magic or len(data) != _HEADER.size + (_PLACE + width) * count:
        raise UsageError(f"these bytes are not packed {what}", "Extract the features again")
    points = np.frombuffer(data, "<f4", 2 * count, _HEADER.size).reshape(count, 2)
    descriptors = np.frombuffer(data, dtype, width * count, _HEADER.size + _PLACE * count).reshape(count, width)
    return points.astype(np.float32), descriptors.copy(), (across, down)

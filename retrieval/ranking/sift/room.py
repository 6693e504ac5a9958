"""Memory that a thread uses again and again: fresh memory would cost as much as what is computed in it."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

_MOST = 1 << 24  # numbers (64 MB in float32): what is larger is not kept

_kept = threading.local()


def room(name: str, shape: tuple[int, ...], dtype: Any = np.float32) -> npt.NDArray[Any]:
    """An array of this ``shape`` and ``dtype``; its numbers are finite, and anybody's who asked for ``name`` in this thread
    before."""
    size = int(np.prod(shape))
    if size > _MOST:
        return np.zeros(shape, dtype)
    values: npt.NDArray[Any] | None = getattr(_kept, name, None)
    if values is None or values.size < size:
        values = np.zeros(size, dtype)
        setattr(_kept, name, values)
    return values[:size].reshape(shape)

"""Memory that a thread uses again and again: fresh memory would cost as much as what is computed in it."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

_MOST = 1 << 24  # numbers (64 MB): what is larger is not kept

_kept = threading.local()


def room(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Float32 of this ``shape``; its numbers are finite, and anybody's who asked for ``name`` in this thread before."""
    size = int(np.prod(shape))
    if size > _MOST:
        return np.zeros(shape, np.float32)
    values: npt.NDArray[np.float32] | None = getattr(_kept, name, None)
    if values is None or values.size < size:
        values = np.zeros(size, np.float32)
        setattr(_kept, name, values)
    return values[:size].reshape(shape)

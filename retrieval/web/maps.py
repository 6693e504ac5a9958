"""A map of a gallery: a sample of its pictures, laid out once for each state of the gallery so that neighbours look alike."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.web.layout import Places, laid_out, nearest
from retrieval.web.offers import Shown

_LOOKED_AT = 10  # neighbours that are compared


class MapKeeper:
    """The last map of one gallery. Several threads may ask; one lays out, the others wait for it."""

    def __init__(self, served: Shown) -> None:
        self.served = served
        self._turn = threading.Lock()
        self._last: tuple[object, dict[str, Any]] | None = None

    def ask(self, count: int) -> dict[str, Any]:
        """So many pictures, evenly chosen, each with x and y in [-1, 1]; ``neighbours``, see :func:`kept_neighbours`."""
        with self._turn:
            state = (self.served.state(), count)
            if self._last is None or self._last[0] != state:
                self._last = (state, self._made(count))
            return self._last[1]

    def _made(self, count: int) -> dict[str, Any]:
        pictures, vectors, total = self.served.sampled(count)
        lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        places = laid_out((vectors / lengths).astype(np.float32))
        placed = [{**one, "x": x, "y": y} for one, (x, y) in zip(pictures, places.round(4).tolist(), strict=True)]
        return {"pictures": placed, "total": total, "neighbours": kept_neighbours(vectors / lengths, places)}


def kept_neighbours(vectors: npt.NDArray[np.float32], places: Places) -> float:
    """Which part of each point's ten nearest by its vector are among its ten nearest on the map, on average, 0 to 1."""
    k = min(_LOOKED_AT, len(vectors) - 1)
    if k < 1:
        return 1.0
    before, after = nearest(vectors.astype(np.float32), k)[0], nearest(places.astype(np.float32), k)[0]
    shared = [len(np.intersect1d(one, two)) for one, two in zip(before, after, strict=True)]
    return float(np.mean(shared) / k)

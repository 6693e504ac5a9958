"""A map of a gallery: a sample of its descriptors on their two main directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.web.offers import Shown, require


def gallery_map(served: Shown, count: int) -> dict[str, Any]:
    """So many pictures, evenly chosen, each with x and y in [-1, 1]."""
    require(served, "map")
    pictures, vectors, total = served.sampled(count)
    places, shown = project(vectors)
    placed = [{**one, "x": x, "y": y} for one, (x, y) in zip(pictures, places.round(4).tolist(), strict=True)]
    return {"pictures": placed, "total": total, "shown": shown}


def project(vectors: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float64], float]:
    """Vectors (N, D) on their two main directions (PCA), float64 (N, 2) in [-1, 1]; and what part of the variance that is. The
    sign of a direction is such that its greatest entry is positive, so that a map stays as it is."""
    if len(vectors) < 3:
        return np.zeros((len(vectors), 2)), 1.0
    centred = vectors.astype(np.float64) - vectors.mean(axis=0)
    covariance = centred.T @ centred
    values, directions = np.linalg.eigh(covariance)
    main = directions[:, [-1, -2]]
    main *= np.sign(main[np.abs(main).argmax(axis=0), [0, 1]])
    places = centred @ main
    total = float(values.sum())
    share = float(values[-2:].sum() / total) if total > 0 else 1.0
    return places / max(float(np.abs(places).max()), 1e-12), share

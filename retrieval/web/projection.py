"""A map of a gallery: a sample of its descriptors on their two main directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from retrieval.web.served import Served


def gallery_map(served: Served, count: int) -> dict[str, Any]:
    """So many pictures, evenly chosen by id, each with x and y in [-1, 1]."""
    catalog = served.gallery.catalog
    with catalog.reading():
        ids = catalog.searchable()[0]
        chosen = (
            ids[np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).round().astype(int))] if len(ids) else ids
        )
        found = catalog.by_ids(chosen.tolist())
        records = [found[i] for i in chosen.tolist() if i in found and found[i].row is not None]
        vectors = served.gallery.vectors_of(records) if records else np.zeros((0, served.gallery.spec.dim), np.float32)
    places, shown = project(vectors)
    labels = served.labels()
    pictures = [
        {**served.picture(record, labels), "x": x, "y": y}
        for record, (x, y) in zip(records, places.round(4).tolist(), strict=True)
    ]
    return {"pictures": pictures, "total": len(ids), "shown": shown}


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

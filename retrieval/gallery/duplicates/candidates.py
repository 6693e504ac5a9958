"""Which pairs are worth a closer look: near by descriptor, or by outline (``outlines.py``).

Nothing is decided here, so a candidate too many costs a few milliseconds and one too few a copy. What "near" means for
descriptors comes from the gallery: unrelated pictures reach it three times each.
"""

from __future__ import annotations

from typing import Any

from retrieval.ranking.chance import chance_level
from retrieval.ranking.joins import similar_pairs

Pair = tuple[int, int]

NEAREST = 16
LINKS = 3.0  # unrelated pictures that a picture may have among its candidates, in expectation
_FEW = 64  # pictures among which all are candidates, as far as NEAREST goes


def by_descriptor(vectors: Any, others: Any | None, background: Any) -> list[Pair]:
    """Pairs of rows whose descriptors are nearer than unrelated ones, which the ``background`` shows; of ``vectors`` (N, D), or
    with ``others`` (M, D)."""
    level = -1.0 if len(background) < _FEW else chance_level(background, LINKS)
    found = similar_pairs(vectors, others, least=level, k=NEAREST)
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))

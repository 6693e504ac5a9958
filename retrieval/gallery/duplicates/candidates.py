"""Which pairs are worth a closer look: near by descriptor, by outline (``outlines.py``), or by what else knows of shared traits.

Nothing is decided here, so a candidate too many costs a few milliseconds and one too few a copy. What "near" means for
descriptors comes from the gallery: unrelated pictures reach it three times each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from retrieval.gallery.duplicates.items import Item
from retrieval.ranking.chance import chance_level
from retrieval.ranking.joins import similar_pairs

Evidence = Callable[[Item], Iterable[int]]
"""For a picture, the ids of pictures of the gallery that share local evidence with it, itself perhaps among them."""
Pair = tuple[int, int]

NEAREST = 16
LINKS = 3.0  # unrelated pictures that a picture may have among its candidates, in expectation
_FEW = 64  # pictures among which all are candidates, as far as NEAREST goes


def by_descriptor(vectors: Any, others: Any | None) -> list[Pair]:
    """Pairs of rows whose descriptors are nearer than unrelated ones; of ``vectors`` (N, D), or with ``others`` (M, D)."""
    background = vectors if others is None else others
    level = -1.0 if len(background) < _FEW else chance_level(background, LINKS)
    return _pairs(similar_pairs(vectors, others, least=level, k=NEAREST))


def by_evidence(items: Sequence[Item], others: Sequence[Item], evidence: Evidence) -> list[Pair]:
    """Pairs (position in ``items``, position in ``others``) that share local evidence."""
    places = {other.id: place for place, other in enumerate(others) if other.id is not None}
    return [(i, places[j]) for i, item in enumerate(items) for j in evidence(item) if j in places]


def _pairs(found: Any) -> list[Pair]:
    return list(zip(found.first.tolist(), found.second.tolist(), strict=True))

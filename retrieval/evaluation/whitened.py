"""A whitening learned on another gallery or set, for the set that is evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrieval.datasets.load import load_truth
from retrieval.datasets.published.whitening_pairs import whitening_pairs
from retrieval.evaluation.described_set import describe_set, matching_pairs
from retrieval.evaluation.set_cache import cache_folder, open_cache
from retrieval.gallery.address import holds_gallery
from retrieval.gallery.derive import fit_gallery
from retrieval.gallery.gallery import Gallery
from retrieval.messages import Bars, Say
from retrieval.models.whitening import Whitening, fit_pairs
from retrieval.models.whitening_origin import learned_on


def whitening_on(
    source: str, dim: int | None, cache: Gallery, data: str, say: Say, bars: Bars
) -> tuple[Whitening, dict[str, Any]]:
    """A whitening for the vectors of ``cache``: PCA of another gallery's, or learned from the pairs of another set."""
    if holds_gallery(source):
        with Gallery.open(source, warn=say) as other:
            other.require(cache.model)
            learned, origin = fit_gallery(other, dim)
    else:
        sfm = source.startswith("retrieval-SfM-") and not Path(source).exists()
        truth = whitening_pairs(source, data) if sfm else load_truth(source, data, None)
        with open_cache(
            cache_folder(truth, cache.model), cache.model, engine=cache.model.engine_name, warn=say
        ) as other:
            described = describe_set(truth, other, say=say, bars=bars)
            vectors, pairs = matching_pairs(described)
            learned, origin = fit_pairs(vectors, pairs, dim), learned_on(truth.name, described.hashes)
    return learned, {"kind": learned.kind, "dim": len(learned.projection), "learned_on": origin}

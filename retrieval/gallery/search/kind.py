"""Which search index a gallery gets: exact, a graph, or inverted lists, by what was asked for and how much there is.

Sizes follow the usual advice for FAISS: about 4 sqrt(N) lists, at least 30 training vectors a list
(https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index). Codes of 8 bits a dimension take a quarter of
the room of float32 and lose next to nothing; what is found is scored again from the stored vectors anyway.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from retrieval.errors import UsageError

KINDS = ("auto", "flat", "hnsw", "ivf", "ivfpq")
DEFAULT_RECALL = 0.98
# Exact search reads every value: so many take 15 milliseconds or so, which nobody notices.
EXACT_VALUES = 51_200_000
# Fewer vectors are searched exactly whatever was asked for: there is too little to train with.
FEWEST = 1024
_TRAINING_PER_LIST = 32
_MOST_TRAINING = 262_144
_SPREAD_KEPT = 0.97
_LONGEST_TURNED = 4096
_CONSTRUCTION = 200  # nodes kept while a graph is built; with FAISS's 40, parts of it are reached by no path


@dataclass(frozen=True)
class Plan:
    """An index to make: ``factory`` in FAISS's words; ``sample``: how many vectors to train it with, 0 for none."""

    kind: str
    factory: str
    sample: int


def plan(requested: str, count: int, dim: int, present: str | None = None) -> Plan:
    """The index for ``count`` vectors of ``dim`` dimensions. ``present``: the kind there is, which ``auto`` keeps on to
    until it is clearly the wrong one."""
    kind = requested
    if requested == "auto":
        limit = EXACT_VALUES // 2 if present == "ivf" else EXACT_VALUES
        kind = "flat" if count * dim <= limit else "ivf"
    if kind == "flat" or count < FEWEST:
        return Plan("flat", "Flat", 0)
    lists = number_of_lists(count)
    sample = min(count, _TRAINING_PER_LIST * lists, _MOST_TRAINING)
    if kind == "ivf":
        return Plan(kind, f"IVF{lists},SQ8", sample)
    if (
        kind == "ivfpq"
    ):  # np: without reordering the codes for a search by Hamming distance, which takes longer than all else
        return Plan(kind, f"IVF{lists},PQ{_sub_quantisers(dim)}x8np", max(sample, min(count, 40 * 256)))
    if kind == "hnsw":
        return Plan(kind, "HNSW32,SQ8", min(count, 40 * 256))
    asked = re.search(r"IVF(\d+)", requested)
    return Plan("factory", requested, min(count, _MOST_TRAINING, 40 * max(int(asked[1]) if asked else 0, 256)))


def number_of_lists(count: int) -> int:
    """About 4 sqrt(count), a power of two, and no more than can be trained with these vectors."""
    lists = 2 ** round(math.log2(4 * math.sqrt(count)))
    while lists > 1 and lists * _TRAINING_PER_LIST > min(count, _MOST_TRAINING):
        lists //= 2
    result: int = lists
    return result


def _sub_quantisers(dim: int) -> int:
    """Bytes a code: one for 8 dimensions, or the next number of dimensions that fits."""
    return max(m for m in range(1, max(1, dim // 8) + 1) if dim % m == 0)


def check_request(requested: str, dim: int, recall: float) -> None:
    """Raises UsageError unless a search index can be made so."""
    if not 0.5 <= recall <= 1:
        raise UsageError(f"a recall between 0.5 and 1 is needed, not {recall:g}")
    if requested not in KINDS:
        create(Plan("factory", requested, 0), dim)


def create(chosen: Plan, dim: int) -> Any:
    """The empty FAISS index, for inner products, with ids of its own. Raises UsageError for a factory string that FAISS
    does not know or that gives an index of a family that is not known here."""
    import faiss

    try:
        index = faiss.index_factory(dim, chosen.factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError as error:
        raise UsageError(
            f"{chosen.factory!r} is no search index for {dim} dimensions",
            f"Known kinds: {', '.join(KINDS)}, or a FAISS factory string such as IVF1024,SQ8 or HNSW32,SQ8.",
        ) from error
    inner = core(index)
    if not isinstance(inner, faiss.IndexIVF | faiss.IndexHNSW | faiss.IndexFlat | faiss.IndexScalarQuantizer):
        raise UsageError(
            f"{chosen.factory!r} makes an index that cannot be searched in part here",
            "Name a flat one, a graph (HNSW) or inverted lists (IVF), such as IVF1024,SQ8.",
        )
    if isinstance(inner, faiss.IndexIVF):
        inner.cp.min_points_per_centroid = 1  # too few pictures for the lists asked for are no reason to talk
        if isinstance(inner, faiss.IndexIVFPQ):
            inner.pq.cp.min_points_per_centroid = 1
        return index
    if isinstance(inner, faiss.IndexHNSW):
        inner.hnsw.efConstruction = _CONSTRUCTION
    return index if isinstance(index, faiss.IndexIDMap) else faiss.IndexIDMap2(index)


def trained(chosen: Plan, dim: int, sample: np.ndarray) -> tuple[Any, str]:
    """The index, empty and trained on ``sample`` (M, dim) float32, and what it is in FAISS's words.

    Descriptors vary in few of their directions. Inverted lists hold only the leading ones, turned to be coordinates, which
    makes them smaller and the search faster by as much; the little that is left out is made good by the exact second look.
    FAISS's own PCA would subtract the mean, which inner products do not bear.
    """
    import faiss

    directions = _leading(sample) if chosen.kind == "ivf" else None
    if directions is None:
        index = create(chosen, dim)
        if chosen.sample:
            index.train(sample)
        return index, chosen.factory
    library: Any = faiss
    turn = library.LinearTransform(dim, len(directions), False)
    library.copy_array_to_vector(directions.ravel(), turn.A)
    turn.is_trained = True
    inner = create(chosen, len(directions))
    inner.train(turn.apply(sample))
    return library.IndexPreTransform(turn, inner), f"PCA{len(directions)},{chosen.factory}"


def _leading(sample: np.ndarray) -> np.ndarray | None:
    """The directions that hold 97 % of how much vectors differ from each other, float32 (d, D), orthonormal; None where
    these are more than three quarters of all, or where finding them would take long."""
    dim = sample.shape[1]
    if not 64 <= dim <= _LONGEST_TURNED:
        return None
    moments = (sample.T @ sample).astype(np.float64) / len(sample)
    mean = sample.mean(axis=0, dtype=np.float64)
    directions = np.linalg.eigh(moments)[1].T[::-1]
    spread = np.einsum("kd,kd->k", directions @ (moments - np.outer(mean, mean)), directions)
    needed = int(np.searchsorted(np.cumsum(spread), _SPREAD_KEPT * spread.sum())) + 1
    kept = -(-needed // 16) * 16  # whole registers
    return np.ascontiguousarray(directions[:kept], np.float32) if 4 * kept <= 3 * dim else None


def core(index: Any) -> Any:
    """The index within: without its table of ids and without transformations before it."""
    return layers(index)[-1]


def layers(index: Any) -> list[Any]:
    """Tables of ids and transformations in the order in which a query passes them, and the index within."""
    import faiss

    found = [faiss.downcast_index(index)]
    while isinstance(found[-1], faiss.IndexIDMap | faiss.IndexPreTransform):
        found.append(faiss.downcast_index(found[-1].index))
    return found

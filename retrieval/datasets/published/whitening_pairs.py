"""Published pairs for learning a whitening, as a ground truth: each query with its one right answer."""

from __future__ import annotations

import os
from pathlib import Path

from retrieval.datasets.groundtruth import GroundTruth, Query
from retrieval.datasets.published.revisited import training_path
from retrieval.datasets.published.sets import published_set
from retrieval.errors import DatasetError
from retrieval.files import plain_pickle

_LIST_LIMIT = 1 << 30  # bytes


def whitening_pairs(name: str, directory: str | os.PathLike[str] = "data") -> GroundTruth:
    """The whitening pairs of ``retrieval-SfM-30k`` or ``retrieval-SfM-120k``, downloaded into ``directory/name``.

    The published list is a dict: ``cids``, the pictures' names; ``qidxs`` and ``pidxs``, equally long, the pairs. Only
    pictures that occur in a pair are in the gallery. Raises DatasetError for a list that is missing or another.
    """
    folder = Path(directory) / name
    file = folder / f"{name}-whiten.pkl"
    try:
        if file.stat().st_size > _LIST_LIMIT:
            raise DatasetError(f"{file} is larger than any list of pairs: refused")
        form = plain_pickle.loads(file.read_bytes())
    except OSError as error:
        raise DatasetError(
            f"{file} cannot be read ({error.strerror})", f"Run: retrieve datasets download {name}."
        ) from error
    except DatasetError as error:
        raise DatasetError(f"{file}: {error.message}", error.hint) from None
    parts = [
        plain_pickle.as_list(form.get(key)) if isinstance(form, dict) else None for key in ("cids", "qidxs", "pidxs")
    ]
    cids, queries, positives = (part or [] for part in parts)
    numbers = [*queries, *positives]
    if (
        not cids
        or not queries
        or len(queries) != len(positives)
        or not all(isinstance(cid, str) and cid.isalnum() and len(cid) >= 6 for cid in cids)
        or not all(isinstance(n, int) and 0 <= n < len(cids) for n in numbers)
    ):
        raise DatasetError(f"{file}: expected names under 'cids' and pairs of their numbers under 'qidxs' and 'pidxs'")
    place = f"{published_set(name).folder}/"
    paths = {n: place + training_path(cids[n]) for n in dict.fromkeys(numbers)}
    right: dict[int, list[str]] = {}
    for query, positive in dict.fromkeys(zip(queries, positives, strict=True)):
        if query != positive:
            right.setdefault(query, []).append(paths[positive])
    asked = tuple(Query(paths[q], None, tuple(dict.fromkeys(found)), (), ()) for q, found in right.items())
    return GroundTruth(name, folder, tuple(dict.fromkeys(paths.values())), asked)

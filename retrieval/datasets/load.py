"""The ground truth that an argument names: a file, a folder, a list, or a downloaded set."""

from __future__ import annotations

from pathlib import Path

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.published.revisited import published_groundtruth
from retrieval.datasets.published.sets import SETS
from retrieval.datasets.reading import load_groundtruth
from retrieval.errors import UsageError
from retrieval.messages import Say, safe, say_nothing


def load_truth(dataset: str, data: str = "data", images: str | None = None, say: Say = say_nothing) -> GroundTruth:
    """``dataset``: a path, or the name of a set that was downloaded below ``data``; ``images``: the folder of the pictures,
    where a path's own is not found; ``say`` is told which file of a folder is read. Raises UsageError, DatasetError."""
    if Path(dataset).exists():
        return load_groundtruth(dataset, images=images or "auto", say=say)
    if dataset in SETS:
        if images is not None:
            raise UsageError("--images goes with a ground truth's path", f"{dataset} is looked for in --data.")
        return published_groundtruth(dataset, data)
    raise UsageError(
        f"there is no file, folder or set '{safe(dataset)}'",
        f"Name a ground truth, a folder, a list, or one of: {', '.join(SETS)}.",
    )

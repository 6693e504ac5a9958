"""Whether training data have clusters enough for their negatives, told before anything is described."""

from __future__ import annotations

import numpy as np

from retrieval.errors import UsageError
from retrieval.messages import count_of
from retrieval.training.data.training_set import TrainingSet


def require_clusters(data: TrainingSet, negatives: int, held: TrainingSet | None = None) -> None:
    """Raises UsageError where the whole set has too few clusters for ``negatives`` a query, at most one of each: known
    before anything is described. ``held``: what was held out of it to validate on."""
    if negatives < 1:
        raise UsageError(f"a tuple needs at least 1 negative, not {negatives}")
    left, gone = _number_of_clusters(data), 0 if held is None else _number_of_clusters(held)
    others = left - 1 + int((data.clusters < 0).sum())
    if others >= negatives:
        return
    one, several = data.cluster_word
    out = f" ({left} of {left + gone} {several} are left, {gone} are held out for validation)" if gone else ""
    advice = [f"--negatives {others}"] if others > 0 else []
    if gone:
        enough = min(negatives, others + gone)
        advice.append("--validate none" + (f" with --negatives {enough}" if enough < negatives else ""))
    raise UsageError(
        f"{data.name} has {count_of(others, f'other {one}', f'other {several}')} for a query: too few for "
        f"{count_of(negatives, 'negative')}, one of each{out}",
        f"Name {', or '.join(advice)}, or take more data." if advice else "Take more data.",
    )


def _number_of_clusters(data: TrainingSet) -> int:
    return len(np.unique(data.clusters[data.clusters >= 0]))

"""A set evaluated in one call: described, whitened where asked, ranked, re-ranked, measured."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retrieval.datasets.groundtruth import GroundTruth
from retrieval.datasets.load import load_truth
from retrieval.datasets.placing import present
from retrieval.describe.choice import ModelChoice
from retrieval.errors import UsageError
from retrieval.evaluation.described_set import SetContext, describe_set, set_hashes, whitened_vectors
from retrieval.evaluation.evaluator import Evaluator, Measured, measure_rankings
from retrieval.evaluation.rankings import read_rankings
from retrieval.evaluation.report import report_form
from retrieval.evaluation.set_cache import open_gallery
from retrieval.evaluation.weighed import WeighedRankings, local_index_for
from retrieval.evaluation.whitened import whitening_on
from retrieval.gallery.fusing import RANKS
from retrieval.gallery.gallery import Gallery
from retrieval.messages import Bars, Say, no_bars, say_nothing
from retrieval.models import registry
from retrieval.models.weights import weights_present
from retrieval.models.whitening import Whitening
from retrieval.models.whitening_origin import leak, require_scales
from retrieval.ranking.method import XFEAT
from retrieval.ranking.methods import METHODS
from retrieval.ranking.rerank import Reranker, parse_reranker


@dataclass(frozen=True)
class Evaluation:
    """What was measured: the raw ranking first, then each re-ranker. ``settings`` go into a saved report; ``pictures`` are
    the gallery's by position; ``title`` says in words what was evaluated."""

    truth: GroundTruth
    measured: list[Measured]
    settings: dict[str, Any]
    pictures: list[str]
    title: str

    def report(self, bootstrap: int = 10_000) -> dict[str, Any]:
        """The last ranking as one JSON object, see :func:`retrieval.evaluation.report.report_form`."""
        return report_form(self.measured[-1], self.truth, self.settings, self.pictures, bootstrap)


def parse_rerankers(names: Sequence[str]) -> list[Reranker]:
    """Re-rankers by name; ``all`` stands for each of them (``xfeat`` where its weights are installed). Raises UsageError."""
    every = [name for name in METHODS if name != XFEAT or weights_present(registry.XFEAT)]
    chosen = [parse_reranker(name) for given in names for name in (every if given == "all" else [given])]
    twice = [r.name for i, r in enumerate(chosen) if r.name in [other.name for other in chosen[:i]]]
    if twice:
        raise UsageError(f"{twice[0]} is asked for twice")
    return chosen


def parse_ranks(names: str | Sequence[str]) -> list[str]:
    """Rankings by name, in the order cosine, local, fused. Raises UsageError."""
    asked = [names] if isinstance(names, str) else list(names)
    for name in asked:
        if name not in RANKS:
            raise UsageError(f"unknown ranking {name!r}", f"There are: {', '.join(RANKS)}.")
    return [name for name in ("cosine", "local", "fused") if name in asked] or ["cosine"]


def evaluate_ranking(truth: GroundTruth, ranks: str | os.PathLike[str], *, truncated: bool = False) -> Evaluation:
    """A ranking that another program made, see :func:`retrieval.evaluation.rankings.read_rankings`."""
    measured = measure_rankings(read_rankings(ranks, truth), truth, truncated=truncated)
    settings = {"ranks": os.fspath(ranks), "truncated": truncated}
    title = f"ranking {os.fspath(ranks)}" + " (truncated)" * truncated
    return Evaluation(truth, [measured], settings, list(truth.gallery), title)


def evaluate(
    dataset: str | os.PathLike[str] | GroundTruth,
    model: str | None = None,
    *,
    size: int | None = None,
    scales: tuple[float, ...] | None = None,
    engine: str = "auto",
    exif: bool | None = None,
    rerank: str | Sequence[str] = (),
    rank: str | Sequence[str] = ("cosine",),
    gallery: str | Gallery | None = None,
    distractors: bool = False,
    whiten_on: str | None = None,
    whiten_dim: int | None = None,
    allow_leak: bool = False,
    data: str = "data",
    images: str | None = None,
    say: Say = say_nothing,
    bars: Bars = no_bars,
) -> Evaluation:
    """Describe a set, rank it and measure mAP and mP@k by the protocols of Revisited Oxford and Paris.

    ``dataset``: a ground truth, its path, a folder with a sub-folder a class, a list, or the name of a downloaded set.
    ``model``: a name or path (default: auto). ``gallery``: a folder that keeps the descriptors (default: in the user's cache),
    or an open gallery, which is closed; with ``distractors`` its other pictures are ranked too. ``exif`` None: the model's
    rule, off for published sets. Of a folder of classes, pictures that cannot be used are left out with a warning.
    ``rank``: what rankings follow, "cosine", "local" (the local index) or "fused" (both, as queries are answered).
    Raises UsageError, DatasetError, ModelError, GalleryError.
    """
    truth = dataset if isinstance(dataset, GroundTruth) else load_truth(os.fspath(dataset), data, images, say)
    truth = present(truth, say)
    name = truth.name if isinstance(dataset, GroundTruth) else os.fspath(dataset)
    chosen = parse_rerankers([rerank] if isinstance(rerank, str) else rerank)
    if distractors and gallery is None:
        raise UsageError(
            "--distractors takes them from --gallery", "Make it with: retrieve index FOLDER... --index DIR."
        )
    ranks = parse_ranks(rank)
    if whiten_on is not None and ranks != ["cosine"]:
        raise UsageError("--whiten-on is for descriptors alone", "Index with a whitened model to fuse it: --model DIR.")
    if whiten_dim is not None and whiten_on is None:
        raise UsageError("--whiten-dim goes with --whiten-on")
    with open_gallery(truth, name, gallery, ModelChoice(model, size, scales, exif), engine, say) as cache:
        require_scales(cache.spec)
        learned: Whitening | None = None
        whitenings: list[Mapping[str, Any] | None] = [cache.spec.whitening]
        if whiten_on is not None:
            learned, about = whitening_on(whiten_on, whiten_dim, cache, data, say, bars)
            whitenings.append(about)
        leaks: list[str | None] = []
        if any(whitenings):  # known before anything is described
            hashes = set_hashes(truth, cache)
            leaks = [found for whitening in whitenings if (found := leak(whitening, truth.name, hashes))]
        if leaks and not allow_leak:
            raise UsageError(
                str(leaks[0]), "Its figures would mean nothing; --allow-leak computes and marks them all the same."
            )
        described = describe_set(truth, cache, distractors=distractors, say=say, bars=bars)
        truth = described.truth
        rule = cache.spec.image
        context = SetContext(described, exif=rule.exif, stored=learned is None, warn=say)
        if learned is None:
            evaluator = Evaluator(truth, described.queries, described.gallery)
        else:
            evaluator = Evaluator(truth, *whitened_vectors(described, learned))
        measured = [evaluator.raw()] if "cosine" in ranks or chosen else []
        if weighed := [by for by in ranks if by != "cosine"]:
            local_index_for(cache, described, bars)
            rankings = WeighedRankings(described, cache)
            measured += [rankings.measure(by) for by in weighed]
        for reranker in chosen:
            if caution := reranker.caution(evaluator.gallery):
                say(f"warning: {caution}")
            measured.append(evaluator.reranked(reranker, context.context, context.waited))
    settings = {
        "model": cache.spec.to_dict(),
        "name": cache.spec.name,
        "fingerprint": cache.spec.fingerprint,
        "rerank": chosen[-1].name if chosen else None,
        "rank": "cosine" if chosen else ranks[-1],
        "whitening": whitenings[-1],
        "leak": leaks[0] if leaks else None,
        "distractors": distractors,
    }
    pictures = [*truth.gallery, *(path for path, _ in described.pictures[len(truth.gallery) :])]
    scale = "" if rule.scales == (1.0,) else f", scales {','.join(f'{s:.4g}' for s in rule.scales)}"
    parts = [f"size {rule.size}{scale}", f"EXIF {'on' if rule.exif else 'off'}", cache.spec.fingerprint]
    if cache.spec.origin:
        parts.insert(0, cache.spec.origin)
    for whitening in filter(None, whitenings):
        origin = whitening.get("learned_on")
        source = origin["name"] if isinstance(origin, dict) else origin
        parts.append(f"whitening {whitening['kind']} to {whitening['dim']} learned on {source}")
    return Evaluation(truth, measured, settings, pictures, f"{cache.spec.name} ({', '.join(parts)})")

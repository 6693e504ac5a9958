"""``retrieve evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.common import engine_option, model_options, say, verbosity_options
from retrieval.messages import progress_bar, safe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from retrieval.datasets.groundtruth import GroundTruth
    from retrieval.evaluation.evaluator import Measured
    from retrieval.models.whitening import Whitening


@click.command("evaluate")
@click.argument("dataset", required=False, metavar="[DATASET|GROUNDTRUTH]")
@model_options
@engine_option
@click.option("--gallery", metavar="DIR", help="Keep the gallery's descriptors here (default: in the user's cache).")
@click.option("--distractors", is_flag=True, help="Rank all other pictures of --gallery too, as wrong answers.")
@click.option("--data", default="data", show_default=True, metavar="DIR", help="The folder of downloaded sets.")
@click.option("--images", metavar="DIR", help="The folder of the pictures, where it is not found by itself.")
@click.option(
    "--exif/--no-exif", default=None, help="Apply EXIF orientation (default: the model's rule; off for benchmarks)."
)
@click.option("--ranks", metavar="FILE", help="Score this ranking instead: JSON Lines, text or .npy.")
@click.option("--truncated", is_flag=True, help="The ranking of --ranks holds first answers only.")
@click.option(
    "--rerank", "rerankers", multiple=True, metavar="NAME", help="NAME[:key=value,...], several times, or all."
)
@click.option("--whiten-on", metavar="SOURCE", help="Whiten with what is learned on another gallery or set.")
@click.option("--whiten-dim", type=click.IntRange(1), metavar="D", help="Dimensions to keep with --whiten-on.")
@click.option("--allow-leak", is_flag=True, help="Evaluate although the whitening was learned on these pictures.")
@click.option(
    "--bootstrap", type=click.IntRange(0), default=10_000, show_default=True, help="Resamples; 0: no intervals."
)
@click.option("--save", metavar="FILE", help="Save the result as JSON.")
@click.option("--compare", nargs=2, metavar="A.json B.json", help="Compare two saved results.")
@click.option(
    "--sheet", metavar="FILE", help="With --compare: the worst regressions as a contact sheet (.jpg or .png)."
)
@click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", help="How it is printed."
)
@verbosity_options
def command(
    dataset: str | None,
    compare: tuple[str, str] | None,
    sheet: str | None,
    form: str,
    bootstrap: int,
    ranks: str | None,
    truncated: bool,
    data: str,
    images: str | None,
    save: str | None,
    rerankers: tuple[str, ...],
    quiet: bool,
    verbose: int,
    **options: Any,
) -> None:
    """Measure rankings of a set: mAP and mP@k by the protocols of Revisited Oxford and Paris, with intervals.

    DATASET is a downloaded benchmark (roxford5k), a ground truth (.json, .pkl), a folder with a sub-folder a class, or a
    list of path,label lines. Descriptors are kept, so a second evaluation takes seconds.

    \b
    Re-rankers (--rerank): qe, alpha-qe, dba, k-reciprocal, diffusion, spectral, verify.
    """
    from retrieval.errors import UsageError

    if compare is not None:
        if dataset is not None or ranks or rerankers or save:
            raise UsageError("--compare takes two saved results and nothing else")
        from retrieval.cli.results import print_comparison

        print_comparison(compare, sheet, form, bootstrap, quiet)
        return
    if dataset is None:
        raise UsageError("no set was named", "Example: retrieve evaluate groundtruth.json, or --compare A.json B.json.")
    if sheet is not None:
        raise UsageError("--sheet goes with --compare")
    chosen = _rerankers(rerankers)
    if save is not None and len(chosen) > 1:
        raise UsageError("--save keeps one result", "Name one --rerank with it.")
    if save is not None and not Path(save).absolute().parent.is_dir():
        raise UsageError(f"the folder of {save} does not exist")
    from retrieval.cli.results import print_results
    from retrieval.datasets.load import load_truth
    from retrieval.evaluation.report import report_form, save_report

    truth = load_truth(dataset, data, images)
    if ranks is not None:
        if chosen or options["whiten_on"] or options["gallery"] or options["distractors"] or options["model"]:
            raise UsageError(
                "--ranks gives a finished ranking: no model, gallery, whitening or re-ranking goes with it"
            )
        measured, settings, pictures, title = _given(truth, ranks, truncated)
    else:
        if truncated:
            raise UsageError("--truncated goes with --ranks")
        measured, settings, pictures, title = _described(
            truth, dataset, chosen, lambda m: say(safe(m), quiet), quiet, data=data, **options
        )
    final = report_form(measured[-1], truth, settings, pictures, bootstrap)
    if save is not None:
        save_report(final, save)
        say(f"saved: {safe(save)}", quiet)
    title = f"{truth.name}: {len(truth.queries)} queries, {len(pictures)} pictures, {title}"
    print_results(final, measured, title, form, bootstrap)


def _rerankers(names: tuple[str, ...]) -> list[Any]:
    from retrieval.errors import UsageError
    from retrieval.ranking.rerank import METHODS, parse_reranker

    wanted = [name for given in names for name in (METHODS if given == "all" else [given])]
    chosen = [parse_reranker(name) for name in wanted]
    twice = [r.name for i, r in enumerate(chosen) if r.name in [other.name for other in chosen[:i]]]
    if twice:
        raise UsageError(f"{twice[0]} is asked for twice")
    return chosen


def _given(truth: GroundTruth, ranks: str, truncated: bool) -> tuple[list[Measured], dict, list[str], str]:
    from retrieval.evaluation.evaluator import measure_rankings
    from retrieval.evaluation.rankings import read_rankings

    measured = measure_rankings(read_rankings(ranks, truth), truth, truncated=truncated)
    settings = {"ranks": ranks, "truncated": truncated}
    return [measured], settings, list(truth.gallery), f"ranking {ranks}" + " (truncated)" * truncated


def _described(
    truth: GroundTruth,
    dataset: str,
    chosen: list[Any],
    tell: Callable[[str], None],
    quiet: bool,
    *,
    model: str | None,
    size: int | None,
    scales: tuple[float, ...] | None,
    engine: str,
    gallery: str | None,
    distractors: bool,
    exif: bool | None,
    whiten_on: str | None,
    whiten_dim: int | None,
    allow_leak: bool,
    data: str,
) -> tuple[list[Measured], dict, list[str], str]:
    from retrieval.errors import UsageError
    from retrieval.evaluation.described_set import SetContext, describe_set, set_hashes, whitened_vectors
    from retrieval.evaluation.evaluator import Evaluator
    from retrieval.evaluation.set_cache import open_gallery
    from retrieval.evaluation.whitened import whitening_on
    from retrieval.models.whitening_origin import leak, require_scales

    if distractors and gallery is None:
        raise UsageError(
            "--distractors takes them from --gallery", "Make it with: retrieve index FOLDER... --index DIR."
        )
    if whiten_dim is not None and whiten_on is None:
        raise UsageError("--whiten-dim goes with --whiten-on")
    with open_gallery(truth, dataset, gallery, model, size, scales, engine, exif, tell) as cache:
        require_scales(cache.spec)
        learned: Whitening | None = None
        whitenings: list[Mapping[str, Any] | None] = [cache.spec.whitening]
        if whiten_on is not None:
            learned, about = whitening_on(
                whiten_on, whiten_dim, cache, data, tell, lambda label: progress_bar(label, quiet)
            )
            whitenings.append(about)
        leaks: list[str | None] = []
        if any(whitenings):  # known before anything is described
            hashes = set_hashes(truth, cache)
            leaks = [found for whitening in whitenings if (found := leak(whitening, truth.name, hashes))]
        if leaks and not allow_leak:
            raise UsageError(
                str(leaks[0]), "Its figures would mean nothing; --allow-leak computes and marks them all the same."
            )
        described = describe_set(truth, cache, distractors=distractors, bars=lambda label: progress_bar(label, quiet))
        rule = cache.spec.image
        context = SetContext(described, exif=rule.exif, stored=learned is None, warn=tell)
        if learned is None:
            evaluator = Evaluator(truth, described.queries, described.gallery)
        else:
            evaluator = Evaluator(truth, *whitened_vectors(described, learned))
        measured = [evaluator.raw()]
        for reranker in chosen:
            measured.append(evaluator.reranked(reranker, context.context, context.waited))
    settings = {
        "model": cache.spec.to_dict(),
        "name": cache.spec.name,
        "fingerprint": cache.spec.fingerprint,
        "rerank": chosen[-1].name if chosen else None,
        "whitening": whitenings[-1],
        "leak": leaks[0] if leaks else None,
        "distractors": distractors,
    }
    pictures = [*truth.gallery, *(path for path, _ in described.pictures[len(truth.gallery) :])]
    scale = "" if rule.scales == (1.0,) else f", scales {','.join(f'{s:.4g}' for s in rule.scales)}"
    parts = [f"size {rule.size}{scale}", f"EXIF {'on' if rule.exif else 'off'}", cache.spec.fingerprint]
    for whitening in filter(None, whitenings):
        origin = whitening.get("learned_on")
        source = origin["name"] if isinstance(origin, dict) else origin
        parts.append(f"whitening {whitening['kind']} to {whitening['dim']} learned on {source}")
    return measured, settings, pictures, f"{cache.spec.name} ({', '.join(parts)})"

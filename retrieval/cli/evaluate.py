"""``retrieve evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.common import engine_option, model_options, progress_bar, safe, say, verbosity_options

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from retrieval.datasets.groundtruth import GroundTruth
    from retrieval.evaluation.evaluator import Measured
    from retrieval.gallery.gallery import Gallery
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


def load_truth(dataset: str, data: str, images: str | None) -> GroundTruth:
    """The ground truth that an argument names: a file or folder, or a downloaded set."""
    from retrieval.datasets.groundtruth import load_groundtruth
    from retrieval.datasets.published.revisited import published_groundtruth
    from retrieval.datasets.published.sets import SETS
    from retrieval.errors import UsageError

    if Path(dataset).exists():
        return load_groundtruth(dataset, images=images or "auto")
    if dataset in SETS:
        if images is not None:
            raise UsageError("--images goes with a ground truth's path", f"{dataset} is looked for in --data.")
        return published_groundtruth(dataset, data)
    raise UsageError(
        f"there is no {safe(dataset)}", f"Name a ground truth, a folder, a list, or one of: {', '.join(SETS)}."
    )


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
    from retrieval.gallery.derive import leak, require_scales

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
            learned, about = _whitening_on(whiten_on, whiten_dim, cache, data, tell, quiet)
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


def _whitening_on(
    source: str, dim: int | None, cache: Gallery, data: str, tell: Callable[[str], None], quiet: bool
) -> tuple[Whitening, dict[str, Any]]:
    """A whitening for the vectors of ``cache``: PCA of another gallery's, or learned from the pairs of another set."""
    from retrieval.datasets.published.whitening_pairs import whitening_pairs
    from retrieval.evaluation.described_set import cache_folder, describe_set, matching_pairs, open_cache
    from retrieval.gallery.derive import fit_gallery, fit_pairs, learned_on
    from retrieval.gallery.gallery import Gallery

    if (Path(source) / "gallery.json").exists():
        with Gallery.open(source, warn=tell) as other:
            other.require(cache.model)
            learned, origin = fit_gallery(other, dim)
    else:
        sfm = source.startswith("retrieval-SfM-") and not Path(source).exists()
        truth = whitening_pairs(source, data) if sfm else load_truth(source, data, None)
        with open_cache(
            cache_folder(truth, cache.model), cache.model, engine=cache.model.engine_name, warn=tell
        ) as other:
            described = describe_set(truth, other, bars=lambda label: progress_bar(label, quiet))
            vectors, pairs = matching_pairs(described)
            learned, origin = fit_pairs(vectors, pairs, dim), learned_on(truth.name, described.hashes)
    return learned, {"kind": learned.kind, "dim": len(learned.projection), "learned_on": origin}


def open_gallery(
    truth: GroundTruth,
    dataset: str,
    folder: str | None,
    model: str | None,
    size: int | None,
    scales: tuple[float, ...] | None,
    engine: str,
    exif: bool | None,
    tell: Callable[[str], None],
) -> Gallery:
    """The gallery that keeps a set's descriptors: the one named, or one in the user's cache."""
    from retrieval.cli.index import require_same_model
    from retrieval.datasets.published.sets import SETS
    from retrieval.describe.model import load_model
    from retrieval.errors import UsageError
    from retrieval.evaluation.described_set import cache_folder, open_cache

    if exif is None and (truth.name in SETS or dataset.lower().endswith(".pkl")):
        exif = False  # the benchmarks' boxes and published figures know no orientation
    if folder is not None and (Path(folder) / "gallery.json").exists():
        cache = open_cache(Path(folder), None, engine=engine, warn=tell)
        require_same_model(cache, model, size, scales, tell)
        if exif is not None and cache.spec.image.exif != exif:
            words = ("with", "--exif") if cache.spec.image.exif else ("without", "--no-exif")
            raise UsageError(
                f"the gallery {folder} was made {words[0]} EXIF orientation",
                f"Name another gallery, or say {words[1]} to use it as it is.",
            )
        return cache
    chosen = load_model(model or "auto", size=size, scales=scales, exif=exif, engine=engine, say=tell)
    return open_cache(Path(folder) if folder else cache_folder(truth, chosen), chosen, engine=engine, warn=tell)

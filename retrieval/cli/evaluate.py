"""``retrieve evaluate``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.common import OutputFile, engine_option, form_option, model_options, say, teller, verbosity_options
from retrieval.cli.grouped import GroupedCommand
from retrieval.gallery.address import is_served
from retrieval.messages import count_of, progress_bar, safe

if TYPE_CHECKING:
    from retrieval.backends.copied import CopiedGallery


@click.command(
    "evaluate",
    cls=GroupedCommand,
    groups={
        "Set": "data images exif distractors gallery",
        "Ranking": "rank rerankers ranks truncated whiten_on whiten_dim allow_leak",
        "Results": "bootstrap form save compare sheet",
    },
)
@click.argument("dataset", required=False, metavar="[DATASET|GROUNDTRUTH]")
@model_options
@engine_option
@click.option(
    "--gallery",
    metavar="DIR|ADDRESS",
    help="Keep the gallery's descriptors here (default: in the user's cache); a served one is read and not written.",
)
@click.option("--distractors", is_flag=True, help="Rank all other pictures of --gallery too, as wrong answers.")
@click.option("--data", default="data", show_default=True, metavar="DIR", help="The folder of downloaded sets.")
@click.option("--images", metavar="DIR", help="The folder of the pictures, where it is not found by itself.")
@click.option(
    "--exif/--no-exif", default=None, help="Apply EXIF orientation (default: the model's rule; off for benchmarks)."
)
@click.option("--ranks", metavar="FILE", help="Score this ranking instead: JSON Lines, text or .npy.")
@click.option("--truncated", is_flag=True, help="The ranking of --ranks holds first answers only.")
@click.option(
    "--rank",
    default="cosine",
    show_default=True,
    metavar="NAMES",
    help="What rankings follow: cosine, local, fused, or several of them with commas.",
)
@click.option(
    "--rerank",
    "rerankers",
    multiple=True,
    metavar="NAME",
    help="qe, alpha-qe, dba, k-reciprocal, diffusion, spectral, verify or xfeat, as NAME[:key=value,...]; several times, or all.",
)
@click.option("--whiten-on", metavar="SOURCE", help="Whiten with what is learned on another gallery or set.")
@click.option("--whiten-dim", type=click.IntRange(1), metavar="D", help="Dimensions to keep with --whiten-on.")
@click.option("--allow-leak", is_flag=True, help="Evaluate although the whitening was learned on these pictures.")
@click.option(
    "--bootstrap", type=click.IntRange(0), default=10_000, show_default=True, help="Resamples; 0: no intervals."
)
@click.option("--save", type=OutputFile(), metavar="FILE", help="Save the result as JSON.")
@click.option("--compare", nargs=2, metavar="A.json B.json", help="Compare two saved results.")
@click.option(
    "--sheet", metavar="FILE", help="With --compare: the worst regressions as a contact sheet (.jpg or .png)."
)
@form_option("How it is printed.", "csv")
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
    rank: str,
    rerankers: tuple[str, ...],
    quiet: bool,
    verbose: int,
    **options: Any,
) -> None:
    """Measure rankings of a set: mAP and mP@k by the protocols of Revisited Oxford and Paris, with intervals.

    DATASET is a downloaded benchmark (roxford5k), a ground truth (.json, .pkl) or the folder it lies in, a folder with a
    sub-folder a class, or a list of path,label lines. Descriptors are kept, so a second evaluation takes seconds.

    \b
    retrieve evaluate truth.json --rank cosine,fused  the descriptor, all evidence
    retrieve evaluate truth.json --rerank all         each re-ranker
    retrieve evaluate truth.json --save a.json        for --compare a.json b.json
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
    from retrieval.evaluation.run import evaluate, evaluate_ranking, parse_ranks, parse_rerankers

    tell = teller(quiet)
    chosen = parse_rerankers(rerankers)
    by = parse_ranks([name.strip() for name in rank.split(",")])
    if save is not None and len(chosen) + len([name for name in by if name != "cosine"]) > 1:
        raise UsageError("--save keeps one result", "Name one --rerank, or one --rank and no --rerank, with it.")
    if save is not None and not Path(save).absolute().parent.is_dir():
        raise UsageError(f"the folder of {save} does not exist")
    from retrieval.cli.results import print_results
    from retrieval.datasets.load import load_truth
    from retrieval.evaluation.evaluator import unmoved
    from retrieval.evaluation.report import save_report

    if ranks is not None:
        if chosen or options["whiten_on"] or options["gallery"] or options["distractors"] or options["model"]:
            raise UsageError(
                "--ranks gives a finished ranking: no model, gallery, whitening or re-ranking goes with it"
            )
        result = evaluate_ranking(load_truth(dataset, data, images, tell), ranks, truncated=truncated)
    else:
        if truncated:
            raise UsageError("--truncated goes with --ranks")
        if is_served(options["gallery"]):
            options["gallery"] = _fetched(options["gallery"], dataset, data, images, options, quiet)
        result = evaluate(
            dataset,
            rerank=rerankers,
            rank=by,
            data=data,
            images=images,
            say=tell,
            bars=lambda label: progress_bar(label, quiet),
            **options,
        )
    final = result.report(bootstrap)
    if save is not None:
        save_report(final, save)
        say(f"saved: {safe(save)}", quiet)
    alone = None if len(result.measured) > 1 or result.settings.get("rerank") else result.settings.get("rank")
    ranked = "" if alone is None else f"ranked by {alone}, "
    counts = f"{count_of(len(result.truth.queries), 'query', 'queries')}, {count_of(len(result.pictures), 'picture')}"
    title = f"{result.truth.name}: {counts}, {ranked}{result.title}"
    print_results(final, result.measured, title, form, bootstrap)
    if still := unmoved(result.measured, chosen):
        say(
            f"note: {', '.join(r.name for r in still)} left every figure as it was, following only pictures that are closer to "
            "each other than unrelated ones are. "
            f"A number that is named is obeyed: {still[0].name}:{still[0].method.sizes[0]}=5",
            quiet,
        )


def _fetched(
    address: str, dataset: str, data: str, images: str | None, options: dict[str, Any], quiet: bool
) -> CopiedGallery:
    """What a served gallery has of a set's pictures, or all of it where its other pictures are wrong answers."""
    from retrieval.backends.names import storable
    from retrieval.cli.copied import copy_of
    from retrieval.datasets.load import load_truth

    names, instead = None, "Without --distractors the set's own pictures are all that is fetched."
    if not options["distractors"]:
        truth = load_truth(dataset, data, images)
        wanted = (*truth.gallery, *(query.image for query in truth.queries))
        instead = ""
        names = [storable(os.path.abspath(os.path.join(truth.root, path))) for path in wanted]
    return copy_of(address, options["engine"], quiet, names, instead=instead)

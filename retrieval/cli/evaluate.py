"""``retrieve evaluate``."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retrieval.cli.common import engine_option, model_options, progress_bar, safe, say, verbosity_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from retrieval.datasets.groundtruth import GroundTruth
    from retrieval.evaluation.run import Measured
    from retrieval.evaluation.statistics import Comparison, Interval
    from retrieval.gallery.gallery import Gallery


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
        _compare(compare, sheet, form, bootstrap, quiet)
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
            truth, dataset, chosen, lambda m: say(safe(m), quiet), quiet, **options
        )
    final = report_form(measured[-1], truth, settings, pictures, bootstrap)
    if save is not None:
        save_report(final, save)
        say(f"saved: {safe(save)}", quiet)
    if form == "json":
        _print_json(final, measured, bootstrap)
    elif form == "csv":
        _print_csv(measured, bootstrap)
    else:
        print(f"{safe(truth.name)}: {len(truth.queries)} queries, {len(pictures)} pictures, {safe(title)}")
        if settings.get("leak"):
            print(f"MARKED: {settings['leak']}")
        _print_table(measured, bootstrap)


def load_truth(dataset: str, data: str, images: str | None) -> GroundTruth:
    """The ground truth that an argument names: a file or folder, or a downloaded set."""
    from retrieval.datasets.groundtruth import load_groundtruth
    from retrieval.datasets.published import SETS
    from retrieval.datasets.revisited import published_groundtruth
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
    from retrieval.evaluation.rankings import read_rankings
    from retrieval.evaluation.run import measure_rankings

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
) -> tuple[list[Measured], dict, list[str], str]:
    from retrieval.errors import UsageError
    from retrieval.evaluation.described import SetContext, describe_set
    from retrieval.evaluation.run import Evaluator

    if distractors and gallery is None:
        raise UsageError(
            "--distractors takes them from --gallery", "Make it with: retrieve index FOLDER... --index DIR."
        )
    cache = open_gallery(truth, dataset, gallery, model, size, scales, engine, exif, tell)
    with cache:
        described = describe_set(truth, cache, distractors=distractors, bars=lambda label: progress_bar(label, quiet))
        rule = cache.spec.image
        context = SetContext(described, exif=rule.exif, warn=tell)
        evaluator = Evaluator(truth, described.queries, described.gallery)
        measured = [evaluator.raw()]
        for reranker in chosen:
            measured.append(evaluator.reranked(reranker, context.context, context.waited))
    settings = {
        "model": cache.spec.to_dict(),
        "name": cache.spec.name,
        "fingerprint": cache.spec.fingerprint,
        "rerank": chosen[-1].name if chosen else None,
        "whitening": None,
        "leak": None,
    }
    pictures = [*truth.gallery, *(path for path, _ in described.pictures[len(truth.gallery) :])]
    scale = "" if rule.scales == (1.0,) else f", scales {','.join(f'{s:g}' for s in rule.scales)}"
    title = (
        f"{cache.spec.name} (size {rule.size}{scale}, EXIF {'on' if rule.exif else 'off'}, {cache.spec.fingerprint})"
    )
    return measured, settings, pictures, title


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
    from retrieval.datasets.published import SETS
    from retrieval.errors import UsageError
    from retrieval.evaluation.described import cache_folder, open_cache
    from retrieval.model import load_model

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


# ---------------------------------------------------------------- printing


def _percent(value: float, interval: Interval | None = None, digits: int = 2) -> str:
    if math.isnan(value):
        return "-"
    limits = f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]" if interval else ""
    return f"{100 * value:.{digits}f}{limits}"


def _print_table(measured: list[Measured], resamples: int) -> None:
    from retrieval.evaluation.metrics import mean_over_queries
    from retrieval.evaluation.report import intervals_of, metrics_of

    if len(measured) == 1:
        rows = [["", "queries", *metrics_of(next(iter(measured[0].results.values())))]]
        for name, result in measured[0].results.items():
            intervals = intervals_of(result, resamples)
            cells = [_percent(mean_over_queries(v), intervals.get(m)) for m, v in metrics_of(result).items()]
            rows.append([name, str(result.queries), *cells])
        _print_columns(rows)
        return
    shown = [name for name, result in measured[0].results.items() if result.queries]
    rows = [["", *(f"{name} mAP" for name in shown), "once s", "ms/query"]]
    for system in measured:
        cells = []
        for name in shown:
            result = system.results[name]
            cells.append(_percent(result.mean_average_precision, intervals_of(result, resamples).get("mAP")))
        once = f"{system.prepare_seconds:.1f}" if system.prepare_seconds >= 0.05 else "-"
        rows.append([system.name, *cells, once, f"{1000 * (system.query_seconds or 0):.1f}"])
    _print_columns(rows)


def _print_columns(rows: list[list[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        print("  ".join(cells).rstrip())


def _print_csv(measured: list[Measured], resamples: int) -> None:
    from retrieval.evaluation.report import protocols_form

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["system", "protocol", "queries", "metric", "value", "low", "high", "once_seconds", "query_ms"])
    for system in measured:
        cost = [
            f"{system.prepare_seconds:.4f}",
            "" if system.query_seconds is None else f"{1000 * system.query_seconds:.3f}",
        ]
        for name, form in protocols_form(system, resamples).items():
            for metric in ("mAP", "mP@1", "mP@5", "mP@10"):
                limits = form["intervals"].get(metric) or ["", ""]
                writer.writerow([system.name, name, form["queries"], metric, form[metric], *limits, *cost])


def _print_json(final: dict[str, Any], measured: list[Measured], resamples: int) -> None:
    from retrieval.evaluation.report import protocols_form

    if len(measured) == 1:
        print(json.dumps(final))
        return
    systems = [
        {
            "name": system.name,
            "protocols": protocols_form(system, resamples),
            "once_seconds": system.prepare_seconds,
            "query_ms": 1000 * (system.query_seconds or 0),
        }
        for system in measured
    ]
    settings = {key: value for key, value in final["settings"].items() if key not in ("rerank", "cost")}
    print(json.dumps({"systems": systems, "settings": settings, "environment": final["environment"]}))


# ---------------------------------------------------------------- comparing


def _compare(paths: tuple[str, str], sheet: str | None, form: str, resamples: int, quiet: bool) -> None:
    from retrieval.evaluation.report import compare_reports, load_report, regression_rows, regressions

    a, b = (load_report(path) for path in paths)
    compared = compare_reports(a, b, resamples)
    chosen = next((name for name in ("medium", "original") if name in compared), next(iter(compared), ""))
    worst = regressions(a, b, chosen) if chosen else []
    if form == "json":
        told = {name: _comparison_form(result) for name, result in compared.items()}
        print(json.dumps({"protocols": told, "regressions": {chosen: [vars(lost) for lost in worst]}}))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        forms = {name: _comparison_form(result) for name, result in compared.items()}
        writer.writerow(["protocol", *next(iter(forms.values()), {})])
        writer.writerows([name, *values.values()] for name, values in forms.items())
    else:
        for letter, path, report in zip("AB", paths, (a, b), strict=True):
            settings = report["settings"]
            what = settings.get("name") or settings.get("ranks") or "?"
            marked = " MARKED: whitening learned on the evaluated pictures" if settings.get("leak") else ""
            print(
                f"{letter}: {safe(path)}: {safe(str(what))}"
                + (f" + {settings['rerank']}" if settings.get("rerank") else "")
                + marked
            )
        rows = [["mAP", "A", "B", "B - A", "wins", "losses", "ties", "p"]]
        for name, result in compared.items():
            counts = [str(n) for n in (result.wins, result.losses, result.ties)]
            difference = _percent(result.difference.mean, result.difference)
            rows.append(
                [name, _percent(result.mean_a), _percent(result.mean_b), difference, *counts, f"{result.p_value:.3f}"]
            )
        _print_columns(rows)
        if worst:
            print(f"\nWorst regressions ({chosen}), average precision in A and B:")
            for lost in worst:
                print(f"  {100 * lost.before:6.2f} {100 * lost.after:6.2f}  {safe(lost.image)}")
    if sheet is not None:
        from retrieval.views.sheet import contact_sheet, save_sheet

        exif = a["settings"].get("model", {}).get("image", {}).get("exif", True)
        save_sheet(contact_sheet(regression_rows(a, b, worst), title=f"Worst regressions ({chosen})", exif=exif), sheet)
        say(f"contact sheet: {safe(sheet)}", quiet)


def _comparison_form(result: Comparison) -> dict[str, Any]:
    return {
        "A": result.mean_a,
        "B": result.mean_b,
        "difference": result.difference.mean,
        "low": result.difference.low,
        "high": result.difference.high,
        "queries": result.difference.queries,
        "wins": result.wins,
        "losses": result.losses,
        "ties": result.ties,
        "p": result.p_value,
    }

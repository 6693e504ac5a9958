"""How measured rankings and comparisons are printed: tables for people, JSON and CSV for programs."""

from __future__ import annotations

import csv
import json
import math
import sys
from typing import TYPE_CHECKING, Any

from retrieval.cli.common import say
from retrieval.messages import safe

if TYPE_CHECKING:
    from retrieval.evaluation.evaluator import Measured
    from retrieval.evaluation.protocol import ProtocolResult
    from retrieval.evaluation.statistics import Comparison, Interval


def print_results(final: dict[str, Any], measured: list[Measured], title: str, form: str, resamples: int) -> None:
    """``measured`` systems of one set, ``final`` the report of the last of them; ``form``: "table", "json" or "csv"."""
    if form == "json":
        _print_json(final, measured, resamples)
    elif form == "csv":
        _print_csv(measured, resamples)
    else:
        print(safe(title))
        if final["settings"].get("leak"):
            print(f"MARKED: {safe(final['settings']['leak'])}")
        _print_table(measured, resamples)


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
        results = measured[0].results
        for name, called in (_protocols(_counts(results)) or {name: name for name in results}).items():
            intervals = intervals_of(results[name], resamples)
            cells = [_percent(mean_over_queries(v), intervals.get(m)) for m, v in metrics_of(results[name]).items()]
            rows.append([called, str(results[name].queries), *cells])
        _print_columns(rows)
        return
    shown = _protocols(_counts(measured[0].results))
    rows = [["", *(f"{called} mAP" for called in shown.values()), "once s", "ms/query"]]
    for system in measured:
        cells = []
        for name in shown:
            result = system.results[name]
            cells.append(_percent(result.mean_average_precision, intervals_of(result, resamples).get("mAP")))
        once = f"{system.prepare_seconds:.1f}" if system.prepare_seconds >= 0.05 else "-"
        rows.append([system.name, *cells, once, f"{1000 * (system.query_seconds or 0):.1f}"])
    _print_columns(rows)
    if shown:
        print()
        _print_columns(_precisions(measured, shown, resamples))


def _counts(results: dict[str, ProtocolResult]) -> dict[str, int]:
    return {name: result.queries for name, result in results.items()}


def _protocols(queries: dict[str, int]) -> dict[str, str]:
    """Those for which the set has pictures, and what they are called. Without hard pictures, or without easy ones, medium is
    the same question as the other, and they are one row."""
    there = [name for name, count in queries.items() if count]
    if len(there) == 2:
        return {there[0]: ", ".join(there)}
    return {name: name for name in there}


def _precisions(measured: list[Measured], shown: dict[str, str], resamples: int) -> list[list[str]]:
    """mP@k of several systems, a row for each and each protocol: beside mAP they would make too wide a table."""
    from retrieval.evaluation.metrics import mean_over_queries
    from retrieval.evaluation.report import intervals_of, metrics_of

    rows = [["", *(name for name in metrics_of(measured[0].results[next(iter(shown))]) if name != "mAP")]]
    for protocol in shown:
        for system in measured:
            result = system.results[protocol]
            intervals, values = intervals_of(result, resamples), metrics_of(result)
            cells = [_percent(mean_over_queries(values[m]), intervals.get(m)) for m in rows[0][1:]]
            rows.append([system.name if len(shown) == 1 else f"{protocol} {system.name}", *cells])
    return rows


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


def print_comparison(paths: tuple[str, str], sheet: str | None, form: str, resamples: int, quiet: bool) -> None:
    """Two saved results, by query; ``sheet``: where the contact sheet of the worst regressions goes, if there are any."""
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
            if model := settings.get("model"):
                what = f"{what} (weights {model['weights']['id']}, size {model['image']['size']}, {settings['fingerprint']})"
            ranked = f", ranked by {settings['rank']}" if settings.get("rank") and not settings.get("rerank") else ""
            marked = " MARKED: whitening learned on the evaluated pictures" if settings.get("leak") else ""
            print(
                f"{letter}: {safe(path)}: {safe(str(what))}{safe(ranked)}"
                + (f" + {settings['rerank']}" if settings.get("rerank") else "")
                + marked
            )
        rows = [["mAP", "A", "B", "B - A", "wins", "losses", "ties", "p"]]
        for name, called in _protocols({name: result.difference.queries for name, result in compared.items()}).items():
            result = compared[name]
            counts = [str(n) for n in (result.wins, result.losses, result.ties)]
            difference = _percent(result.difference.mean, result.difference)
            rows.append(
                [called, _percent(result.mean_a), _percent(result.mean_b), difference, *counts, f"{result.p_value:.3f}"]
            )
        _print_columns(rows)
        if worst:
            print(f"\nWorst regressions ({chosen}), average precision in A and B:")
            for lost in worst:
                print(f"  {100 * lost.before:6.2f} {100 * lost.after:6.2f}  {safe(lost.image)}")
    if sheet is not None and not worst:
        under = f" under the {chosen} protocol" if chosen not in ("", "original") else ""
        say(f"no query got worse{under}: no sheet written", quiet)
    elif sheet is not None:
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

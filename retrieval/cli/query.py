"""``retrieve query``."""

from __future__ import annotations

import csv
import glob
import io
import os
import sys
from typing import TYPE_CHECKING

import click

from retrieval.cli.common import (
    NumberList,
    engine_option,
    index_option,
    model_options,
    print_json,
    say,
    verbosity_options,
)
from retrieval.gallery.opened import require_same_model
from retrieval.messages import safe

if TYPE_CHECKING:
    from retrieval.gallery.answers import Match, QueryResult
    from retrieval.gallery.gallery import Gallery
    from retrieval.gallery.second_look import RerankedSearch


@click.command("query")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@index_option
@model_options
@engine_option
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many results a query.")
@click.option(
    "--bbox",
    type=NumberList(4),
    help="Only this box of the query, x1,y1,x2,y2 in pixels of the whole picture.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv", "paths"]),
    default="table",
    help="How results are printed.",
)
@click.option("--sheet", metavar="FILE", help="Also write a contact sheet of the results (.jpg or .png).")
@click.option(
    "--rerank",
    metavar="NAME",
    help="Look twice: qe, alpha-qe, dba, k-reciprocal, diffusion, spectral or verify, as NAME[:key=value,...].",
)
@verbosity_options
def command(
    images: tuple[str, ...],
    index: str | None,
    model: str | None,
    size: int | None,
    scales: tuple[float, ...] | None,
    engine: str,
    k: int,
    bbox: tuple[float, ...] | None,
    form: str,
    sheet: str | None,
    rerank: str | None,
    quiet: bool,
    verbose: int,
) -> int:
    """Find the pictures most similar to IMAGE: files, folders or quoted globs.

    One ranking a query; json prints one object a line. A query that cannot be read is reported and the others go on.
    Scores are cosine similarities; with --rerank, ranks follow the re-ranker's own score, which is printed beside them.
    """
    from retrieval.describe.extraction import describe_all
    from retrieval.errors import ImageError, UsageError
    from retrieval.gallery.answers import QueryResult
    from retrieval.gallery.gallery import Gallery

    if rerank is not None:
        from retrieval.ranking.rerank import parse_reranker

        reranker = parse_reranker(rerank)
    with Gallery.open(index, engine=engine, warn=lambda m: say(f"warning: {safe(m)}", quiet)) as gallery:
        require_same_model(gallery, model, size, scales, lambda m: say(m, quiet))
        files = _expand(images)
        if bbox is not None and len(files) > 1:
            raise UsageError("--bbox goes with one query picture", f"{len(files)} were named.")
        if sheet is not None:
            from retrieval.views.sheet import check_sheet_path

            check_sheet_path(sheet)
        results: dict[int, QueryResult] = {}
        failed = 0
        printer = _Printer(gallery, form, many=len(files) > 1, rerank=None if rerank is None else reranker.name)
        position = 0
        search: RerankedSearch | None = None
        if rerank is not None:
            from retrieval.gallery.second_look import RerankedSearch

            search = RerankedSearch(gallery, reranker)
        for described in describe_all(
            range(len(files)), lambda i: gallery.model.load(files[i], bbox), gallery.model.engine
        ):
            i = described.item
            if described.error is not None:
                say(f"retrieve: {safe(files[i])}: {described.error}")
                failed += 1
                results[i] = QueryResult(files[i], None, [])
            elif described.descriptor is not None:
                box = None if bbox is None else (bbox[0], bbox[1], bbox[2], bbox[3])
                matches: list[Match]
                if search is None:
                    matches = gallery.search(described.descriptor[None], k)[0]
                else:
                    matches = [*search.search(described.descriptor, k, files[i], box)]
                results[i] = QueryResult(files[i], box, matches)
            while position in results:  # in the order asked, as soon as they are there
                if results[position].matches or form == "json":
                    printer.show(results[position])
                if sheet is None:
                    del results[position]
                position += 1
        if search is not None and search.queries:
            milliseconds = 1000 * search.query_seconds / search.queries
            once = search.prepare_seconds + search.matcher.seconds
            say(f"{reranker.name}: {milliseconds:.1f} ms a query, {once:.1f} s for the gallery", quiet)
        if failed == len(files) and failed == 1:
            return 1
        if sheet is not None:
            _write_sheet(gallery, [results[i] for i in range(len(files)) if results[i].matches], sheet)
            say(f"contact sheet: {safe(sheet)}", quiet)
        if not gallery.catalog.any_searchable():
            raise ImageError("the gallery holds no pictures yet", "Fill it with: retrieve index FOLDER.")
    return 1 if failed else 0


def _expand(images: tuple[str, ...]) -> list[str]:
    """Files as named; the pictures in folders; what globs match that the shell left alone."""
    from retrieval.errors import UsageError
    from retrieval.pictures.scan import walk

    files: list[str] = []
    for name in images:
        if os.path.isdir(name):
            found = [os.path.join(name, f.path) for f in walk(name).files if f.problem is None]
            if not found:
                raise UsageError(f"there are no pictures in {safe(name)}")
            files += found
        elif not os.path.lexists(name) and glob.has_magic(name):
            matched = sorted(m for m in glob.glob(name, recursive=True) if not os.path.isdir(m))
            if not matched:
                raise UsageError(f"nothing matches {safe(name)}")
            files += matched
        else:
            files.append(name)
    return files


class _Printer:
    """Prints rankings, one query at a time."""

    def __init__(self, gallery: Gallery, form: str, many: bool, rerank: str | None = None) -> None:
        self.gallery = gallery
        self.form = form
        self.many = many
        self.rerank = rerank
        # Paths that are not UTF-8 leave as the bytes they came as.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")
        self.csv = csv.writer(sys.stdout, lineterminator="\n")
        if form == "csv":
            self.csv.writerow(["query", "rank", "score", "id", "path"] + ["rerank_score"] * (rerank is not None))

    def show(self, result: QueryResult) -> None:
        if self.form == "json":
            matches = [
                {"rank": m.rank, "score": round(m.score, 6), "id": m.id, "path": m.path, **self._second(m)}
                for m in result.matches
            ]
            box = None if result.bbox is None else list(result.bbox)
            fingerprint = self.gallery.spec.fingerprint
            print_json(
                {
                    "query": result.query,
                    "bbox": box,
                    "index": str(self.gallery.folder),
                    "model": fingerprint,
                    **({} if self.rerank is None else {"rerank": self.rerank}),
                    "results": matches,
                }
            )
        elif self.form == "csv":
            self.csv.writerows(
                [result.query, m.rank, f"{m.score:.6f}", m.id, m.path, *self._second(m).values()]
                for m in result.matches
            )
        elif self.form == "paths":
            for m in result.matches:
                print(m.path)
        else:
            if self.many:
                print(f"{safe(result.query)}:")
            width = len(str(result.matches[-1].rank))
            for m in result.matches:
                second = "".join(f"{'-' if s is None else f'{s:.4g}':>9}  " for s in self._second(m).values())
                print(f"{m.rank:>{width}}  {m.score:.4f}  {second}{safe(m.path)}")

    def _second(self, match: Match) -> dict[str, float | None]:
        """The re-ranker's own score, where there is one: None for pictures that it did not look at."""
        return {} if self.rerank is None else {"rerank_score": getattr(match, "rerank_score", None)}


def _write_sheet(gallery: Gallery, results: list[QueryResult], path: str) -> None:
    from retrieval.views.sheet import SheetCell, SheetRow, contact_sheet, save_sheet

    rows = [
        SheetRow(
            SheetCell(r.query, "", os.path.basename(r.query), bbox=r.bbox),
            [SheetCell(m.path, f"{m.score:.3f}", os.path.basename(m.path)) for m in r.matches],
        )
        for r in results
    ]
    save_sheet(contact_sheet(rows, exif=gallery.spec.image.exif), path)

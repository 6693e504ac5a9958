"""``retrieve query``."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from retrieval.cli.common import (
    Name,
    NumberList,
    OutputFile,
    Probability,
    engine_option,
    form_option,
    index_option,
    model_options,
    say,
    teller,
    verbosity_options,
)
from retrieval.cli.expand import STANDARD_INPUT, expand_pictures, piped_picture
from retrieval.cli.grouped import GroupedCommand
from retrieval.cli.rankings import RankingPrinter, no_match, unjudged
from retrieval.errors import ImageError, UsageError
from retrieval.gallery.address import locate, served_address
from retrieval.messages import safe
from retrieval.resident.ask import MOST, ResidentGallery, ask_resident

if TYPE_CHECKING:
    from retrieval.backends.served import ServedGallery
    from retrieval.gallery.answers import QueryResult
    from retrieval.gallery.gallery import Gallery
    from retrieval.gallery.second_look import RerankedSearch
    from retrieval.ranking.rerank import Reranker

NO_MATCH = 3  # exit status


@click.command(
    "query",
    cls=GroupedCommand,
    groups={
        "Query and gallery": "index bbox under exclude_self",
        "Answers": "k rank rerank fold min_score min_probability require_match",
        "Output": "form null sheet heat explain",
        "Running": "server engine picture_memory",
        "Model (has to be the gallery's)": "model size scales",
    },
)
@click.argument("images", nargs=-1, required=True, type=Name(), metavar="IMAGE...")
@index_option
@model_options
@engine_option
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="How many results a query.")
@click.option(
    "--bbox",
    type=NumberList(4),
    help="Only this box of the query, x1,y1,x2,y2 in pixels of the whole picture.",
)
@form_option("How results are printed.", "csv", "paths")
@click.option("-0", "--null", is_flag=True, help="With --format paths: a zero byte after each path, for xargs -0.")
@click.option("--sheet", metavar="FILE", help="Also write a contact sheet of the results (.jpg or .png).")
@click.option("--heat", is_flag=True, help="On the sheet: in colours, what each place adds to the similarity.")
@click.option(
    "--explain", type=OutputFile(), metavar="FILE.html", help="Also write a page that shows why each answer matched."
)
@click.option(
    "--rerank",
    metavar="NAME",
    help="Look twice: qe, alpha-qe, dba, k-reciprocal, diffusion, spectral, verify or xfeat, as NAME[:key=value,...].",
)
@click.option(
    "--rank",
    type=click.Choice(["fused", "cosine", "local"]),
    help="What the order follows: all evidence (default, where there is a local index), the descriptor's cosine, local features.",
)
@click.option("--under", type=Name(), metavar="FOLDER", help="Only pictures in this folder of the gallery.")
@click.option("--min-score", type=click.FloatRange(-1, 1), help="Only matches of this cosine similarity or more.")
@click.option(
    "--min-probability",
    type=Probability(),
    help="Only matches that show the same thing with this probability or more, such as 0.5 or 50%.",
)
@click.option("--fold", is_flag=True, help="Name copies of an answer, altered ones too, beside it, not after it.")
@click.option("--exclude-self", is_flag=True, help="Leave out the file that asks, and its exact copies.")
@click.option(
    "--server/--no-server",
    default=True,
    help="Let a running `retrieve serve` answer that holds this gallery (default), which saves the start, or not.",
)
@click.option("--require-match", is_flag=True, help="Exit status 3 when for some query nothing shows the same thing.")
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
    null: bool,
    sheet: str | None,
    heat: bool,
    explain: str | None,
    rerank: str | None,
    rank: str | None,
    under: str | None,
    min_score: float | None,
    min_probability: float | None,
    fold: bool,
    exclude_self: bool,
    server: bool,
    require_match: bool,
    quiet: bool,
    verbose: int,
) -> int:
    """Find the pictures most similar to IMAGE: files, folders, quoted globs, or - for one on standard input.

    One ranking a query; json prints one object a line. A query that cannot be read is reported and the others go on.
    Each match has the probability that it shows the same thing, and that in a word: same from 95 % on (verified by geometry),
    likely from 50, similar from 1, else -; scores are cosine similarities. With --rerank, ranks follow the re-ranker's own score,
    which is printed beside them; a probability is what the same picture has without --rerank.

    \b
    retrieve query photo.jpg --bbox 120,40,560,480     only this part of it
    retrieve query photos/ -k 5 --sheet answers.jpg    answers as pictures
    """
    if null and form != "paths":
        raise UsageError("-0 goes with --format paths")
    reranker = None if rerank is None else _reranker(rerank)
    piped = piped_picture() if STANDARD_INPUT in images else b""
    closer = reranker is not None or fold
    own = engine != "auto" or model or size or scales or rerank or sheet or explain  # what takes a gallery of one's own
    resident = _resident(index, under, quiet) if server and not own and len(piped) <= MOST else None
    with _opened(index, engine, closer, quiet, images[0], bbox) if resident is None else resident as gallery:
        here = None if isinstance(gallery, ResidentGallery) else gallery
        if here is not None and (model or size or scales):
            from retrieval.describe.choice import ModelChoice
            from retrieval.gallery.same_model import require_same_model

            require_same_model(here, ModelChoice(model, size, scales), lambda m: say(m, quiet))
        files = expand_pictures(images)
        if bbox is not None and len(files) > 1:
            raise UsageError("--bbox goes with one query picture", f"{len(files)} were named.")
        if sheet is not None:
            from retrieval.views.sheet import check_sheet_path

            check_sheet_path(sheet)
        if heat and sheet is None:
            raise UsageError("--heat goes with --sheet FILE")
        if explain is not None:
            from retrieval.cli.explain import check_page_path

            check_page_path(explain)
        by = gallery.rank_by(rank, reranker is not None, min_probability is not None)
        judged = by != "cosine" or (reranker is not None and cast("Gallery", here).judges(rank))
        if require_match and not judged:
            raise UsageError("--require-match needs verdicts", "They need a local index, and no --rank cosine.")
        search = None if reranker is None or here is None else _second_look(here, reranker, under)
        sources = [piped if name == STANDARD_INPUT else name for name in files]
        printer = RankingPrinter(
            str(getattr(gallery, "address", gallery.folder)),
            gallery.fingerprint if isinstance(gallery, ResidentGallery) else gallery.spec.fingerprint,
            gallery.judges if isinstance(gallery, ResidentGallery) else gallery.local is not None,
            form,
            len(files) > 1,
            reranker,
            null,
            judged,
            fold,
        )
        least = {"--min-score": min_score, "--min-probability": min_probability}
        limits = [option for option, value in least.items() if value is not None]
        answered: list[QueryResult] = []
        failed = unmatched = 0
        found_any = empty = False
        for result in gallery.answers(
            sources,
            k,
            bbox,
            rerank=search,
            under=under,
            min_score=min_score,
            rank=rank,
            min_probability=min_probability,
            fold=fold,
            exclude_self=exclude_self,
        ):
            result = replace(result, query=result.query or STANDARD_INPUT)
            if result.error is not None:
                say(f"retrieve: {safe(result.query)}: {result.error}")
                failed += 1
            elif judged and not result.found:
                unmatched += 1
                if form == "table" and (result.matches or result.filtered or under is None):
                    say(no_match(result, *limits), quiet)
            if bbox is not None and result.error is None:
                from retrieval.cli.box import tell_cut

                tell_cut(sources[0], bbox, gallery, quiet)
            nothing = not (result.matches or result.filtered or result.error or exclude_self)
            if under is not None and nothing and not empty:
                empty = True
                meant = "" if os.path.isabs(under) else " (seen from the current folder, or from one that was indexed)"
                say(f"retrieve: nothing that is indexed lies in {safe(under)}{meant}")
            found_any |= bool(result.matches)
            if result.matches or form == "json":
                printer.show(result)
            if result.matches and (sheet is not None or explain is not None):
                answered.append(result)
        if search is not None and search.queries:
            milliseconds = 1000 * search.query_seconds / search.queries
            once = search.prepare_seconds + search.matchers.seconds
            say(f"{search.name}: {milliseconds:.1f} ms a query, {once:.1f} s for the gallery", quiet)
            if not judged and rank is None and form == "table":
                say(f"no verdicts: {unjudged(index)}", quiet)
        if failed == len(files) and failed == 1:
            return 1
        whys = None
        if here is not None and (heat or explain is not None):
            from retrieval.cli.explain import Whys

            whys = Whys(here, answered, piped, heat + (explain is not None), quiet)
        if sheet is not None and here is not None:
            from retrieval.cli.sheet import write_sheet

            write_sheet(here, answered, sheet, piped, whys if heat else None)
            say(f"contact sheet: {safe(sheet)}", quiet)
        if explain is not None and whys is not None:
            from retrieval.cli.explain import write_explanations

            write_explanations(whys, answered, explain)
            say(f"why they matched: {safe(explain)}", quiet)
        if not found_any and not len(gallery):
            raise ImageError("the gallery holds no pictures yet", "Fill it with: retrieve index FOLDER.")
    if failed or empty:
        return 1
    return NO_MATCH if require_match and unmatched else 0


def _opened(
    index: str | None, engine: str, closer: bool, quiet: bool, image: str = "", bbox: tuple[float, ...] | None = None
) -> Gallery | ServedGallery:
    """The gallery in a folder or on a server; of that a copy, where it is to be looked at closer than a ranking needs."""
    warn = teller(quiet, "warning: ")
    address = served_address(index)
    if address is None:
        from retrieval.gallery.ahead import open_ahead

        return open_ahead(index, image, bbox, engine=engine, warn=warn)
    if closer:
        from retrieval.cli.copied import copy_of

        return copy_of(address, engine, quiet, instead="Without --rerank and --fold the server answers alone.")
    from retrieval.backends.served import ServedGallery

    return ServedGallery.open(address, engine=engine, say=warn)


def _resident(index: str | None, under: str | None, quiet: bool) -> ResidentGallery | None:
    """The gallery in a folder, where another process of this user serves it. A relative folder means one thing here and another
    there."""
    folder = None if served_address(index) else locate(index)
    if folder is None or (under is not None and not Path(under).is_absolute()):
        return None

    def alone() -> Gallery:
        opened = _opened(str(folder), "auto", False, quiet)
        return cast("Gallery", opened)  # a folder's

    return ask_resident(folder, alone)


def _reranker(text: str) -> Reranker:
    from retrieval.ranking.rerank import parse_reranker

    return parse_reranker(text)


def _second_look(gallery: Gallery | ServedGallery, reranker: Reranker, under: str | None) -> RerankedSearch:
    from retrieval.gallery.gallery import Gallery
    from retrieval.gallery.second_look import RerankedSearch

    assert isinstance(gallery, Gallery)  # a copy, where it is a served one
    return RerankedSearch(gallery, reranker, under)

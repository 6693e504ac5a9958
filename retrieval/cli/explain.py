"""The page of ``retrieve query --explain``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.cli.common import say
from retrieval.errors import ImageError, RetrievalError, UsageError
from retrieval.files.whole import write_whole
from retrieval.gallery.explaining import Explaining, PairExplaining
from retrieval.messages import SlowSteps, safe
from retrieval.views.explanation import ExplainedMatch, explanation_page

if TYPE_CHECKING:
    from retrieval.backends.served import ServedGallery
    from retrieval.gallery.answers import Match, QueryResult
    from retrieval.gallery.gallery import Gallery


def check_page_path(path: str) -> None:
    """Raises UsageError where a page cannot be written, before anything is asked."""
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"a page is written as .html, not as {target.suffix or target.name!r}")
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} does not exist", "Create it first.")


def explaining_of(gallery: Gallery | ServedGallery) -> Explaining | PairExplaining:
    """What explains matches of a gallery; of a served one by the files of this machine, without points that agree."""
    from retrieval.gallery.gallery import Gallery

    return Explaining(gallery) if isinstance(gallery, Gallery) else PairExplaining(gallery.model)


def matches_explained(results: Sequence[QueryResult], quiet: bool) -> SlowSteps:
    """What tells how far explaining is: each match takes the network twice."""
    total = sum(len(result.matches) for result in results)
    return SlowSteps("explaining match", total, lambda message: say(message, quiet))


def write_explanations(
    gallery: Gallery | ServedGallery,
    results: Sequence[QueryResult],
    path: str,
    piped: bytes,
    standard_input: str,
    quiet: bool,
) -> None:
    """The answers to each query, with what made them match. Answers that cannot be shown are named and left out."""
    explaining = explaining_of(gallery)
    slow = matches_explained(results, quiet)

    def explained() -> Iterator[ExplainedMatch]:
        for result in results:
            source = piped if result.query == standard_input else result.query
            for match in result.matches:
                slow.step()
                try:
                    why = explaining.explain_match(source, match, result.bbox)
                except ImageError as error:
                    say(f"retrieve: {safe(match.path)}: {error}")
                    continue
                yield ExplainedMatch(
                    os.path.basename(result.query),
                    safe(match.path),
                    _said(match),
                    why.cosine,
                    why.query_picture,
                    why.picture,
                    why.query_terms,
                    why.terms,
                    why.points,
                    why.query_attention,
                    why.attention,
                )

    try:
        write_whole(path, explanation_page(explained()))
    except OSError as error:
        raise RetrievalError(f"{safe(path)} cannot be written: {error.strerror or error}") from error


def _said(match: Match) -> str:
    if match.probability is None:
        return f"answer {match.rank}"
    return f"answer {match.rank} · {match.verdict or 'no verdict'} · {match.probability:.0%} the same thing"

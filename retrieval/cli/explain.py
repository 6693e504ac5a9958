"""The page of ``retrieve query --explain``."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrieval.cli.common import say
from retrieval.cli.expand import STANDARD_INPUT
from retrieval.errors import ImageError, RetrievalError, UsageError
from retrieval.files.whole import write_whole
from retrieval.gallery.explaining import Explaining, PairExplaining, WhyMatched
from retrieval.messages import SlowSteps, safe
from retrieval.ranking.verdicts import NO_WORD, percent
from retrieval.views.explanation import ExplainedMatch, explanation_page

if TYPE_CHECKING:
    from retrieval.backends.served import ServedGallery
    from retrieval.gallery.answers import Match, QueryResult
    from retrieval.gallery.gallery import Gallery

_MOST_KEPT = 256  # two pictures each


def check_page_path(path: str) -> None:
    """Raises UsageError where a page cannot be written, before anything is asked."""
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"a page is written as .html, not as {target.suffix or target.name!r}")
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} does not exist", "Create it first.")


class Whys:
    """Why the matches of these results matched: of a served gallery by the files of this machine, without points that agree. What
    cannot be shown is named once, and None. ``uses``: how often each is asked for; it is found once where there are not many."""

    def __init__(
        self, gallery: Gallery | ServedGallery, results: Sequence[QueryResult], piped: bytes, uses: int, quiet: bool
    ) -> None:
        from retrieval.gallery.gallery import Gallery

        total = sum(len(result.matches) for result in results)
        self._explaining = Explaining(gallery) if isinstance(gallery, Gallery) else PairExplaining(gallery.model)
        self._piped = piped
        self._kept: dict[tuple[int, int], WhyMatched | None] | None = {} if uses > 1 and total <= _MOST_KEPT else None
        passes = uses if self._kept is None else 1
        self._slow = SlowSteps("explaining match", passes * total, lambda message: say(message, quiet))

    def of(self, result: QueryResult, match: Match) -> WhyMatched | None:
        """Each match takes the network twice."""
        key = id(result), match.rank
        if self._kept is not None and key in self._kept:
            return self._kept[key]
        self._slow.step()
        source: Any = self._piped if result.query == STANDARD_INPUT else result.query
        found = None
        try:
            found = self._explaining.explain_match(source, match, result.bbox)
        except ImageError as error:
            say(f"retrieve: {safe(match.path)}: {error}")
        if self._kept is not None:
            self._kept[key] = found
        return found


def write_explanations(whys: Whys, results: Sequence[QueryResult], path: str) -> None:
    """The answers to each query, with what made them match. Answers that cannot be shown are left out."""

    def explained() -> Iterator[ExplainedMatch]:
        for result in results:
            for match in result.matches:
                why = whys.of(result, match)
                if why is None:
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
    return f"answer {match.rank} · {match.verdict or NO_WORD} · {percent(match.probability)} the same thing"

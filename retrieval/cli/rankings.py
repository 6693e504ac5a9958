"""How rankings are printed: a table for people; JSON, CSV and paths for programs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from retrieval.cli.common import print_json
from retrieval.cli.streams import write_path
from retrieval.gallery.address import served_address
from retrieval.messages import safe
from retrieval.ranking.verdicts import percent

if TYPE_CHECKING:
    from retrieval.gallery.answers import Match, QueryResult
    from retrieval.ranking.rerank import Reranker


class RankingPrinter:
    """Prints rankings, one query at a time."""

    def __init__(
        self,
        index: str,
        fingerprint: str,
        judges: bool,
        form: str,
        many: bool,
        rerank: Reranker | None = None,
        null: bool = False,
        judged: bool = False,
        folded: bool = False,
    ) -> None:
        """``index`` and ``fingerprint``: which gallery, described by which model; ``judges``: whether it can give verdicts.
        ``judged``: whether these answers come with some; ``folded``: whether copies are named beside them."""
        self.index, self.fingerprint, self.judges = index, fingerprint, judges
        self.form = form
        self.many = many
        self.rerank = rerank
        self.judged, self.headed = judged, False
        self.folded = folded
        self.end = "\0" if null else "\n"
        if form == "csv":
            import csv

            self.csv = csv.writer(sys.stdout, lineterminator="\n")
            columns = ["rerank_score"] * (rerank is not None) + list(_JUDGED) * judged + ["copies"] * folded
            self.csv.writerow(["query", "rank", "score", "id", "path", *columns])

    def show(self, result: QueryResult) -> None:
        if self.form == "json":
            matches = [
                {"rank": m.rank, "score": round(m.score, 6), "id": m.id, "path": m.path, **self._more(m)}
                for m in result.matches
            ]
            box = None if result.bbox is None else list(result.bbox)
            print_json(
                {
                    "query": result.query,
                    "bbox": box,
                    "index": self.index,
                    "model": self.fingerprint,
                    **({} if self.rerank is None else {"rerank": self.rerank.name}),
                    **({"found": result.found} if self.judged else {}),
                    "results": matches,
                }
            )
        elif self.form == "csv":
            self.csv.writerows(
                [result.query, m.rank, f"{m.score:.6f}", m.id, m.path, *self._second(m).values()]
                + [len(m.copies)] * self.folded
                for m in result.matches
            )
        elif self.form == "paths":
            for m in result.matches:
                write_path(m.path, self.end)
        else:
            if self.many:
                print(f"{safe(result.query)}:")
            width = len(str(result.matches[-1].rank))
            if not self.headed and sys.stdout.isatty():  # not into a file or another program
                self.headed = True
                heading = "" if self.rerank is None else f"{self.rerank.method.unit or 'rerank_score':>{_RERANKED}}  "
                print(f"{'#':>{width}}  {'verdict  P(same)  ' if self.judged else ''}cosine  {heading}path")
            for m in result.matches:
                said = f"{m.verdict or '-':<7}  {percent(m.probability or 0):>7}  " if self.judged else ""
                copies = f"  (+ {len(m.copies)} cop{'y' if len(m.copies) == 1 else 'ies'})" if m.copies else ""
                print(f"{m.rank:>{width}}  {said}{m.score:.4f}  {self._reranked(m)}{safe(m.path)}{copies}")

    def _more(self, match: Match) -> dict[str, Any]:
        judged = {} if not self.judges else dict.fromkeys(_JUDGED)
        metadata = {} if match.metadata is None else {"metadata": match.metadata}
        copies = {"copies": list(match.copies)} if self.folded else {}
        return {**judged, **self._second(match), **metadata, **copies}

    def _second(self, match: Match) -> dict[str, Any]:
        """The re-ranker's own score, where there is one: None for pictures that it did not look at; what a verdict rests on."""
        own = {} if self.rerank is None else {"rerank_score": getattr(match, "rerank_score", None)}
        values = {name: getattr(match, name) for name in _JUDGED} if self.judged else {}
        return own | {name: round(value, 6) if isinstance(value, float) else value for name, value in values.items()}

    def _reranked(self, match: Match) -> str:
        """The column of the re-ranker's score, with its unit; nothing without a re-ranker."""
        if self.rerank is None:
            return ""
        score = getattr(match, "rerank_score", None)
        return f"{'-' if score is None else f'{score:.4g} {self.rerank.method.unit}'.rstrip():>{_RERANKED}}  "


_RERANKED = 12  # characters
_JUDGED = ("local", "fused", "inliers", "probability", "verdict")


def no_match(result: QueryResult, *limits: str) -> str:
    """``limits``: the options that were given to leave out what is too far."""
    rest = " The pictures that come nearest:" if result.matches else ""
    if result.filtered:
        return f"no match for {safe(result.query)} that {' and '.join(limits)} let{'s' * (len(limits) == 1)} through.{rest}"
    return f"no match: nothing here is sure to show what is on {safe(result.query)}.{rest}"


def unjudged(index: str | None) -> str:
    """Why answers of a second look come without verdicts, though nobody asked for that."""
    if served_address(index) is not None:
        return "a gallery on a server keeps no local features. One in a folder, filled from the same parts, has them."
    return "the gallery has no local index. Make it with: retrieve index --local (opens each picture)."

"""The contact sheet of ``retrieve query --sheet``, with what each place adds to the similarity where ``--heat`` asks for it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from retrieval.cli.expand import STANDARD_INPUT
from retrieval.gallery.explaining import WhyMatched
from retrieval.ranking.verdicts import NO_WORD, percent
from retrieval.views.heatmap import looks
from retrieval.views.sheet import SheetCell, SheetRow, contact_sheet, save_sheet

if TYPE_CHECKING:
    from retrieval.backends.served import ServedGallery
    from retrieval.cli.explain import Whys
    from retrieval.gallery.answers import Match, QueryResult
    from retrieval.gallery.gallery import Gallery

Cells = npt.NDArray[np.float64]


def write_sheet(
    gallery: Gallery | ServedGallery, results: Sequence[QueryResult], path: str, piped: bytes, whys: Whys | None
) -> None:
    """A line for each query. With ``whys``: over the query what its cells add to the cosine with its first answer, over answers
    what theirs add; attention, for a model that describes by its class token alone."""
    rows = []
    for result in results:
        source: Any = piped if result.query == STANDARD_INPUT else result.query
        found = [None if whys is None else whys.of(result, match) for match in result.matches]
        first = next((_cells(why)[0] for why in found if why is not None), None)
        rows.append(
            SheetRow(
                SheetCell(source, "", os.path.basename(result.query), bbox=result.bbox, heat=first),
                [
                    SheetCell(
                        m.path, _caption(m), os.path.basename(m.path), heat=None if why is None else _cells(why)[1]
                    )
                    for m, why in zip(result.matches, found, strict=True)
                ],
            )
        )
    save_sheet(contact_sheet(rows, exif=gallery.spec.image.exif), path)


def _cells(why: WhyMatched) -> tuple[Cells | None, Cells | None]:
    """What is laid over the query and over the answer."""
    if why.query_terms is not None or why.query_attention is None or why.attention is None:
        return why.query_terms, why.terms
    return looks(why.query_attention), looks(why.attention)


def _caption(match: Match) -> str:
    if match.probability is None:
        return f"{match.score:.3f}"
    return f"{match.verdict or NO_WORD}, {percent(match.probability)}"

"""Whether a ground truth's pictures are there, and its boxes inside of them."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from retrieval.datasets.groundtruth import Box, GroundTruth
from retrieval.errors import DatasetError, ImageError
from retrieval.messages import Say, count_of
from retrieval.pictures.imaging import picture_size
from retrieval.pictures.scan import look

_BORDER = 1.0  # pixels by which an annotated box may reach over the border: annotators round


def check_files(truth: GroundTruth) -> None:
    """Raise DatasetError where pictures of the gallery or of the queries are missing: their number and the
    first five."""
    wanted = dict.fromkeys((*truth.gallery, *(query.image for query in truth.queries)))
    missing = [path for path in wanted if not os.path.isfile(os.path.join(truth.root, path))]
    if missing:
        names = ", ".join(f"{path!r:.200}" for path in missing[:5]) + (
            f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        )
        lacking = (
            f"{len(missing):,} of {count_of(len(wanted), 'picture')} {'is' if len(missing) == 1 else 'are'} missing"
        )
        raise DatasetError(
            f"{truth.name}: {lacking} under {truth.root}: {names}",
            "Check where the pictures lie",
        )


def present(truth: GroundTruth, say: Say) -> GroundTruth:
    """The set, all of whose files are there. What is whatever lies in a folder of classes goes on without files that cannot be
    opened (a link to nothing, no right to read), which ``say`` is told; of a set that somebody listed, and where too little is
    left, DatasetError is raised."""
    if truth.of_folder:
        looked = [(path, _trouble(os.path.join(truth.root, path), path)) for path in truth.gallery]
        if troubles := [(path, why) for path, why in looked if why is not None]:
            truth = without(truth, troubles, say)
    check_files(truth)
    return truth


def _trouble(file: str, path: str) -> str | None:
    problem = look(file, path).problem
    return problem if problem is not None or os.access(file, os.R_OK) else os.strerror(errno.EACCES)


def without(truth: GroundTruth, troubles: Sequence[tuple[str, str]], say: Say) -> GroundTruth:
    """What is left of a folder's set without pictures (path, reason). Raises DatasetError where the pictures were listed by
    someone, or too few are left."""
    if not truth.of_folder:
        refuse(truth, troubles)
    try:
        left = truth.without([name for name, _ in troubles])
    except DatasetError:
        refuse(truth, troubles)
        raise
    of = count_of(len(truth.gallery), "picture")
    say(f"warning: {len(troubles):,} of {of} left out, which cannot be used: {named(troubles)}")
    return left


def refuse(truth: GroundTruth, troubles: Sequence[tuple[str, str]]) -> None:
    """Raises DatasetError that names the first five of the pictures (path, reason) that cannot be used, if there are any."""
    if troubles:
        place = "folder" if truth.of_folder else "ground truth"
        raise DatasetError(
            f"{truth.name}: {count_of(len(troubles), 'picture')} cannot be used: {named(troubles)}",
            f"Mend them or take them out of the {place}.",
        )


def named(troubles: Sequence[tuple[str, str]]) -> str:
    """The first five of pictures (path, reason), in one line."""
    more = f" and {len(troubles) - 5} more" if len(troubles) > 5 else ""
    return "; ".join(f"{path!r} ({reason.rstrip('.')})" for path, reason in troubles[:5]) + more


def check_boxes(truth: GroundTruth, *, oriented: bool = False) -> None:
    """Raise DatasetError where a query's box reaches out of its picture by more than a pixel; reads headers
    only.

    ``oriented`` takes sizes after the EXIF orientation, for boxes drawn on upright pictures; the benchmarks'
    boxes are drawn on the pixels as stored.
    """
    for i, query in enumerate(truth.queries):
        if query.bbox is None:
            continue
        where = f"{truth.name}: queries[{i}] {query.image!r:.200}"
        try:
            width, height = picture_size(os.path.join(truth.root, query.image), exif=oriented)
        except ImageError as error:
            raise DatasetError(f"{where}, image: cannot be read ({error})") from error
        trouble = box_trouble(query.bbox, (width, height))
        if trouble:
            raise DatasetError(f"{where}, {trouble}")


def box_trouble(box: Box, size: tuple[int, int]) -> str:
    """Why a box cannot be one of a picture of this width and height; "" where it can. A pixel beyond the border is allowed."""
    x1, y1, x2, y2 = box
    width, height = size
    if min(x1, y1) < -_BORDER or x2 > width + _BORDER or y2 > height + _BORDER:
        return f"bbox: {list(box)} reaches out of the picture of {width} x {height}"
    return ""

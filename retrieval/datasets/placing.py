"""Whether a ground truth's pictures are there, and its boxes inside of them."""

from __future__ import annotations

import os

from retrieval.datasets.groundtruth import Box, GroundTruth
from retrieval.errors import DatasetError, ImageError
from retrieval.messages import count_of
from retrieval.pictures.imaging import picture_size

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

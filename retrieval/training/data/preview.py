"""Mined tuples to look at: each query with its positive framed green and its negatives framed red."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

from PIL import Image

from retrieval.errors import ImageError
from retrieval.pictures.imaging import load_picture
from retrieval.training.data.augmentation import augment, require_preset, view_seed
from retrieval.training.data.mining import Mined
from retrieval.training.data.training_set import TrainingSet
from retrieval.views.sheet import SheetCell, SheetRow, contact_sheet

Mark = Literal["positive", "negative"] | None


def preview_sheet(
    data: TrainingSet,
    mined: Mined,
    *,
    count: int = 20,
    preset: str = "none",
    seed: int = 0,
    epoch: int = 0,
    exif: bool = True,
    thumb: int = 160,
) -> Image.Image:
    """A contact sheet of the first ``count`` tuples, negatives hardest first.

    Pictures are shown as the network gets them: changed by the augmentation ``preset`` with the seeds that
    :func:`retrieval.training.data.augmentation.view_seed` gives for ``seed``, ``epoch``, the tuple and the place in it. A picture
    that cannot be read becomes a grey tile that says why. Raises UsageError for an unknown preset.
    """
    require_preset(preset)

    def cell(place: int, view: int, picture: int) -> SheetCell:
        path = data.paths[picture]
        caption = "" if data.two_views else _cluster(data, picture)
        mark: Mark = None if view == 0 else "positive" if view == 1 else "negative"
        shown = path if preset == "none" else _augmented(path, preset, view_seed(seed, epoch, place, view), thumb, exif)
        return SheetCell(shown, caption, path.name, mark)

    rows = []
    for place, found in enumerate(mined.tuples[:count]):
        pictures = [found.query, found.positive, *found.negatives]
        query, *others = (cell(place, view, picture) for view, picture in enumerate(pictures))
        rows.append(SheetRow(query, others))
    title = (
        f"{data.name}: {min(count, len(mined.tuples))} of {len(mined.tuples):,} tuples, "
        f"negatives at a mean distance of {mined.negative_distance:.3f}"
    )
    return contact_sheet(rows, title=title, thumb=thumb, exif=exif)


def _cluster(data: TrainingSet, picture: int) -> str:
    number = int(data.clusters[picture])
    if number < 0:
        return "no class"
    return data.cluster_names[number] if number < len(data.cluster_names) else f"cluster {number}"


def _augmented(path: Path, preset: str, seed: int, thumb: int, exif: bool) -> bytes | Path:
    """The changed picture as the bytes of a file, or the path of one that cannot be read."""
    try:
        array = load_picture(path, size=2 * thumb, exif=exif).array
    except ImageError:
        return path
    stream = io.BytesIO()
    Image.fromarray(augment(array, preset, seed)).save(stream, "PNG")
    return stream.getvalue()

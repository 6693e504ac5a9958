"""Contact sheets: one line of pictures a query, best result first, framed green, red or grey by the ground truth."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from retrieval.errors import ImageError, RetrievalError, UsageError
from retrieval.files.whole import whole_file
from retrieval.pictures.imaging import load_picture
from retrieval.pictures.replacing import mark_of, spare_photos
from retrieval.views.fonts import Lettering
from retrieval.views.heatmap import overlay
from retrieval.views.wording import fitted, printable, wrapped

MAX_SIDE = 65_500  # what a JPEG can hold
MAX_PIXELS = 89_000_000  # what Pillow and most viewers open without complaint
MIN_THUMB, MIN_COLUMNS = 48, 1

_PAGE, _CARD, _QUERY, _LINE = "#f4f5f7", "#ffffff", "#eef3fb", "#dfe2e7"
_INK, _SOFT, _ACCENT, _MISSING = "#1f2328", "#6b7280", "#2f6fde", "#e3e5e9"
_FRAMES = {"positive": "#1f9d55", "negative": "#d64545", "junk": "#9aa1ab"}


@dataclass(frozen=True)
class SheetCell:
    """A picture with what stands below it: ``caption`` (a score) and ``subtitle`` (a file name).

    ``path`` is anything that :func:`retrieval.pictures.imaging.load_picture` reads. ``mark`` colours the frame: green
    for positive, red for negative, grey for junk. ``bbox`` (x1, y1, x2, y2), in pixels of the whole picture,
    is drawn. ``heat``, float64 (rows, columns): terms of the cells of the picture, or of its ``bbox``, laid over it in colours.
    ``label`` stands in place of "query" or the rank.
    """

    path: Any
    caption: str = ""
    subtitle: str = ""
    mark: Literal["positive", "negative", "junk"] | None = None
    bbox: Sequence[float] | None = None
    heat: npt.NDArray[np.float64] | None = None
    label: str = ""


@dataclass(frozen=True)
class SheetRow:
    """A query (or none) and its results in rank order."""

    query: SheetCell | None
    results: Sequence[SheetCell] = field(default_factory=list)


def contact_sheet(
    rows: Sequence[SheetRow], *, title: str = "", columns: int = 10, thumb: int = 160, exif: bool = True
) -> Image.Image:
    """The rows as one RGB picture, ``columns`` results a line (more go on below), thumbnails of ``thumb``
    pixels.

    A picture that cannot be read becomes a grey tile that says why. Queries that would make the sheet too
    tall for a file (65,500 pixels, or 89 million in all) are left out, and the last line says how many.
    Raises UsageError for ``columns`` below 1, ``thumb`` below 48, or both so large that one line of pictures
    is too wide.
    """
    if columns < MIN_COLUMNS or thumb < MIN_THUMB:
        raise UsageError(
            f"a sheet needs at least {MIN_COLUMNS} column and thumbnails of {MIN_THUMB} pixels, "
            f"not {columns} and {thumb}"
        )
    style = _Style(thumb)
    widest = max((len(row.results) for row in rows), default=0)
    layout = _Layout(style, min(columns, max(widest, 1)), any(row.query is not None for row in rows), bool(title))
    if layout.width > MAX_SIDE or layout.width * (layout.top + layout.row(1) + layout.foot) > MAX_PIXELS:
        raise UsageError(f"{columns} columns of {thumb} pixels are too wide for one picture", "Ask for fewer.")
    shown = layout.fitting(rows)
    left_out = len(rows) - len(shown)
    height = layout.top + sum(layout.row(lines) for _, lines in shown)
    height += layout.foot if left_out or not rows else style.gap
    sheet = Image.new("RGB", (layout.width, height), _PAGE)
    pen = _Pen(sheet, style, exif)
    if title:
        pen.text(style.margin, style.margin, layout.width - 2 * style.margin, title, style.title, _INK, "left")
    y = layout.top
    for row, lines in shown:
        _draw_row(pen, layout, row, lines, y)
        y += layout.row(lines)
    if left_out or not rows:
        queries = "query" if left_out == 1 else "queries"
        note = f"and {left_out:,} more {queries}" if rows else "no queries"
        pen.text(style.margin, y, layout.width - 2 * style.margin, note, style.caption, _SOFT, "left")
    return sheet


def check_sheet_path(path: str | os.PathLike[str]) -> str:
    """Whether a sheet can be written there, known before hours are spent: "JPEG" or "PNG", by the suffix.

    Raises UsageError for another suffix, a folder that is missing, and a picture that was not drawn here, which would be lost.
    """
    target = Path(path)
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}.get(target.suffix.lower())
    if kind is None:
        raise UsageError(f"a sheet is written as .jpg or .png, not as {target.suffix or target.name!r}")
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} does not exist", "Create it first.")
    if target.is_dir():
        raise UsageError(f"{target} is a folder")
    spare_photos(target)
    return kind


def save_sheet(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Writes a JPEG (quality 90) or PNG, by the suffix; the file appears complete or not at all.

    Raises UsageError as :func:`check_sheet_path` does, for a folder that cannot be written to, or a picture too
    large for a JPEG; RetrievalError where the disk fails.
    """
    target, kind = Path(path), check_sheet_path(path)
    if kind == "JPEG" and max(image.size) > MAX_SIDE:
        raise UsageError(f"{image.width} x {image.height} pixels are more than a JPEG holds", "Write a .png.")
    options: dict[str, Any] = {"quality": 90, "subsampling": 0} if kind == "JPEG" else {}
    try:
        with whole_file(target) as file:
            image.convert("RGB").save(file, kind, **options, **mark_of(kind))
    except PermissionError as error:
        raise UsageError(f"{target} cannot be written: permission denied") from error
    except OSError as error:
        raise RetrievalError(f"{target} cannot be written: {error.strerror or error}") from error


class _Style:
    """Fonts and distances, all in proportion to the thumbnails."""

    def __init__(self, thumb: int) -> None:
        self.thumb = thumb
        self.frame = max(2, round(thumb / 40))
        self.gap = max(6, thumb // 12)
        self.margin = max(12, thumb // 7)
        self.caption = Lettering(max(10, round(thumb / 11)))
        self.subtitle = Lettering(max(9, round(thumb / 13)))
        self.title = Lettering(max(14, round(thumb / 6.5)))
        self.lines = self.caption.line_height + self.subtitle.line_height
        self.tile = (thumb, thumb + self.gap // 2 + self.lines)


class _Layout:
    """Where things lie: a query's panel to the left, its results beside it in lines of ``columns``."""

    def __init__(self, style: _Style, columns: int, queries: bool, title: bool) -> None:
        self.style, self.columns = style, columns
        self.panel = style.thumb + 2 * style.gap if queries else 0
        results = columns * (style.thumb + style.gap) + style.gap
        self.width = 2 * style.margin + self.panel + results
        self.top = style.margin + (style.title.line_height + style.gap if title else 0)
        self.foot = style.caption.line_height + style.margin

    def row(self, lines: int) -> int:
        """Height of a row, with the space below it."""
        return lines * (self.style.tile[1] + self.style.gap) + 2 * self.style.gap

    def fitting(self, rows: Sequence[SheetRow]) -> list[tuple[SheetRow, int]]:
        """The rows that fit on the sheet, each with its number of lines (of its first results, where too
        many)."""
        room = min(MAX_SIDE, MAX_PIXELS // self.width) - self.top - self.foot
        shown: list[tuple[SheetRow, int]] = []
        for row in rows:
            lines = max(1, -(-len(row.results) // self.columns))
            if not shown:
                lines = min(lines, (room - self.row(0)) // (self.row(1) - self.row(0)))
            if self.row(lines) > room:
                break
            shown.append((row, lines))
            room -= self.row(lines)
        return shown


class _Pen:
    """Draws text and pictures on the sheet; nothing it is given makes it raise."""

    def __init__(self, sheet: Image.Image, style: _Style, exif: bool) -> None:
        self.sheet, self.style, self.exif = sheet, style, exif
        self.draw = ImageDraw.Draw(sheet)

    def text(
        self,
        x: int,
        y: int,
        width: int,
        text: str,
        font: Lettering,
        fill: str,
        align: Literal["left", "right", "center"],
    ) -> int:
        """One line, shortened in its middle where it is too long; returns the width it took."""
        text = fitted(printable(text), width, font.getlength)
        length = round(font.getlength(text))
        x += {"left": 0, "center": (width - length) // 2, "right": width - length}[align]
        font.draw(self.sheet, x, y, text, fill)
        return length

    def picture(self, x: int, y: int, cell: SheetCell) -> None:
        thumb, frame = self.style.thumb, self.style.frame
        try:
            picture = load_picture(cell.path, size=thumb - 2 * (frame + 1), exif=self.exif)
        except Exception as error:  # whatever is wrong with one picture, the sheet is drawn
            reason = error.message if isinstance(error, ImageError) else str(error)
            self._missing(x, y, reason)
            return
        image = Image.fromarray(picture.array)
        if cell.heat is not None:
            _heated(image, cell, (image.width / picture.width, image.height / picture.height))
        left, top = x + (thumb - image.width) // 2, y + (thumb - image.height) // 2
        self.sheet.paste(image, (left, top))
        edge = (left, top, left + image.width - 1, top + image.height - 1)
        if cell.mark in _FRAMES:
            away = frame + 1  # a white line between the frame and the picture
            x1, y1, x2, y2 = edge
            around = (x1 - away, y1 - away, x2 + away, y2 + away)
            self.draw.rectangle(around, outline=_FRAMES[cell.mark], width=frame)
        if cell.bbox is not None:
            self._box(cell.bbox, (left, top), image.width / picture.width, image.height / picture.height, edge)

    def _box(
        self, bbox: Sequence[float], corner: tuple[int, int], sx: float, sy: float, edge: tuple[int, int, int, int]
    ) -> None:
        try:
            x1, y1, x2, y2 = (float(v) for v in bbox)
            inside = (
                max(edge[0], round(corner[0] + x1 * sx)),
                max(edge[1], round(corner[1] + y1 * sy)),
                min(edge[2], round(corner[0] + x2 * sx)),
                min(edge[3], round(corner[1] + y2 * sy)),
            )
        except (TypeError, ValueError, OverflowError):
            return
        if inside[0] < inside[2] and inside[1] < inside[3]:
            # White beside blue: seen on any picture.
            self.draw.rectangle(inside, outline="white", width=max(2, self.style.frame // 2) + 2)
            self.draw.rectangle(inside, outline=_ACCENT, width=max(2, self.style.frame // 2))

    def _missing(self, x: int, y: int, reason: str) -> None:
        thumb, font = self.style.thumb, self.style.subtitle
        self.draw.rectangle((x, y, x + thumb - 1, y + thumb - 1), fill=_MISSING)
        step = font.line_height
        lines = ["cannot be read", *wrapped(printable(reason), thumb - 2 * self.style.gap, font.getlength)]
        lines = lines[: max(1, (thumb - self.style.gap) // step)]
        top = y + (thumb - len(lines) * step) // 2
        for index, line in enumerate(lines):
            colour = _INK if index == 0 else _SOFT
            self.text(x + self.style.gap, top + index * step, thumb - 2 * self.style.gap, line, font, colour, "center")

    def cell(self, x: int, y: int, cell: SheetCell, label: str, colour: str) -> None:
        """A picture with its two lines: ``label`` (the rank) and caption, then the subtitle."""
        style = self.style
        self.picture(x, y, cell)
        below = y + style.thumb + style.gap // 2
        taken = self.text(x, below, style.thumb // 2, label, style.caption, colour, "left")
        rest = style.thumb - taken - style.gap
        self.text(x + taken + style.gap, below, rest, cell.caption, style.caption, _INK, "right")
        below += style.caption.line_height
        self.text(x, below, style.thumb, cell.subtitle, style.subtitle, _SOFT, "left")


def _heated(image: Image.Image, cell: SheetCell, scale: tuple[float, float]) -> None:
    """Lay the cells' terms over the picture, or over its box, whose sides are in pixels of the whole picture."""
    assert cell.heat is not None
    part = (0, 0, image.width, image.height)
    if cell.bbox is not None:
        x1, y1, x2, y2 = (round(float(side) * scale[i % 2]) for i, side in enumerate(cell.bbox))
        part = (max(0, x1), max(0, y1), min(image.width, x2), min(image.height, y2))
    if part[0] < part[2] and part[1] < part[3]:
        image.paste(overlay(np.asarray(image.crop(part)), cell.heat), part[:2])


def _draw_row(pen: _Pen, layout: _Layout, row: SheetRow, lines: int, y: int) -> None:
    style, draw = layout.style, pen.draw
    x, bottom, right = style.margin, y + layout.row(lines) - style.gap, layout.width - style.margin
    draw.rectangle((x, y, right - 1, bottom - 1), fill=_CARD, outline=_LINE)
    if layout.panel:
        draw.rectangle((x, y, x + layout.panel - 1, bottom - 1), fill=_QUERY, outline=_LINE)
    if row.query is not None:
        pen.cell(x + style.gap, y + style.gap, row.query, row.query.label or "query", _ACCENT)
    x += layout.panel + style.gap
    y += style.gap
    step = (style.tile[0] + style.gap, style.tile[1] + style.gap)
    shown = row.results[: lines * layout.columns]
    hidden = len(row.results) - len(shown)
    if hidden:  # the last place tells of those that have none
        shown, hidden = shown[:-1], hidden + 1
    for index, result in enumerate(shown):
        down, along = divmod(index, layout.columns)
        pen.cell(x + along * step[0], y + down * step[1], result, result.label or str(index + 1), _SOFT)
    if hidden or not shown:
        down, along = divmod(len(shown), layout.columns)
        note = f"and {hidden:,} more" if hidden else "no results"
        pen.text(x + along * step[0], y + down * step[1], style.thumb, note, style.caption, _SOFT, "left")

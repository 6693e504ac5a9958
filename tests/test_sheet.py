"""Contact sheets, looked at pixel by pixel: pictures of one colour are found again where they should lie."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor, ImageFont

from retrieval.errors import RetrievalError, UsageError
from retrieval.views import sheet as module
from retrieval.views.heatmap import overlay
from retrieval.views.sheet import SheetCell, SheetRow, contact_sheet, save_sheet
from retrieval.views.wording import fitted

COLOURS = [(10, 200, 30), (200, 10, 150), (20, 30, 220), (240, 160, 10), (0, 180, 200), (120, 60, 10), (90, 0, 90)]
GREEN, RED, GREY = (ImageColor.getrgb(colour) for colour in module._FRAMES.values())


def plain(colour: tuple[int, int, int], width: int = 300, height: int = 200, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG", **options)
    return buffer.getvalue()


def where(sheet: Image.Image, colour: tuple[int, ...]) -> tuple[int, int, int, int]:
    """First and last column and row (left, top, right, bottom) that hold the colour."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    assert len(rows), f"{colour} is not on the sheet"
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


def holds(sheet: Image.Image, colour: tuple[int, ...]) -> bool:
    return bool((np.asarray(sheet) == colour).all(axis=2).any())


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that is asked for on a sheet."""
    texts: list[str] = []
    original = module._Pen.text

    def text(self: Any, x: int, y: int, width: int, text: str, *rest: Any) -> int:
        texts.append(text)
        return original(self, x, y, width, text, *rest)

    monkeypatch.setattr(module._Pen, "text", text)
    return texts


def test_pictures_lie_in_rank_order_beside_their_query() -> None:
    query, *results = (SheetCell(plain(colour)) for colour in COLOURS[:6])
    sheet = contact_sheet([SheetRow(query, results)], columns=3, thumb=90)
    places = [where(sheet, colour) for colour in COLOURS[:6]]
    lefts, tops = [place[0] for place in places], [place[1] for place in places]
    assert lefts[0] < lefts[1] < lefts[2] < lefts[3]
    assert (lefts[4], lefts[5]) == (lefts[1], lefts[2])
    assert tops[0] == tops[1] == tops[2] == tops[3] < tops[4] == tops[5]
    for left, top, right, bottom in places:  # 3 : 2, close to the size asked for
        assert 80 <= right - left + 1 <= 90
        assert abs((bottom - top + 1) * 1.5 - (right - left + 1)) <= 2
    assert sheet.mode == "RGB"


def test_rows_lie_below_each_other_and_without_queries_there_is_no_place_for_them() -> None:
    rows = [SheetRow(SheetCell(plain(COLOURS[index])), [SheetCell(plain(COLOURS[index + 3]))]) for index in range(3)]
    sheet = contact_sheet(rows, thumb=80)
    tops = [where(sheet, colour)[1] for colour in COLOURS[:3]]
    assert tops == [where(sheet, colour)[1] for colour in COLOURS[3:6]]
    assert np.diff(tops).min() > 80
    narrow = contact_sheet([SheetRow(None, row.results) for row in rows], thumb=80)
    assert narrow.width < sheet.width - 80
    assert where(narrow, COLOURS[3])[0] < where(sheet, COLOURS[3])[0]


def test_frames_tell_positives_negatives_and_junk() -> None:
    marks: list[Any] = ["positive", "negative", "junk", None]
    cells = [SheetCell(plain(colour), mark=mark) for colour, mark in zip(COLOURS, marks, strict=False)]
    sheet = contact_sheet([SheetRow(None, cells)], thumb=120)
    for colour, frame in zip(COLOURS, (GREEN, RED, GREY), strict=False):
        inner, outer = where(sheet, colour), where(sheet, frame)
        assert all(2 <= a - b <= 6 for a, b in zip(inner[:2], outer[:2], strict=True))
        assert all(2 <= b - a <= 6 for a, b in zip(inner[2:], outer[2:], strict=True))
        for corner in ((outer[0], outer[1]), (outer[2], outer[3])):
            assert sheet.getpixel(corner) == frame
    left, top, right, bottom = where(sheet, COLOURS[3])
    around = np.asarray(sheet)[top - 6 : bottom + 7, left - 6 : right + 7]
    assert {tuple(pixel) for pixel in around.reshape(-1, 3)} == {COLOURS[3], (255, 255, 255)}


def test_the_box_lies_where_it_lies_in_the_picture() -> None:
    blue = ImageColor.getrgb(module._ACCENT)
    cell = SheetCell(plain(COLOURS[3], 400, 200), bbox=(100, 50, 300, 150))
    sheet = contact_sheet([SheetRow(None, [cell])], thumb=200)
    assert holds(sheet, blue)
    left, top, right, bottom = where(sheet, COLOURS[3])
    width, height = right - left + 1, bottom - top + 1
    box = where(sheet, blue)
    want = (left + width / 4, top + height / 4, left + 3 * width / 4, top + 3 * height / 4)
    assert np.abs(np.subtract(box, want)).max() <= 1.5
    wild = SheetCell(plain(COLOURS[3], 400, 200), bbox=(-1e9, -5, 1e9, 500))
    assert where(contact_sheet([SheetRow(None, [wild])], thumb=200), blue) == (left, top, right, bottom)
    for bad in ((1, 2), (5, 5, 5, 5), (float("nan"),) * 4, "abcd", (300, 50, 100, 150), (900, 900, 950, 950)):
        odd = SheetCell(plain(COLOURS[3]), bbox=bad)  # type: ignore[arg-type]
        assert not holds(contact_sheet([SheetRow(None, [odd])]), blue)


def test_orientation_is_applied_or_not() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    rows = [SheetRow(None, [SheetCell(plain(COLOURS[0], 300, 100, exif=exif))])]
    for upright, tall in ((True, True), (False, False)):
        left, top, right, bottom = where(contact_sheet(rows, exif=upright), COLOURS[0])
        assert (bottom - top > right - left) is tall


def test_small_pictures_are_not_enlarged() -> None:
    left, top, right, bottom = where(contact_sheet([SheetRow(None, [SheetCell(plain(COLOURS[0], 9, 7))])]), COLOURS[0])
    assert (right - left + 1, bottom - top + 1) == (9, 7)


def test_texts(written: list[str]) -> None:
    cells = [SheetCell(plain(COLOURS[0]), f"0.{index}", f"{index}.jpg") for index in (9, 8, 7)]
    query = SheetCell(plain(COLOURS[1]), subtitle="asked.jpg")
    contact_sheet([SheetRow(query, cells), SheetRow(query, [])], title="A title", columns=2)
    for text in ("A title", "asked.jpg", "1", "2", "3", "0.9", "0.8", "0.7", "9.jpg", "8.jpg", "7.jpg", "no results"):
        assert text in written
    assert written.index("1") < written.index("2") < written.index("3")


def test_a_label_stands_in_place_of_query_and_rank(written: list[str]) -> None:
    best = SheetCell(plain(COLOURS[1]), "640x480", label="best")
    contact_sheet([SheetRow(best, [SheetCell(plain(COLOURS[0]), "0.93 4000x3000", label="copy")])])
    for text in ("best", "640x480", "copy", "0.93 4000x3000"):
        assert text in written
    assert "query" not in written
    assert "1" not in written


def test_unreadable_pictures_become_tiles_and_the_rest_is_drawn(tmp_path: Path, written: list[str]) -> None:
    os.mkfifo(tmp_path / "fifo.jpg")
    bad = [tmp_path / "absent.jpg", tmp_path, tmp_path / "fifo.jpg", b"", b"text", plain(COLOURS[0])[:60], None, 7]
    cells = [SheetCell(path, "0.5", "name", "negative") for path in bad]
    sheet = contact_sheet([SheetRow(SheetCell(tmp_path / "no"), [*cells, SheetCell(plain(COLOURS[1]))])])
    assert holds(sheet, COLOURS[1])
    assert written.count("cannot be read") == len(bad) + 1
    words = " ".join(written)
    for reason in ("No such file or directory", "a directory,", "not a regular file", "empty file", "truncated:"):
        assert reason in words
    tile = where(sheet, ImageColor.getrgb(module._MISSING))
    assert tile[2] - tile[0] > 8 * 160


NAMES = [
    "x" * 5000,
    "two\nlines\tand\ra\0bell\a",
    os.fsdecode(b"caf\xe9.jpg"),
    "картина 名画 صورة 🖼️.jpg",
    "\u202egpj.exe",
    "e\u0301" * 300,
    "",
]


@pytest.mark.parametrize("free_type", [True, False])
def test_any_name_can_be_written(free_type: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not free_type:  # the one font of a Pillow that was built without it
        load_default = ImageFont.load_default_imagefont

        def refuse(size: float | None = None) -> Any:
            if size is not None:
                raise ImportError("The _imagingft C module is not installed")
            return load_default()

        monkeypatch.setattr(ImageFont, "load_default", refuse)
    cells = [SheetCell(plain(COLOURS[0]), name, name) for name in NAMES]
    for title in NAMES:
        contact_sheet([SheetRow(SheetCell(b"", title, title), cells)], title=title, thumb=60)


@given(st.text("abcXYZ_1", max_size=60), st.integers(0, 40))
def test_long_names_lose_their_middle(text: str, width: int) -> None:
    short = fitted(text, width, len)
    if len(text) <= width:
        assert short == text
    elif width < 3:
        assert short == ""
    else:
        head, _, tail = short.partition("...")
        assert len(short) == width
        assert text.startswith(head)
        assert text.endswith(tail)
        assert abs(len(head) - (width - 3) / 2) <= 0.5


def test_a_long_name_stays_inside_its_tile() -> None:
    soft = ImageColor.getrgb(module._SOFT)
    cell = SheetCell(plain(COLOURS[0], 300, 300), subtitle="a very long name indeed " * 20 + ".jpg")
    sheet = contact_sheet([SheetRow(None, [cell])], thumb=100)
    left, _, right, bottom = where(sheet, COLOURS[0])
    inks = (np.abs(np.asarray(sheet).astype(int) - soft) < 12).all(axis=2)
    columns = np.nonzero(inks[bottom + 1 :].any(axis=0))[0]
    assert left - 6 <= columns.min()
    assert columns.max() <= right + 6


@pytest.mark.parametrize("limit", ["MAX_SIDE", "MAX_PIXELS"])
def test_too_many_queries_end_in_a_note(limit: str, written: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [SheetRow(SheetCell(plain(COLOURS[index % 7], 30, 20)), [SheetCell(b"")]) for index in range(40)]
    full = contact_sheet(rows, thumb=60)
    assert not any("more" in text for text in written)
    monkeypatch.setattr(module, limit, 1000 if limit == "MAX_SIDE" else 1000 * full.width)
    written.clear()
    sheet = contact_sheet(rows, thumb=60)
    assert 700 < sheet.height <= 1000
    (note,) = (text for text in written if "more" in text)
    drawn = written.count("query")
    assert note == f"and {40 - drawn} more queries"
    assert 3 < drawn < 40


def test_a_query_with_too_many_results_shows_the_first(written: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SIDE", 1000)
    results = [SheetCell(plain(COLOURS[0], 6, 4)) for _ in range(200)]
    sheet = contact_sheet([SheetRow(None, results)], columns=4, thumb=60)
    assert sheet.height <= 1000
    shown = max(int(text) for text in written if text.isdigit())
    assert f"and {200 - shown} more" in written
    assert shown % 4 == 3  # the note takes the last place


def test_nothing_to_show(written: list[str]) -> None:
    sheet = contact_sheet([], title="Nothing")
    assert "no queries" in written
    assert min(sheet.size) > 50


@pytest.mark.parametrize(
    "options", [{"columns": 0}, {"thumb": 10}, {"thumb": -5}, {"columns": 900, "thumb": 160}, {"thumb": 40_000}]
)
def test_impossible_sheets(options: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        contact_sheet([SheetRow(None, [SheetCell(b"")] * 900)], **options)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a b.png", "PNG")])
def test_sheets_are_written_by_suffix(name: str, kind: str, tmp_path: Path) -> None:
    sheet = contact_sheet([SheetRow(None, [SheetCell(plain(COLOURS[0]))])])
    save_sheet(sheet, tmp_path / name)
    save_sheet(sheet, str(tmp_path / name))  # again, over the first
    assert os.listdir(tmp_path) == [name]
    with Image.open(tmp_path / name) as read:
        assert read.format == kind
        difference = np.abs(np.asarray(read).astype(int) - np.asarray(sheet))
        assert difference.mean() < (1 if kind == "JPEG" else 1e-9)


def test_sheets_that_cannot_be_written(tmp_path: Path) -> None:
    sheet = Image.new("RGB", (8, 8))
    (tmp_path / "folder.png").mkdir()
    for path, text in {
        tmp_path / "a.gif": ".gif",
        tmp_path / "a": "not as 'a'",
        tmp_path / "none" / "a.png": "does not exist",
        tmp_path / "folder.png": "is a folder",
    }.items():
        with pytest.raises(UsageError, match=text):
            save_sheet(sheet, path)
    with pytest.raises(UsageError, match="JPEG"):
        save_sheet(Image.new("RGB", (1, 65_600)), tmp_path / "a.jpg")
    assert os.listdir(tmp_path) == ["folder.png"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OSError(28, "No space left on device"), RetrievalError), (PermissionError(13, "no"), UsageError)],
)
def test_a_failed_write_leaves_the_old_file(
    error: OSError, kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sheet.png"
    path.write_bytes(b"the old one")

    def save(self: Image.Image, target: Any, *_: Any, **__: Any) -> None:
        Path(target).write_bytes(b"half")
        raise error

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(kind, match="cannot be written"):
        save_sheet(Image.new("RGB", (8, 8)), path)
    assert path.read_bytes() == b"the old one"
    assert os.listdir(tmp_path) == ["sheet.png"]


def test_sheets_need_nothing_heavy() -> None:
    code = (
        "import sys, retrieval.views.sheet\n"
        "print(sorted({'torch', 'matplotlib', 'cv2', 'scipy', 'faiss', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.realdata
def test_a_sheet_of_paintings(shared_data: Path) -> None:
    paths = sorted((shared_data / "paintings" / "gallery").glob("*.jpg"))[:11]
    cells = [SheetCell(path, "0.9", path.name, "positive") for path in paths]
    sheet = contact_sheet([SheetRow(cells[0], cells[1:])], title="Paintings")
    assert sheet.width > 11 * 160
    frame = (np.asarray(sheet) == GREEN).all(axis=2)
    assert frame.sum() > 11 * 4 * 60


def test_heat_lies_over_the_picture_or_its_box() -> None:
    """Grey pictures: warm on the hot half, dark on the other, and plain outside of the box."""
    grey = np.full((200, 300, 3), 128, np.uint8)
    cell = plain((128, 128, 128))
    heat = np.array([[1.0, 0.0]])
    plainly = contact_sheet([SheetRow(SheetCell(cell), [SheetCell(cell)])])
    hot = contact_sheet([SheetRow(SheetCell(cell, bbox=(150, 0, 300, 100)), [SheetCell(cell, heat=heat)])])
    boxed = contact_sheet([SheetRow(SheetCell(cell, bbox=(150, 0, 300, 100), heat=heat), [SheetCell(cell, heat=heat)])])
    changed = np.asarray(hot) != np.asarray(boxed)
    rows, columns = np.nonzero(changed.any(axis=2))
    query = where(plainly, (128, 128, 128))  # of both pictures: the query is the left one
    left, top = query[0], query[1]
    width = (columns.max() - columns.min() + 1, rows.max() - rows.min() + 1)
    thumb = (154, 103)
    assert columns.min() >= left + thumb[0] // 2 - 2
    assert rows.max() <= top + thumb[1] // 2 + 2
    assert width[0] >= thumb[0] // 2 - 14  # but for the line around the box
    expected = np.asarray(overlay(grey, heat), int)
    warm, dark = expected[100, 20], expected[100, 280]
    assert warm[0] > 180 > dark[0]
    pixels = np.asarray(hot, int)
    assert (np.abs(pixels - warm).sum(axis=2) < 12).any()
    assert (np.abs(pixels - dark).sum(axis=2) < 12).any()

"""Every script on a contact sheet: a font that has the letters, or their code points; never boxes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFont, features

from retrieval.views import fonts
from retrieval.views.fonts import Face, Lettering, runs

pytestmark = pytest.mark.skipif(not features.check("freetype2"), reason="this Pillow was built without FreeType")
CACHES = (fonts._face_for, fonts._emoji_face, fonts._in_folders, fonts._face, runs)


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    def clear() -> None:
        fonts._FOUND.clear()
        for cache in CACHES:
            cache.cache_clear()

    clear()
    yield
    clear()


@pytest.fixture
def no_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine on which no font is installed."""
    monkeypatch.setattr(fonts, "_by_fontconfig", lambda char: [])


def drawn(text: str, size: int = 24) -> np.ndarray:
    sheet = Image.new("RGB", (700, 60), "white")
    Lettering(size).draw(sheet, 5, 5, text, "black")
    return np.asarray(sheet)


def made_font(path: Path, chars: str) -> Path:
    """A font whose letters are squares of full height, each somewhat wider than the one before."""
    from fontTools.fontBuilder import FontBuilder
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    names = {ord(char): f"g{index}" for index, char in enumerate(chars)}
    glyphs, metrics = {}, {}
    for index, name in enumerate([".notdef", *names.values()]):
        pen = TTGlyphPen(None)
        width = 500 + 100 * index
        for step, point in enumerate([(0, 0), (0, 800), (width, 800), (width, 0)]):
            (pen.lineTo if step else pen.moveTo)(point)
        pen.closePath()
        glyphs[name], metrics[name] = pen.glyph(), (width + 50, 0)
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    builder.setupGlyf(glyphs)
    builder.setupHorizontalMetrics(metrics)
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Made", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.mark.parametrize("text", ["café ŁÓDŹ ß.jpg", "картина", "Ελληνικά", "صورة عربي 12.jpg", "שלום", "→ 😀"])
def test_many_scripts_need_no_font_of_the_system(text: str, no_system: None) -> None:
    parts = runs(text)
    assert "".join(part for _, part in parts) == text
    for face, part in parts:
        assert all(face.has(char) for char in part)
    missing = Image.new("RGB", (700, 60), "white")
    ((face, _), *_) = parts
    font, _ = face.at(24)
    Lettering(24)._paste(
        missing, 5, 30, "\uf8ff" * len(text), font, 1
    )  # a private letter: the box that stands for none
    assert not np.array_equal(drawn(text), np.asarray(missing))


def test_letters_that_no_font_has_are_written_as_code_points(no_system: None) -> None:
    assert "".join(part for _, part in runs("北京 a.jpg")) == r"\u5317\u4eac a.jpg"
    assert "".join(part for _, part in runs("\U0001f5bc\ufe0f")).startswith(r"\U0001f5bc")
    assert not np.array_equal(drawn("北京"), drawn("東京"))
    assert np.array_equal(drawn("北"), drawn(r"\u5317"))


@pytest.mark.parametrize("fontconfig", [True, False])
def test_a_font_of_the_system_is_taken_where_it_has_the_letter(
    fontconfig: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = made_font(tmp_path / "has-regular.ttf", "北京")
    other = made_font(tmp_path / "has-not.ttf", "X")
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    listed = [(str(path), 0) for path in (broken, other, wanted)]
    monkeypatch.setattr(fonts, "_by_fontconfig", lambda char: listed if fontconfig else None)
    if not fontconfig:
        monkeypatch.setattr(fonts, "_OTHER_FOLDERS", (str(tmp_path),))
        monkeypatch.setattr(fonts, "_FOLDERS", {})
    parts = runs("a 北京 b.jpg")
    assert [part for _, part in parts] == ["a ", "北京", " b.jpg"]
    assert parts[1][0].source == str(wanted)
    dark = (drawn("北京", 40) < 128).all(axis=2)
    rows = np.nonzero(dark.any(axis=1))[0]
    assert rows.max() - rows.min() + 1 == 32  # squares of 0.8 of the size
    assert dark.sum() == pytest.approx(32 * (24 + 28), rel=0.1)  # 0.6 and 0.7 of it wide


def test_a_font_that_leaves_no_trace_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made_font(tmp_path / "empty.ttf", "北")
    monkeypatch.setattr(fonts, "_by_fontconfig", lambda char: [(str(path), 0)])
    monkeypatch.setattr(Face, "shows", lambda self, char: False)
    assert runs("北")[0][1] == r"\u5317"


def test_fonts_that_come_in_one_size_are_brought_to_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made_font(tmp_path / "strike.ttf", "北")
    monkeypatch.setattr(fonts, "_by_fontconfig", lambda char: [(str(path), 0)])
    truetype = ImageFont.truetype

    def one_size(source: Any, size: float, **options: Any) -> Any:
        if source == str(path) and size != 109:
            raise OSError("invalid pixel size")
        return truetype(source, size, **options)

    monkeypatch.setattr(ImageFont, "truetype", one_size)
    ((face, _),) = runs("北")
    assert face.at(40)[1] == pytest.approx(40 / 109)
    assert Lettering(40).getlength("北") == pytest.approx(0.65 * 40, abs=1)
    # It is pasted with its own colours; the made one has those of the pen, white on nothing.
    sheet = Image.new("RGB", (100, 60), "black")
    Lettering(40).draw(sheet, 5, 5, "北", "white")
    rows = np.nonzero((np.asarray(sheet) > 128).any(axis=(1, 2)))[0]
    assert abs(rows.max() - rows.min() + 1 - 32) <= 1


def test_joiners_marks_and_skin_colours_stay_with_their_letter(no_system: None) -> None:
    for text in ("e\u0301a", "a\u200db", "👍🏽", "n\u0303"):
        assert len(runs(text)) == 1


def test_what_fontconfig_says_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "fc-list"
    program.write_text("#!/bin/sh\nprintf '/a/é.ttc\\t65538\\n/a/b.pfb\\t0\\n/c.ttf\\t\\n'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert fonts._by_fontconfig("北") == [("/a/é.ttc", 2), ("/c.ttf", 0)]
    program.write_text("#!/bin/sh\nexit 1\n")
    assert fonts._by_fontconfig("北") is None

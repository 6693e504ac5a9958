"""Text in any script: the first font that has a letter draws it; where none has, its code point is written out.

Pillow's own font, the one that comes with matplotlib, then what the system has installed, found by fontconfig or in the
usual folders. Nothing is downloaded. Right-to-left and joined scripts need Pillow's Raqm, which its wheels bring along.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_STRIKES = (109, 136, 128, 160, 96, 72, 64, 40, 32)  # sizes in which fonts made of pictures come
_MOST_FILES = 400  # looked into for one letter, where fontconfig cannot tell
_FOLDERS = {
    "darwin": ("/System/Library/Fonts", "/Library/Fonts", "~/Library/Fonts"),
    "win32": (r"C:\Windows\Fonts", r"~\AppData\Local\Microsoft\Windows\Fonts"),
}
_OTHER_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
_PICTURES_FROM = 0x1F000  # emoji and their kin: from here on fonts of such are asked first


class Face:
    """One font file at whatever size it is asked for, and which code points it has."""

    def __init__(self, source: str | bytes, index: int = 0) -> None:
        self.source, self.index = source, index
        self._sizes: dict[int, tuple[Any, float]] = {}

    @functools.cached_property
    def letters(self) -> frozenset[int]:
        from fontTools.ttLib import TTFont

        source: Any = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
        with TTFont(source, fontNumber=self.index, lazy=True) as font:
            return frozenset(font.getBestCmap() or ())

    def has(self, char: str) -> bool:
        try:
            return ord(char) in self.letters
        except Exception:  # a font that cannot be read has nothing
            self.letters = frozenset()
            return False

    def shows(self, char: str) -> bool:
        """Whether the letter is there and leaves a trace: some kinds of fonts cannot be drawn."""
        if not self.has(char):
            return False
        try:
            font, _ = self.at(32)
            return font.getmask(char, mode="RGBA").getbbox() is not None
        except Exception:
            return False

    def at(self, size: int) -> tuple[Any, float]:
        """The font, and by what its pixels are to be multiplied: 1, but for fonts that come in a few sizes alone."""
        if size not in self._sizes:
            self._sizes[size] = self._opened(size)
        return self._sizes[size]

    def _opened(self, size: int) -> tuple[Any, float]:
        error: OSError | None = None
        for pixels in (size, *_STRIKES):
            source: Any = io.BytesIO(self.source) if isinstance(self.source, bytes) else self.source
            try:
                return ImageFont.truetype(source, pixels, index=self.index), size / pixels
            except OSError as problem:
                error = problem
        raise error or OSError("no such font")


class Lettering:
    """Draws lines of text ``size`` pixels high. Nothing it is given makes it raise."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._main = _main_font(size)
        top, bottom = self._main.getbbox("Ågjq|")[1::2]
        self.line_height = round(1.25 * (bottom + min(top, 0))) + 1

    def getlength(self, text: str) -> float:
        if not isinstance(self._main, ImageFont.FreeTypeFont):
            return self._main.getlength(_latin(text))
        return sum(self._width(face, part) for face, part in runs(text))

    def draw(self, sheet: Image.Image, x: float, y: float, text: str, fill: str) -> None:
        """The text with its upper left corner at (x, y)."""
        draw = ImageDraw.Draw(sheet)
        if not isinstance(self._main, ImageFont.FreeTypeFont):
            draw.text((x, y), _latin(text), font=self._main, fill=fill)
            return
        baseline = y + self._main.getmetrics()[0]
        for face, part in runs(text):
            font, scale = face.at(self.size)
            if scale == 1:
                draw.text((x, baseline), part, font=font, fill=fill, anchor="ls", embedded_color=True)
            else:
                self._paste(sheet, x, baseline, part, font, scale)
            x += self._width(face, part)

    def _width(self, face: Face, text: str) -> float:
        font, scale = face.at(self.size)
        return float(font.getlength(text)) * scale

    @staticmethod
    def _paste(sheet: Image.Image, x: float, baseline: float, text: str, font: Any, scale: float) -> None:
        """A run of a font of pictures, brought to size."""
        left, top, right, bottom = (round(v) for v in font.getbbox(text, anchor="ls"))
        if right <= left or bottom <= top:
            return
        run = Image.new("RGBA", (right - left, bottom - top))
        ImageDraw.Draw(run).text((-left, -top), text, font=font, anchor="ls", embedded_color=True)
        size = (max(1, round(run.width * scale)), max(1, round(run.height * scale)))
        run = run.resize(size, Image.Resampling.LANCZOS)
        sheet.paste(run, (round(x + left * scale), round(baseline + top * scale)), run)


@functools.lru_cache(4096)
def runs(text: str) -> tuple[tuple[Face, str], ...]:
    """The text in parts, each with the font that draws it; letters that no font has are written as code points."""
    usual = _usual()
    for face in usual:
        if all(face.has(char) or _silent(char) for char in text):
            return ((face, text),) if text else ()
    found: list[tuple[Face, str]] = []
    for char in text:
        last = found[-1][0] if found else None
        goes_on = last is not None and last.has(char) and ord(char) < _PICTURES_FROM
        if goes_on and last not in usual:  # Latin letters after Chinese ones look as they do elsewhere
            goes_on = not any(face.has(char) for face in usual)
        if last is not None and (_silent(char) or goes_on):
            face, char_text = last, char
        else:
            chosen = _face_for(char)
            face, char_text = (chosen, char) if chosen is not None else (usual[0], _escaped(char))
        if face is last:
            found[-1] = (face, found[-1][1] + char_text)
        else:
            found.append((face, char_text))
    return tuple(found)


def _silent(char: str) -> bool:
    """What changes the letter before it and is nothing alone: joiners, variants, marks, skin colours."""
    return unicodedata.category(char) in ("Mn", "Me", "Cf") or "\U0001f3fb" <= char <= "\U0001f3ff"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")


def _latin(text: str) -> str:
    """For Pillow's font of pixels, where there is no FreeType: Latin letters, code points for the others."""
    return "".join(char if char < "\u0100" else _escaped(char) for char in text)


@functools.cache
def _face_for(char: str) -> Face | None:
    first = list(_usual())
    if ord(char) >= _PICTURES_FROM:
        first = [*_found_before(True), *first]
    for face in (*first, *_found_before(False)):
        if face.has(char):
            return face
    for face in _system_faces(char):
        if face.shows(char):
            _FOUND.append(face)
            return face
    return None


_FOUND: list[Face] = []


def _found_before(pictures: bool) -> list[Face]:
    """Fonts of the system that drew a letter already; ``pictures``: those of emoji, the system's first one among them."""
    if not pictures:
        return _FOUND
    face = _emoji_face()
    return [] if face is None else [face]


@functools.cache
def _emoji_face() -> Face | None:
    faces = (face for face in _system_faces("\U0001f5bc") if "emoji" in Path(str(face.source)).name.lower())
    return next((face for face in faces if face.shows("\U0001f5bc")), None)


@functools.cache
def _usual() -> tuple[Face, ...]:
    """Pillow's own font, and DejaVu Sans as matplotlib brings it."""
    faces = []
    main = _main_font(16)
    data = getattr(main, "font_bytes", None)
    if data:
        faces.append(Face(bytes(data)))
    for path in _matplotlib_fonts():
        faces.append(Face(path))
    return tuple(faces)


def _matplotlib_fonts() -> Iterator[str]:
    found = importlib.util.find_spec("matplotlib")  # found, not imported: that takes a second
    for folder in (found.submodule_search_locations or ()) if found else ():
        path = os.path.join(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
        if os.path.isfile(path):
            yield path


def _main_font(size: int) -> Any:
    try:
        return ImageFont.load_default(size=size)
    except (ImportError, OSError):  # a Pillow without FreeType has one small font only
        return ImageFont.load_default()


def _system_faces(char: str) -> Iterator[Face]:
    """Fonts of the system that may have the letter, plain ones first."""
    told = _by_fontconfig(char)
    for path, index in sorted(told if told is not None else _in_folders(), key=_plainness):
        yield _face(path, index)


@functools.cache
def _face(path: str, index: int) -> Face:
    return Face(path, index)


def _plainness(found: tuple[str, int]) -> tuple[bool, bool, bool, str, int]:
    name = os.path.basename(found[0]).lower()
    styled = any(
        word in name for word in ("bold", "italic", "oblique", "light", "thin", "black", "mono", "serif", "cond")
    )
    return styled, "noto" not in name, "regular" not in name, name, found[1]


def _by_fontconfig(char: str) -> list[tuple[str, int]] | None:
    """What ``fc-list`` knows; None where there is no such program."""
    program = shutil.which("fc-list")
    if program is None:
        return None
    command = [program, "--format", "%{file}\t%{index}\n", f":charset={ord(char):x}"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    found = set()
    for line in os.fsdecode(done.stdout).splitlines():
        path, _, index = line.rpartition("\t")
        if path.lower().endswith((".ttf", ".otf", ".ttc", ".otc")):
            found.add((path, (int(index) if index.isdecimal() else 0) & 0xFFFF))
    return sorted(found)


@functools.cache
def _in_folders() -> list[tuple[str, int]]:
    found = []
    for folder in _FOLDERS.get(sys.platform, _OTHER_FOLDERS):
        for path, _, names in os.walk(os.path.expanduser(folder)):
            found += [(os.path.join(path, name), 0) for name in sorted(names)]
    found = [item for item in found if item[0].lower().endswith((".ttf", ".otf", ".ttc", ".otc"))]
    return sorted(found, key=_plainness)[:_MOST_FILES]

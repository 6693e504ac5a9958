"""Files that a photographer would call pictures and that are not read here: which kinds there are, and what would read them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple


class Kind(NamedTuple):
    """``suffixes``: without their dots; ``remedy``: what makes pictures of them."""

    one: str
    many: str
    suffixes: str
    remedy: str


KINDS = (
    Kind(
        "camera raw file",
        "camera raw files",
        "dng cr2 cr3 crw nef nrw arw srf sr2 raf orf rw2 rwl pef srw x3f 3fr fff iiq kdc dcr mrw erf mef mos raw gpr",
        "export them as JPEG or TIFF (darktable, RawTherapee, Lightroom)",
    ),
    Kind("JPEG XL picture", "JPEG XL pictures", "jxl", "djxl or ImageMagick makes PNG or JPEG of them"),
    Kind(
        "film",
        "films",
        "mp4 mov avi mkv m4v webm mpg mpeg wmv flv 3gp mts m2ts mod ogv insv",
        "ffmpeg takes single pictures out of them",
    ),
    Kind(
        "drawing or document",
        "drawings and documents",
        "svg svgz psd psb xcf kra ai eps ps pdf cdr",
        "export them as PNG from their program",
    ),
    Kind(
        "picture of another format",
        "pictures of other formats",
        "exr hdr dds tga pcx ico icns cur jxr wdp hdp ras sgi xbm xpm qoi fits fit pict pct wmf emf flif bpg djvu jp3 jls",
        "ImageMagick makes PNG of them",
    ),
)
_BY_SUFFIX = {f".{name}": kind for kind in KINDS for name in kind.suffixes.split()}


def foreign_suffix(name: str) -> str | None:
    """The suffix (with its dot, in small letters) if it is that of a foreign picture, else None."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if suffix in _BY_SUFFIX and not name.startswith("._") else None


def passed_over(counts: Mapping[str, int]) -> list[str]:
    """A line for each kind: how many, of which suffixes, and what would read them. ``counts``: files by suffix."""
    lines = []
    for kind in KINDS:
        own = {suffix: n for suffix, n in sorted(counts.items()) if n and _BY_SUFFIX.get(suffix) is kind}
        if own:
            total = sum(own.values())
            which = ", ".join(f"{suffix} {n:,}" if len(own) > 1 else suffix for suffix, n in own.items())
            lines.append(f"passed over: {total:,} {kind.one if total == 1 else kind.many} ({which}); {kind.remedy}")
    return lines

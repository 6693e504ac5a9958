"""One self-contained page that shows why pictures matched: no script, nothing from elsewhere, every picture inside."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

from retrieval.views.heatmap import looks, overlay

_SIDE = 512  # pixels of a picture in the page
_POINTS = 60  # lines that are drawn; more hide the pictures
_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--page:#f6f7f9;--card:#fff;--line:#dfe3e8}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaed;--soft:#a3adb8;--page:#15181c;--card:#1f2329;--line:#343a42}}
body{margin:0;padding:24px;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1100px;margin:auto}h1{font-size:22px}h2{font-size:17px;margin:0;overflow-wrap:anywhere}
p{margin:4px 0;color:var(--soft)}
article{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:16px;margin:16px 0}
.pair{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:12px;margin-top:12px}figure{margin:0;overflow-wrap:anywhere}
figure img{width:100%;border-radius:6px;display:block}figcaption{font-size:13px;color:var(--soft);padding-top:4px}
.hot{position:relative;display:block}.hot img+img{position:absolute;inset:0;opacity:0}
.hot:hover img+img,.hot:focus img+img{opacity:1}svg{width:100%;height:auto;margin-top:12px;border-radius:6px}
@media(max-width:640px){body{padding:12px}}
"""


@dataclass(frozen=True)
class ExplainedMatch:
    """A query and an answer: their pictures uint8 (H, W, 3), the terms of their cells (rows, columns), each summing to
    ``cosine``, or None; ``points`` (M, 4) and attentions (heads, rows, columns) as
    :class:`retrieval.gallery.explaining.WhyMatched` has them; ``said``: rank, verdict."""

    query: str
    name: str
    said: str
    cosine: float
    query_picture: npt.NDArray[np.uint8]
    picture: npt.NDArray[np.uint8]
    query_terms: npt.NDArray[np.float64] | None
    terms: npt.NDArray[np.float64] | None
    points: npt.NDArray[np.float64] | None
    query_attention: npt.NDArray[np.float64] | None = None
    attention: npt.NDArray[np.float64] | None = None


def explanation_page(matches: Iterable[ExplainedMatch]) -> str:
    """The page as HTML."""
    matches = list(matches)
    body = "".join(_article(match) for match in matches) or "<p>There is no match to explain.</p>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Why it matched</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';img-src data:;'
        "style-src 'unsafe-inline'\">"
        f"<style>{_STYLE}</style></head><body><main><h1>Why it matched</h1>"
        f"<p>{_said(matches)} Point at a picture, or tap it, to see it plain.</p>"
        f"{body}</main></body></html>\n"
    )


def _said(matches: Sequence[ExplainedMatch]) -> str:
    if matches and all(match.terms is None for match in matches):
        return "This model describes a picture by one token, so the cosine is no sum over places; yellow is where it looks."
    return (
        "The cosine similarity of two descriptors is a sum with a term for each cell of a picture. Yellow cells add most, "
        "violet ones nothing; blue ones take away."
    )


def _article(match: ExplainedMatch) -> str:
    body = ""
    if match.query_terms is not None and match.terms is not None:
        heat = _figure("query", match.query, match.query_picture, match.query_terms)
        body += _pair(heat + _figure("match", match.name, match.picture, match.terms))
    if match.query_attention is not None and match.attention is not None:
        heads = len(match.attention)
        body += (
            f"<p>Where the network looks: the class token's attention in the last block, mean of {heads} heads. It is one "
            "step of many, and no part of the cosine.</p>"
        )
        heat = _figure("query", match.query, match.query_picture, looks(match.query_attention), "attention")
        body += _pair(heat + _figure("match", match.name, match.picture, looks(match.attention), "attention"))
    return (
        f"<article><h2>{escape(match.name)}</h2><p>{escape(match.said)} · cosine {match.cosine:.4f}</p>"
        f"{body}{_lines(match)}</article>"
    )


def _pair(figures: str) -> str:
    return f'<div class="pair">{figures}</div>'


def _figure(
    what: str, name: str, picture: npt.NDArray[np.uint8], terms: npt.NDArray[np.float64], kind: str = "heat-map"
) -> str:
    hot, plain = overlay(picture, terms), Image.fromarray(picture)
    label = f"{escape(what)}: {escape(name)}"
    return (
        f'<figure><span class="hot" tabindex="0"><img alt="{kind.capitalize()} of the {label}" src="{_data(hot)}">'
        f'<img alt="" src="{_data(plain)}"></span>'
        f"<figcaption>{label} ({terms.shape[1]} x {terms.shape[0]} cells)</figcaption></figure>"
    )


def _lines(match: ExplainedMatch) -> str:
    """Both pictures side by side, and a line for each pair of points."""
    if match.points is None:
        return ""
    if not len(match.points):
        return "<p>No local features of the two agree in one arrangement.</p>"
    height, gap = 360.0, 16.0
    first, second = (height * p.shape[1] / p.shape[0] for p in (match.query_picture, match.picture))
    width = first + gap + second
    parts = [
        f'<image href="{_data(Image.fromarray(match.query_picture))}" width="{first:.1f}" height="{height}"/>',
        f'<image href="{_data(Image.fromarray(match.picture))}" x="{first + gap:.1f}" width="{second:.1f}" '
        f'height="{height}"/>',
    ]
    for i, (x1, y1, x2, y2) in enumerate(match.points[:_POINTS].tolist()):
        a, b = (x1 * first, y1 * height), (first + gap + x2 * second, y2 * height)
        colour = f"hsl({(47 * i) % 360} 90% 60%)"
        parts.append(
            f'<g stroke="{colour}" fill="none" stroke-width="1.5"><line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" '
            f'y2="{b[1]:.1f}" opacity=".75"/><circle cx="{a[0]:.1f}" cy="{a[1]:.1f}" r="4"/>'
            f'<circle cx="{b[0]:.1f}" cy="{b[1]:.1f}" r="4"/></g>'
        )
    count = len(match.points)
    return (
        f'<svg viewBox="0 0 {width:.1f} {height}" role="img" aria-label="{count} points that agree">{"".join(parts)}</svg>'
        f"<p>{count} local features of the two agree in one arrangement.</p>"
    )


def _data(image: Image.Image) -> str:
    image = image.copy()
    image.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=82)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"

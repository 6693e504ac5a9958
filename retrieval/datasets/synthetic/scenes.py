"""A street seen by a camera: a house front, its neighbours, what stands before it, the light and the lens."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from retrieval.datasets.synthetic.facades import Facade
from retrieval.datasets.synthetic.ornaments import PALETTES, Rect, dim, greyed
from retrieval.datasets.synthetic.views import View

Point = tuple[float, float]
Quad = tuple[Point, Point, Point, Point]


class Camera:
    """A pinhole camera before the plane of the fronts; coordinates on it in heights of the front, y
    downwards.

    Plain arithmetic on nine numbers: no linear algebra library, whose last bit depends on the processor.
    """

    def __init__(self, view: View, facade: Facade) -> None:
        yaw, pitch, roll = (math.radians(a) for a in (view.yaw, view.pitch, view.roll))
        cy, sy, cp, sp, cr, sr = (f(a) for a in (yaw, pitch, roll) for f in (math.cos, math.sin))
        # Columns of Rz(roll) Rx(pitch) Ry(yaw) that a point (x, y, 0) needs, and the distance along the axis.
        a = (cr * cy - sr * sp * sy, sr * cy + cr * sp * sy, -cp * sy)
        b = (-sr * cp, cr * cp, sp)
        self._h = [a[0], b[0], 0.0, a[1], b[1], 0.0, a[2], b[2], view.distance]
        width = facade.picture.width / facade.picture.height
        corners = self.project((-width / 2, -0.5, width / 2, 0.5))
        if corners is None:
            raise ValueError("the front reaches behind the camera")
        x1, y1, x2, y2 = bounds(corners)
        scale = view.extent / max((x2 - x1) / view.frame[0], (y2 - y1) / view.frame[1])
        left = view.centre[0] * view.frame[0] - scale * (x1 + x2) / 2
        top = view.centre[1] * view.frame[1] - scale * (y1 + y2) / 2
        h = self._h
        self._h = [scale * h[i] + left * h[6 + i] for i in range(3)]
        self._h += [scale * h[3 + i] + top * h[6 + i] for i in range(3)] + h[6:]

    def project(self, rect: Rect) -> Quad | None:
        """Corners in the frame, clockwise from the upper left; None where one lies behind the camera or near
        it."""
        x1, y1, x2, y2 = rect
        h, found = self._h, []
        for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2)):
            depth = h[6] * x + h[7] * y + h[8]
            if depth < 0.2:
                return None
            found.append(((h[0] * x + h[1] * y + h[2]) / depth, (h[3] * x + h[4] * y + h[5]) / depth))
        return found[0], found[1], found[2], found[3]

    def paste(self, canvas: Image.Image, facade: Facade, rect: Rect) -> bool:
        """Draw the front so that it fills ``rect`` on the plane; false where nothing of it is seen."""
        quad = self.project(rect)
        if quad is None:
            return False
        x1, y1, x2, y2 = bounds(quad)
        left, top = max(0, math.floor(x1) - 1), max(0, math.floor(y1) - 1)
        right, bottom = min(canvas.width, math.ceil(x2) + 1), min(canvas.height, math.ceil(y2) + 1)
        if right - left < 2 or bottom - top < 2:
            return False
        # Shrink first: the perspective transform takes single samples and would alias.
        picture, mask = facade.picture, facade.mask
        kx = max(1, int(picture.width / max(1.0, _longer(quad, 0, 1))))
        ky = max(1, int(picture.height / max(1.0, _longer(quad, 1, 2))))
        if (kx, ky) != (1, 1):
            picture, mask = picture.reduce((kx, ky)), mask.reduce((kx, ky))
        # Texture pixel -> plane -> frame, inverted by the adjugate, with the frame's origin at (left, top).
        sx, sy = (rect[2] - rect[0]) / picture.width, (rect[3] - rect[1]) / picture.height
        rows = []
        for r in range(0, 9, 3):
            p, q, s = self._h[r : r + 3]
            rows.append((p * sx, q * sy, p * rect[0] + q * rect[1] + s))
        g, i, j = rows[2]
        a, b, c = (v - left * w for v, w in zip(rows[0], rows[2], strict=True))
        d, e, f = (v - top * w for v, w in zip(rows[1], rows[2], strict=True))
        inverse = (
            e * j - f * i, c * i - b * j, b * f - c * e,
            f * g - d * j, a * j - c * g, c * d - a * f,
            d * i - e * g, b * g - a * i, a * e - b * d,
        )  # fmt: skip
        coefficients = [v / inverse[8] for v in inverse[:8]]
        size = (right - left, bottom - top)
        bicubic, projective = Image.Resampling.BICUBIC, Image.Transform.PERSPECTIVE
        canvas.paste(
            picture.transform(size, projective, coefficients, bicubic),
            (left, top),
            mask.transform(size, projective, coefficients, Image.Resampling.BILINEAR),
        )
        return True


def bounds(points: Sequence[Point]) -> Rect:
    """(x1, y1, x2, y2) around the points."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    return min(xs), min(ys), max(xs), max(ys)


def _longer(quad: Quad, i: int, j: int) -> float:
    """Length of side i-j or of the one across, whichever is longer."""
    return max(math.dist(quad[i], quad[j]), math.dist(quad[(i + 2) % 4], quad[(j + 2) % 4]))


def render(
    facade: Facade, view: View, neighbours: Sequence[Facade], rng: np.random.Generator
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """The picture (RGB), and the box around the part of the front that lies in the frame."""
    width, height = view.frame
    camera = Camera(view, facade)
    half = facade.picture.width / facade.picture.height / 2
    quad = camera.project((-half, -0.5, half, 0.5))
    assert quad is not None  # the camera has seen to it
    canvas = _sky(view.frame, rng)
    _street(canvas, quad, rng)
    for side in (-1, 1):
        edge = half
        for i in rng.integers(len(neighbours), size=3):
            other = neighbours[int(i)]
            tall = float(rng.uniform(0.75, 1.15))
            wide = tall * other.picture.width / other.picture.height
            gap = float(rng.choice((0.01, 0.01, 0.2)))
            near, far = edge + gap, edge + gap + wide
            rect = (near, 0.5 - tall, far, 0.5) if side > 0 else (-far, 0.5 - tall, -near, 0.5)
            if not camera.paste(canvas, other, rect):
                break
            edge = far
    camera.paste(canvas, facade, (-half, -0.5, half, 0.5))
    x1, y1, x2, y2 = bounds(quad)
    seen = max(0.0, x1), max(0.0, y1), min(float(width), x2), min(float(height), y2)
    for _ in range(view.things):
        x = float(rng.uniform(0, width))
        base = min(height * 1.02, max(seen[3], height * 0.5) + float(rng.uniform(0.02, 0.16)) * height)
        _thing(canvas, x, base, float(rng.uniform(0.12, 0.26)) * height, rng)
    if view.hidden > 0:
        _cover(canvas, seen, view.hidden, neighbours, rng)
    box = round(seen[0]), round(seen[1]), round(seen[2]), round(seen[3])
    return _develop(canvas, view, rng), box


def _sky(size: tuple[int, int], rng: np.random.Generator) -> Image.Image:
    tops = ((132, 170, 214), (172, 188, 204), (150, 180, 208))
    top, low = tops[int(rng.integers(len(tops)))], (222, 226, 228)
    column = Image.new("RGB", (1, 2))
    column.putpixel((0, 0), top)
    column.putpixel((0, 1), low)
    canvas = column.resize(size, Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(0, 4))):
        x, y = float(rng.uniform(0, size[0])), float(rng.uniform(0, size[1] * 0.3))
        r = float(rng.uniform(8, 26))
        for k in range(4):
            left = x + k * r * 0.8
            draw.ellipse((left, y - r * 0.4, left + r * 1.6, y + r * 0.5), fill=(236, 238, 240))
    return canvas


def _street(canvas: Image.Image, quad: Quad, rng: np.random.Generator) -> None:
    """Pavement and road below the line on which the fronts stand."""
    (ax, ay), (bx, by) = quad[3], quad[2]
    slope = max(-0.6, min(0.6, (by - ay) / max(bx - ax, 1e-6)))
    width, height = canvas.size
    left, right = ay - slope * ax, ay + slope * (width - ax)
    draw = ImageDraw.Draw(canvas)
    tone = int(rng.integers(108, 138))
    for drop, shade in ((0.0, tone + 36), (0.05, tone - 20), (0.065, tone)):  # pavement, kerb, road
        a, b = left + drop * height, right + drop * height
        draw.polygon([(0, a), (width, b), (width, max(height, b)), (0, max(height, a))], fill=(shade,) * 3)
    for k in range(8):
        x = (k + 0.3) * width / 8
        y = left + (right - left) * x / width + height * 0.16
        draw.line((x, y, x + width * 0.06, y), fill=(tone + 70, tone + 70, tone + 64), width=2)


def _thing(canvas: Image.Image, x: float, base: float, tall: float, rng: np.random.Generator) -> None:
    """A tree, a lamp, a van, somebody, or a stand with a poster, on the ground at ``base``."""
    draw = ImageDraw.Draw(canvas)
    kind = int(rng.integers(5))
    dark = (46, 44, 46)
    colour = greyed(PALETTES[int(rng.integers(len(PALETTES)))][int(rng.integers(3, 6))])
    if kind == 0:
        _tree(canvas, x, base, tall * 2.2, rng)
    elif kind == 1:
        draw.line((x, base, x, base - tall * 2.4), fill=dark, width=max(2, int(tall / 14)))
        bulb = (x - tall / 8, base - tall * 2.55, x + tall / 8, base - tall * 2.3)
        draw.ellipse(bulb, fill=(240, 232, 196), outline=dark)
    elif kind == 2:
        w, r = tall * 2.1, tall * 0.17
        body = (x - w / 2, base - tall, x + w / 2, base - tall * 0.16)
        draw.rounded_rectangle(body, tall * 0.14, fill=colour, outline=dark)
        draw.rectangle((x + w * 0.2, base - tall * 0.86, x + w * 0.42, base - tall * 0.52), fill=(150, 172, 186))
        for wheel in (x - 0.3 * w, x + 0.3 * w):
            draw.ellipse((wheel - r, base - 2 * r, wheel + r, base), fill=dark, outline=(150, 150, 150))
    elif kind == 3:
        w = tall * 0.16
        draw.rectangle((x - w, base - tall * 0.48, x + w, base), fill=dark)
        draw.rounded_rectangle((x - w * 1.3, base - tall * 0.84, x + w * 1.3, base - tall * 0.42), w, fill=colour)
        head = (x - w * 0.9, base - tall * 1.08, x + w * 0.9, base - tall * 0.82)
        draw.ellipse(head, fill=(204, 164, 132))
    else:
        board = (x - tall * 0.3, base - tall * 1.1, x + tall * 0.3, base - tall * 0.2)
        draw.rectangle(board, fill=colour, outline=dark, width=2)
        draw.line((x, base - tall * 0.2, x, base), fill=dark, width=3)


def _tree(canvas: Image.Image, x: float, base: float, tall: float, rng: np.random.Generator) -> None:
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((x - tall * 0.03, base - tall * 0.5, x + tall * 0.03, base), fill=(78, 60, 46))
    for _ in range(46):
        r = tall * float(rng.uniform(0.05, 0.11))
        cx, cy = x + tall * float(rng.normal(0, 0.13)), base - tall * 0.68 + tall * float(rng.normal(0, 0.13))
        tone = int(rng.integers(0, 60))
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=(44 + tone // 2, 74 + tone, 40 + tone // 3))


def _cover(
    canvas: Image.Image, seen: Rect, share: float, neighbours: Sequence[Facade], rng: np.random.Generator
) -> None:
    """Hide about ``share`` of what is seen: a hoarding from one side, a scaffold's sheet, or trees."""
    x1, y1, x2, y2 = seen
    w, h = x2 - x1, y2 - y1
    kind = int(rng.integers(3))
    if w < 4 or h < 4:
        return
    if kind == 2:
        for k in range(2):
            tall = h * (0.45 + share)
            _tree(canvas, x1 + w * float(rng.uniform(0.1 + 0.4 * k, 0.5 + 0.4 * k)), y2 + 0.08 * h, tall, rng)
        return
    if kind == 0:  # a house corner nearer to the camera
        other = neighbours[int(rng.integers(len(neighbours)))].picture
        size = (max(2, int(w * share)), max(2, int(h * 1.1)))
        crop = other.crop((0, other.height // 5, other.width // 2, other.height)).resize(size)
        left = x1 if rng.random() < 0.5 else x2 - size[0]
        canvas.paste(crop, (int(left), int(y2 - size[1] * 0.97)))
        return
    draw = ImageDraw.Draw(canvas)
    low = y1 + h * float(rng.uniform(0.0, 1 - share))
    colour = greyed(PALETTES[int(rng.integers(len(PALETTES)))][int(rng.integers(6))])
    draw.rectangle((x1, low, x2, low + h * share), fill=colour)
    for k in range(1, 8):  # a scaffold's sheet
        draw.line((x1 + w * k / 8, low, x1 + w * k / 8, low + h * share), fill=dim(colour, 0.8), width=2)
    draw.line((x1, low + h * share / 2, x2, low + h * share / 2), fill=dim(colour, 0.7), width=3)


def _develop(canvas: Image.Image, view: View, rng: np.random.Generator) -> Image.Image:
    """Light, lens and sensor."""
    if view.blur > 0.3:  # less is not seen
        canvas = canvas.filter(ImageFilter.GaussianBlur(view.blur))
    ramp = [(i / 255) ** view.gamma * 255 * view.gain for i in range(256)]
    canvas = canvas.point([min(255, max(0, round(v * c))) for c in view.cast for v in ramp])
    if view.shade <= 0 and view.noise <= 0:
        return canvas
    pixels = np.asarray(canvas, np.float32)
    if view.shade > 0:
        corners = Image.fromarray(rng.integers(0, 256, (2, 3), dtype=np.uint8))
        dark = np.asarray(corners.resize(view.frame, Image.Resampling.BICUBIC), np.float32)
        pixels = pixels * (1 - np.float32(view.shade / 255) * dark[..., None])
    if view.noise > 0:
        grain = rng.random((*view.frame[::-1], 3), np.float32) - np.float32(0.5)
        pixels = pixels + grain * np.float32(view.noise * 3.46)  # uniform, of standard deviation `noise`
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def encode(picture: Image.Image, quality: int) -> bytes:
    """The bytes of a JPEG without metadata."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()

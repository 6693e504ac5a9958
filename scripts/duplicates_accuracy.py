"""How well `retrieve duplicates` knows altered copies: photos altered in twelve ways and more, precision and recall by kind.

    python scripts/duplicates_accuracy.py photos/ more/ --count 300 --out copies

The photos and their copies lie in one gallery, together with ``--others`` photos that were not altered. An altered copy is
found when it is in one group with its photo. Precision: of all pictures that copies of a kind share a group with, those
that come from the same photo. Photos of one thing count as different ones; photos that are in the folders twice are
alike before anything is altered, and are left out of the choice by their content and, with ``--same``, by a list of names.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from retrieval.describe.model import load_model
from retrieval.gallery.gallery import Gallery
from retrieval.messages import progress_bar
from retrieval.pictures.imaging import is_picture_name, load_picture
from retrieval.views.fonts import Lettering

Alteration = Callable[[Image.Image, np.random.Generator], Image.Image]


def _sized(image: Image.Image, factor: float) -> Image.Image:
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS)


def _crop(image: Image.Image, rng: np.random.Generator, area: float) -> Image.Image:
    width, height = (round(side * area**0.5) for side in image.size)
    left, top = (int(rng.integers(0, room + 1)) for room in (image.width - width, image.height - height))
    return image.crop((left, top, left + width, top + height))


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(BytesIO(file.getvalue())).convert("RGB")


def _light(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    up, down = rng.uniform(1.2, 1.5), rng.uniform(0.6, 0.8)
    bright, contrast = (up, down) if rng.random() < 0.5 else (down, up)
    return ImageEnhance.Contrast(ImageEnhance.Brightness(image).enhance(bright)).enhance(contrast)


def _border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    colour = tuple(int(v) for v in rng.choice([0, 255]) * np.ones(3)) if rng.random() < 0.5 else _colour(rng)
    return ImageOps.expand(image, max(1, round(rng.uniform(0.05, 0.12) * max(image.size))), colour)


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(v) for v in rng.integers(0, 256, 3))


def _text(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    copy = image.copy()
    letters = Lettering(max(10, image.height // 7))
    for line in ("SAMPLE photo", "www.example.org"):
        y = int(rng.integers(0, max(1, copy.height - letters.line_height)))
        letters.draw(copy, int(rng.integers(0, max(1, copy.width // 4))), y, line, "white" if y % 2 else "black")
    return copy


def _combined(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Smaller, a little cropped, other light, JPEG, with a bar below, as what goes round on the net."""
    small = _light(_crop(_sized(image, 0.6), rng, 0.85), rng)
    bar = Image.new("RGB", (small.width, round(small.height * 1.12)), "white")
    bar.paste(small)
    ImageDraw.Draw(bar).line((4, bar.height - 6, bar.width // 2, bar.height - 6), "black", 2)
    return _jpeg(bar, 45)


KINDS: dict[str, Alteration] = {
    "half the size": lambda image, rng: _sized(image, 0.5),
    "a quarter of the size": lambda image, rng: _sized(image, 0.25),
    "crop, 75 % of the area": lambda image, rng: _crop(image, rng, 0.75),
    "crop, 50 % of the area": lambda image, rng: _crop(image, rng, 0.5),
    "JPEG quality 30": lambda image, rng: _jpeg(image, 30),
    "grey": lambda image, rng: image.convert("L").convert("RGB"),
    "brightness and contrast": _light,
    "border": _border,
    "text over it": _text,
    "turned by 5 degrees": lambda image, rng: image.rotate(5, Image.Resampling.BICUBIC, fillcolor=_colour(rng)),
    "turned by 90 degrees": lambda image, rng: image.transpose(Image.Transpose.ROTATE_90),
    "combined": _combined,
    "mirrored": lambda image, rng: ImageOps.mirror(image),
    "crop, 25 % of the area": lambda image, rng: _crop(image, rng, 0.25),
}
BEYOND = {"mirrored", "crop, 25 % of the area"}  # kinds beside the twelve


def make(folders: list[Path], out: Path, count: int, others: int, seed: int, same: set[str]) -> None:
    """``out/NUMBER/``: a photo and its copies, named by kind; ``out/others/``: photos that were not altered."""
    paths = sorted(path for folder in folders for path in folder.rglob("*") if is_picture_name(path.name))
    rng = np.random.default_rng(seed)
    chosen = [paths[i] for i in rng.permutation(len(paths)) if paths[i].name not in same]
    for number, path in enumerate(chosen[:count]):
        folder = out / f"{number:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray(load_picture(path, size=None).array)
        photo.save(folder / "photo.png")
        for index, (kind, alter) in enumerate(KINDS.items()):
            altered = alter(photo, np.random.default_rng((seed, number, index)))
            altered.save(folder / f"{kind.replace(' ', '_')}.jpg", quality=88)
    (out / "others").mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(chosen[count : count + others]):
        (out / "others" / f"{number:05d}{path.suffix}").write_bytes(path.read_bytes())


def score(groups: Iterable[list[str]], folders: list[str]) -> dict[str, tuple[float, float, int]]:
    """kind -> precision, recall, number of copies; ``groups`` hold paths FOLDER/KIND.jpg."""
    right, seen, found = defaultdict(int), defaultdict(int), defaultdict(int)
    for group in groups:
        homes = [os.path.dirname(path) for path in group]
        for path, home in zip(group, homes, strict=True):
            kind = Path(path).stem.replace("_", " ")
            right[kind] += sum(other == home for other in homes) - 1
            seen[kind] += len(group) - 1
            found[kind] += os.path.join(home, "photo.png") in group
    total = len(folders)
    return {k: (right[k] / seen[k] if seen[k] else 1.0, found[k] / total, total) for k in KINDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=300, help="photos that are altered")
    parser.add_argument("--others", type=int, default=1000, help="photos that are not altered")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--same", type=Path, help="names of photos to leave out, one a line")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--wrong", type=Path, help="write the groups that hold copies of different photos here, as JSON"
    )
    given = parser.parse_args()
    if not given.out.exists():
        same = set(given.same.read_text().split("\n")) if given.same else set()
        make(given.folders, given.out, given.count, given.others, given.seed, same)
    folder = given.out / ".retrieval"
    gallery = (
        Gallery.open(folder) if folder.exists() else Gallery.create(folder, load_model(given.model, size=given.size))
    )
    with gallery:
        with progress_bar("describing", False) as update:
            gallery.index([given.out], progress=update)
        started = time.monotonic()
        groups = [[os.path.relpath(m.path, given.out) for m in g.members] for g in gallery.duplicates().groups]
        seconds = time.monotonic() - started
    folders = sorted(path.name for path in given.out.iterdir() if path.name.isdigit())
    print(f"{len(folders)} photos, {len(gallery)} pictures, {seconds:.0f} s\n")
    print("| kind | precision | recall |\n|---|---|---|")
    results = score(groups, folders)
    for kind, (precision, recall, _) in results.items():
        print(f"| {kind}{' *' if kind in BEYOND else ''} | {precision:.4f} | {recall:.4f} |")
    twelve = [value for kind, value in results.items() if kind not in BEYOND]
    print(f"| mean of the twelve | {np.mean([p for p, *_ in twelve]):.4f} | {np.mean([r for _, r, _ in twelve]):.4f} |")
    wrong = [group for group in groups if len({os.path.dirname(path) for path in group}) > 1 or "others" in group[0]]
    print(f"\n{len(wrong)} groups hold pictures of different photos")
    if given.wrong:
        given.wrong.write_text(json.dumps(wrong, indent=1))


if __name__ == "__main__":
    main()
